# SPDX-License-Identifier: MIT
"""Verbs and files: full disks, missing permissions, links, two writers, any file name.

What goes wrong is one line and exit status 2; inputs are untouched, and the same command completes
once it can.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from commands import Command
from conftest import Run
from forks import no_larger_than, start, without_privileges
from repeats import mostly_slow

from fairseq_layerdrop.checkpoint import load


class Place(NamedTuple):
    """Where a verb's inputs lie, and where its output goes."""

    checkpoint: Path
    data: Path
    out: Path


VERBS: dict[str, Callable[[Place], list[object]]] = {
    "prune": lambda at: ["prune", at.checkpoint, at.out / "small.pt", "--decoder-keep", "0,2"],
    "prune, with dictionaries": lambda at: [
        "prune",
        at.checkpoint,
        at.out / "small.pt",
        "--copy-dicts",
        at.data,
    ],
    "average": lambda at: [
        "average",
        at.checkpoint,
        at.checkpoint.with_name("other.pt"),
        at.out / "mean.pt",
    ],
    "zoo": lambda at: [
        "zoo",
        at.data,
        at.out / "zoo",
        "--path",
        at.checkpoint,
        "--points",
        "4+2 2+2",
    ],
    "sweep": lambda at: [
        "sweep",
        at.data,
        at.out / "rows.jsonl",
        "--path",
        at.checkpoint,
        "--points",
        "4+2 2+2",
    ],
    "search": lambda at: [
        "search",
        at.data,
        at.out / "s.jsonl",
        "--path",
        at.checkpoint,
        "--decoder-depth",
        "2",
    ],
    "importance": lambda at: ["importance", at.data, at.out / "i.jsonl", "--path", at.checkpoint],
    "importance, inside": lambda at: [*VERBS["importance"](at), "--structure", "head"],
    "report": lambda at: ["report", at.checkpoint.with_name("rows.jsonl"), at.out / "report"],
}
MORE = {
    "zoo": ["--metrics", "loss"],
    "sweep": ["--metrics", "loss"],
    "importance": ["--measure", "leave-one-out"],
}
every_verb = pytest.mark.parametrize("verb", mostly_slow(VERBS, "prune", "sweep", "zoo"))


def arguments(verb: str, at: Place) -> list[str]:
    return [str(word) for word in (*VERBS[verb](at), *MORE.get(verb, []))]


@pytest.fixture
def place(trained: Run, data: Path, tmp_path: Path) -> Place:
    """Inputs in one folder, an empty one for outputs."""
    return placed(trained, data, tmp_path, "in", "full.pt", "out")


def placed(trained: Run, data: Path, folder: Path, inputs: str, checkpoint: str, out: str) -> Place:
    at = Place(folder / inputs / checkpoint, folder / inputs / f"{inputs} bin", folder / out)
    at.checkpoint.parent.mkdir()
    at.out.mkdir()
    shutil.copy(trained.last, at.checkpoint)
    shutil.copytree(data, at.data)
    other = load(at.checkpoint)
    torch.save(
        {"model": {key: tensor + 1 for key, tensor in other["model"].items()}, "cfg": other["cfg"]},
        at.checkpoint.with_name("other.pt"),
    )
    row = '{"curve": "a", "encoder_layers": 4, "decoder_layers": 2, "loss": 3.0}\n'
    at.checkpoint.with_name("rows.jsonl").write_text(row)
    return at


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def in_child(
    words: list[str], log: Path, prepare: Callable[[], object] | None = None
) -> tuple[int | None, list[str]]:
    """Run the command in a process of its own: its status, and its lines on stderr."""
    child = start(words, log=log, prepare=prepare)
    child.join()
    return child.exitcode, log.read_text().splitlines()


def completed(verb: str, at: Place, command: Command) -> dict[str, bytes]:
    """Run the verb; what it wrote, in which nothing is left of anything that failed."""
    status, _, error = command(*arguments(verb, at))
    assert status == 0, error
    written = contents(at.out)
    assert written and not [name for name in written if ".tmp" in name or "/." in f"/{name}"]
    return written


def assert_refused(status: int | None, lines: list[str], *, names: str = "") -> None:
    said = [line for line in lines if line.startswith("fairseq-layerdrop ")]
    assert status == 2, lines
    assert len(said) == 1 and lines[-1] == said[0], lines
    assert names in said[0]
    assert not any("Traceback" in line or "Exception" in line for line in lines)


# A full disk


@every_verb
def test_a_full_disk_is_one_line_and_the_verb_completes_when_there_is_room(
    verb: str, place: Place, tmp_path: Path, command: Command
) -> None:
    before = contents(place.checkpoint.parent)
    status, lines = in_child(arguments(verb, place), tmp_path / "log", no_larger_than(600))
    assert_refused(status, lines, names="File too large")
    assert str(place.out) in lines[-1]
    assert [
        name
        for name in contents(place.out)
        if name.endswith((".pt", ".tmp", ".md", "manifest.json"))
    ] == []
    assert contents(place.checkpoint.parent) == before
    completed(verb, place, command)
    assert contents(place.checkpoint.parent) == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB, where this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this user may not mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("verb", ["prune", "zoo", "sweep"])
def test_a_file_system_without_room_is_one_line(
    verb: str, place: Place, small_disk: Path, tmp_path: Path
) -> None:
    at = place._replace(out=small_disk / "out")
    at.out.mkdir()
    free = os.statvfs(small_disk)
    (small_disk / "fill").write_bytes(bytes(free.f_bavail * free.f_frsize))
    status, lines = in_child(arguments(verb, at), tmp_path / "log")
    assert_refused(status, lines, names=f"{at.out}")
    assert_refused(status, lines, names="No space left on device")
    assert not any(contents(at.out).values())


# A folder that may not be written


@pytest.mark.skipif(sys.platform != "linux", reason="capabilities are Linux's")
@every_verb
def test_a_folder_that_may_not_be_written_is_one_line(
    verb: str, place: Place, tmp_path: Path
) -> None:
    place.out.chmod(0o500)
    try:
        status, lines = in_child(arguments(verb, place), tmp_path / "log", without_privileges)
    finally:
        place.out.chmod(0o700)
    assert_refused(status, lines, names=str(place.out))
    assert contents(place.out) == {}


# Two writers


LOCKED = {
    "prune": ".small.pt.tmp",
    "average": ".mean.pt.tmp",
    "zoo": "zoo/rows.jsonl",
    "sweep": "rows.jsonl",
}
LOCKED |= {"search": "s.jsonl", "importance": "i.jsonl"}


@pytest.mark.parametrize("verb", LOCKED)
def test_a_second_writer_is_one_line_and_the_first_one_s_file_is_left(
    verb: str, place: Place, command: Command
) -> None:
    file = place.out / LOCKED[verb]
    file.parent.mkdir(exist_ok=True)
    with file.open("ab") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        status, printed, error = command(*arguments(verb, place))
        assert_refused(status, error.splitlines(), names="another process is")
        assert not printed
        assert set(contents(place.out)) <= {LOCKED[verb], "zoo/rows.units.jsonl"}
        file.unlink()
    completed(verb, place, command)


# Links, other file systems, names of any letters


@pytest.mark.parametrize("verb", ["prune", "zoo", "sweep", "report"])
def test_links_lead_to_inputs_and_outputs(
    verb: str, place: Place, tmp_path: Path, command: Command
) -> None:
    before = contents(place.checkpoint.parent)
    links = tmp_path / "links"
    links.mkdir()
    for path in (*place.checkpoint.parent.iterdir(), place.out):
        (links / path.name).symlink_to(path)
    at = Place(links / "full.pt", links / "in bin", links / "out")
    written = completed(verb, at, command)
    assert contents(place.out) == written, "the folder that the link leads to has it"
    assert contents(place.checkpoint.parent) == before


@pytest.mark.parametrize(("verb", "name"), [("prune", "small.pt"), ("average", "mean.pt")])
def test_a_link_in_the_output_s_place_is_replaced_itself_and_only_if_asked(
    verb: str, name: str, place: Place, command: Command
) -> None:
    target = place.checkpoint.with_name("precious")
    target.write_bytes(b"precious")
    (place.out / name).symlink_to(target)
    status, _, error = command(*arguments(verb, place))
    assert_refused(status, error.splitlines(), names="--force")
    assert command(*arguments(verb, place), "--force")[0] == 0
    assert target.read_bytes() == b"precious"
    assert not (place.out / name).is_symlink() and load(place.out / name)["model"]


def test_a_link_to_the_input_is_never_the_output(place: Place, command: Command) -> None:
    before = contents(place.checkpoint.parent)
    (place.out / "small.pt").symlink_to(place.checkpoint)
    status, _, error = command(*arguments("prune", place), "--force")
    assert_refused(status, error.splitlines(), names="the input itself")
    assert contents(place.checkpoint.parent) == before


@every_verb
def test_names_may_have_blanks_and_any_letters(
    verb: str, trained: Run, data: Path, tmp_path: Path, command: Command
) -> None:
    at = placed(
        trained,
        data,
        tmp_path,
        "mes modèles – 模型 🚀",
        "größtes 'Modell' $1.pt",
        "Ausgabe & Übersicht #2",
    )
    completed(verb, at, command)


@pytest.mark.parametrize("verb", ["prune", "zoo", "sweep", "report"])
def test_the_output_may_be_on_another_file_system(
    verb: str, place: Place, command: Command
) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == place.out.stat().st_dev:
        pytest.skip("there is no second file system")
    with tempfile.TemporaryDirectory(dir=other) as folder:
        completed(verb, place._replace(out=Path(folder)), command)
