# SPDX-License-Identifier: MIT
"""Untrusted files: nothing in them runs, memory stays bounded, errors are one line."""

import argparse
import json
import os
import pickle
import random
import signal
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from builders import cut, training_checkpoint
from commands import Command
from hypothesis import given, settings
from texts import check_any_text, rubbish

from fairseq_layerdrop.checkpoint import CheckpointError, digest, load
from fairseq_layerdrop.pruning.inspection import describe
from fairseq_layerdrop.pruning.plan import LayerSelection, PruningPlan
from fairseq_layerdrop.pruning.source import Source
from fairseq_layerdrop.pruning.stacks import stack_depths
from fairseq_layerdrop.reporting.rows import RowFile

CASES, SEED = (
    int(os.environ.get(name, default))
    for name, default in (("FUZZ_CASES", 1000), ("FUZZ_SEED", 100))
)
"""Of the slow tests here; ``FUZZ_CASES=100000 FUZZ_SEED=7 pytest -m slow`` runs for a night."""

FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


class Runs:
    """Runs a command if it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@contextmanager
def limited(seconds: int = 60) -> Iterator[None]:
    """A hang is a failure; CPU time counts, which other programs do not lengthen."""

    def late(_: int, __: FrameType | None) -> None:
        raise AssertionError(f"took longer than {seconds} s of CPU time")

    signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def write(path: Path, checkpoint: Any, *, zipped: bool = True) -> Path:
    torch.save(checkpoint, path, _use_new_zipfile_serialization=zipped)
    return path


def holding(place: str, thing: Any) -> dict[str, Any]:
    """A checkpoint that holds something at a place."""
    full = training_checkpoint()
    if place == "top":
        full["surprise"] = thing
    elif place == "options":
        full["cfg"]["model"]["surprise"] = thing
    elif place == "Namespace":
        full["cfg"]["model"] = argparse.Namespace(**full["cfg"]["model"], surprise=thing)
    elif place == "optimizer":
        full["last_optimizer_state"] = {"state": {0: {"exp_avg": thing}}}
    elif place == "model":
        full["model"]["encoder.layers.0.fc1.weight"] = thing
    elif place == "extra state":
        full["extra_state"]["train_iterator"] = [thing, {"deep": (thing,)}]
    return full


@FORMATS
@pytest.mark.parametrize(
    "place", ["top", "options", "Namespace", "optimizer", "model", "extra state"]
)
@pytest.mark.parametrize(
    "call",
    [
        lambda mark: (os.system, f"touch {mark}"),
        lambda mark: (eval, f"open({str(mark)!r}, 'w')"),
        lambda mark: (exec, f"open({str(mark)!r}, 'w')"),
        lambda mark: (os.mkdir, str(mark)),
        lambda mark: (getattr, mark, "touch"),
        lambda mark: (Path.touch, mark),
        lambda mark: (torch.save, {}, str(mark)),
        lambda mark: (torch.load, str(mark)),
    ],
    ids=["system", "eval", "exec", "mkdir", "getattr", "touch", "torch.save", "torch.load"],
)
def test_nothing_that_a_file_names_is_run(
    tmp_path: Path, place: str, call: Callable[[Path], tuple[Any, ...]], zipped: bool
) -> None:
    mark = tmp_path / "mark"
    file = write(tmp_path / "evil.pt", holding(place, Runs(*call(mark))), zipped=zipped)
    mark.unlink(missing_ok=True)
    with pytest.raises(CheckpointError, match=r"evil\.pt"):
        load(file)
    assert not mark.exists()


@FORMATS
def test_a_state_that_a_stand_in_is_given_runs_nothing(tmp_path: Path, zipped: bool) -> None:
    from omegaconf import OmegaConf

    options: Any = OmegaConf.create({"a": 1})
    options._metadata.optional = Runs(os.mkdir, str(tmp_path / "mark"))
    file = write(tmp_path / "evil.pt", {**training_checkpoint(), "cfg": options}, zipped=zipped)
    (tmp_path / "mark").rmdir() if (tmp_path / "mark").exists() else None
    with pytest.raises(CheckpointError, match=r"would run (posix|nt)\.mkdir"):
        load(file)
    assert not (tmp_path / "mark").exists()


def laughs(depth: int) -> Any:
    """A thousand million references in some hundred bytes."""
    value: Any = ["ha"] * 10
    for _ in range(depth):
        value = [value] * 10
    return value


def nested(depth: int) -> Any:
    value: Any = {}
    for _ in range(depth):
        value = {"in": value}
    return value


def circle() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


@FORMATS
@pytest.mark.parametrize("place", ["top", "options", "Namespace", "optimizer", "extra state"])
@pytest.mark.parametrize(
    "thing", [laughs(9), nested(300), circle()], ids=["laughs", "nested", "circle"]
)
def test_what_refers_to_itself_or_nests_without_end_is_refused(
    tmp_path: Path, place: str, thing: Any, zipped: bool
) -> None:
    file = write(tmp_path / "large.pt", holding(place, thing), zipped=zipped)
    with limited(), pytest.raises(CheckpointError, match="nested too deeply, or refers to itself"):
        load(file)


def rewritten(
    source: Path, target: Path, change: Callable[[str, bytes], Iterator[tuple[str, bytes, int]]]
) -> Path:
    """The archive with other entries: for each its name, content and compression."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            for changed, content, how in change(name, old.read(name)):
                new.writestr(changed, content, compress_type=how)
    return target


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    source = write(tmp_path / "full.pt", training_checkpoint())
    zeros = bytes(1 << 28)
    bomb = rewritten(
        source,
        tmp_path / "bomb.pt",
        lambda name, content: iter(
            [(name, zeros if name.endswith("data/0") else content, zipfile.ZIP_DEFLATED)]
        ),
    )
    assert bomb.stat().st_size < 1 << 20
    with limited(), pytest.raises(CheckpointError, match="unpacks to more than is stored"):
        load(bomb)


@pytest.mark.parametrize(
    "name", ["../../mark", "/tmp/fairseq-layerdrop-mark", "archive/../../../mark", "a/data/../mark"]
)
def test_entries_with_names_of_other_places_are_written_nowhere(tmp_path: Path, name: str) -> None:
    source, strange = (
        write(tmp_path / "full.pt", training_checkpoint()),
        tmp_path / "a/b/strange.pt",
    )
    strange.parent.mkdir(parents=True)
    rewritten(source, strange, lambda old, content: iter([(old, content, zipfile.ZIP_STORED)]))
    with zipfile.ZipFile(strange, "a") as archive:
        archive.writestr(name, b"mark")
    before = sorted(tmp_path.rglob("*"))
    with suppress(CheckpointError):
        load(strange)
    assert sorted(tmp_path.rglob("*")) == before
    assert not Path("/tmp/fairseq-layerdrop-mark").exists()


@FORMATS
def test_a_tensor_that_shows_more_than_is_stored_is_refused(tmp_path: Path, zipped: bool) -> None:
    full = training_checkpoint()
    full["model"]["encoder.layers.0.fc1.weight"] = torch.zeros(1).expand(1 << 40)
    file = write(tmp_path / "wide.pt", full, zipped=zipped)
    with limited(), pytest.raises(CheckpointError, match=r"a tensor of shape \(1099511627776,\)"):
        load(file)


def mutated(content: bytes, draw: random.Random) -> bytes:
    """Some bytes changed, cut out, doubled or swapped."""
    data = bytearray(content)
    for _ in range(draw.choice([1, 1, 2, 8])):
        at, length = draw.randrange(len(data)), draw.choice([1, 1, 4, 64, 1024])
        kind = draw.randrange(6)
        if kind == 0:
            data[at : at + length] = draw.randbytes(len(data[at : at + length]))
        elif kind == 1:
            del data[at : at + length]
        elif kind == 2:
            data[at:at] = data[at : at + length]
        elif kind == 3:
            data = data[: at + 1]
        elif kind == 4:
            data[at] ^= 1 << draw.randrange(8)
        else:
            other = draw.randrange(len(data))
            data[at : at + length], data[other : other + length] = (
                data[other : other + length],
                data[at : at + length],
            )
        data = data or bytearray(b"\0")
    return bytes(data)


def use(file: Path) -> None:
    """What the verbs do with a file; a ValueError is the one line that a user sees."""
    full = load(file)
    describe(Source.of(full))
    digest(file)
    depths = stack_depths(full["model"])
    plan = PruningPlan(**{stack: LayerSelection(depth, (0,)) for stack, depth in depths.items()})
    cut(full, plan, source="", version="")


def fuzz(folder: Path, *, zipped: bool, cases: int, seed: int) -> tuple[int, int]:
    """How many mutated files were read, and how many refused; anything else is our error."""
    content = write(
        folder / "full.pt", training_checkpoint(2, 2, ours=True), zipped=zipped
    ).read_bytes()
    draw, taken = random.Random(seed), 0
    for number in range(cases):
        file = folder / "mutated.pt"
        file.write_bytes(mutated(content, draw))
        try:
            with limited():
                use(file)
            taken += 1
        except ValueError as error:
            assert str(error), f"case {number} of seed {seed}"
        except Exception as error:
            raise AssertionError(
                f"case {number} of seed {seed}: {type(error).__name__}: {error}"
            ) from error
    return taken, cases - taken


@FORMATS
def test_mutated_checkpoints_are_taken_or_refused_in_one_line(tmp_path: Path, zipped: bool) -> None:
    taken, refused = fuzz(tmp_path, zipped=zipped, cases=150, seed=1)
    assert taken and refused


@pytest.mark.slow
@FORMATS
@pytest.mark.parametrize("seed", range(5))
def test_many_mutated_checkpoints_are_taken_or_refused_in_one_line(
    tmp_path: Path, zipped: bool, seed: int
) -> None:
    fuzz(tmp_path, zipped=zipped, cases=CASES, seed=SEED + seed)


def test_mutated_row_files_are_read_or_refused(tmp_path: Path) -> None:
    file, draw = tmp_path / "rows.jsonl", random.Random(1)
    rows = RowFile(file)
    rows.add(
        {"kind": "plan", "plan": "all/0", "loss": i / 7, "signature": {"n": i}} for i in range(20)
    )
    rows.close()
    content = file.read_bytes()
    for _ in range(300):
        changed = mutated(content, draw)
        file.write_bytes(changed)
        try:
            rows = RowFile(file)
        except ValueError as error:
            assert str(file) in str(error)
            assert file.read_bytes() == changed
        else:
            rows.close()


ROWS: list[dict[str, Any]] = [
    {
        "curve": "a",
        "plan": "all/0",
        "encoder_layers": 6,
        "decoder_layers": 1,
        "loss": 3.5,
        "rate": 0.1,
        "ppl": 11.3,
    },
    {
        "curve": "a",
        "plan": "all/all",
        "encoder_layers": 6,
        "decoder_layers": 6,
        "bleu": 30.0,
        "latency_ms": 4.5,
        "latency_ms_quartiles": [4.0, 5.0],
        "parameters": 7,
        "metrics": {"bleu": "v"},
        "signature": {"plan": "all/all"},
    },
    {
        "curve": "b",
        "encoder_layers": 3,
        "bleu": 29.0,
        "rate": 0.5,
        "memory_bytes": 10,
        "sentences": 4,
        "loss": 3.0,
    },
    {
        "kind": "importance",
        "curve": "a",
        "stack": "encoder",
        "layer": 3,
        "measure": "m",
        "value": 0.2,
        "error": 0.1,
    },
    {"kind": "trial", "plan": "0/0", "encoder_layers": 1, "decoder_layers": 1, "loss": 5.0},
    {
        "kind": "test",
        "curve": "a",
        "metric": "bleu",
        "against": "all/all",
        "p_value": {"all/0": 0.1},
        "p_holm": {"all/0": 0.2},
        "signature": {"of": [{"plan": "all/0"}], "against": "all/all"},
    },
]
VALUES: list[Any] = [
    *(None, True, 0, -1, 10**30, 10**299, 1e299, -1e299, 1e-320, 0.5, float("nan"), float("inf")),
    *(
        "",
        "x",
        "\0",
        "\n",
        "$x$",
        "$\\frac$",
        "\ud800",
        "\u202e",
        "名" * 50,
        "%s{}",
        "<b>",
        "_hidden",
    ),
    *([], [1], [1, 2], {}, {"a": 1}, [[[]]]),
]


def strange_rows(draw: random.Random) -> str:
    """Rows of every kind, in which some values are others, or gone."""
    rows = [dict(row) for row in draw.sample(ROWS, draw.randint(1, len(ROWS)))]
    for _ in range(draw.choice([1, 1, 2, 4])):
        row = draw.choice(rows)
        name = draw.choice([*row, "p_value", "rate", "latency_ms", "memory_bytes", "plan", "kind"])
        row[name] = draw.choice(VALUES)
        if draw.random() < 0.15:
            del row[name]
    return "".join(json.dumps(row) + "\n" for row in rows)


def report(folder: Path, command: Command, *, cases: int, seed: int) -> set[int]:
    """Strange rows through ``report``: the statuses that there were, 0 or 2 and one line."""
    draw, found = random.Random(seed), set()
    for number in range(cases):
        (folder / "rows.jsonl").write_text(strange_rows(draw))
        with limited():
            status, _, error = command("report", folder / "rows.jsonl", folder / "out")
        found.add(status)
        assert status in (0, 2), f"case {number} of seed {seed}"
        assert status == 0 or len(error.splitlines()) == 1, error
    return found


def test_rows_of_strange_values_are_reported_or_refused_in_one_line(
    tmp_path: Path, command: Command
) -> None:
    assert report(tmp_path, command, cases=12, seed=1) == {0, 2}


@pytest.mark.slow
def test_many_rows_of_strange_values_are_reported_or_refused_in_one_line(
    tmp_path: Path, command: Command
) -> None:
    report(tmp_path, command, cases=CASES // 4, seed=SEED)


@pytest.mark.slow
@given(rubbish())
@settings(max_examples=10 * CASES)
def test_any_of_many_texts_is_a_selection_or_one_line(text: str) -> None:
    check_any_text(text)


STRANGE = [
    "0,,1",
    "every:",
    "even:0",
    "9" * 400,
    "0-" + "9" * 30,
    "all/all/all",
    "\0",
    "first:-1",
    "-",
    "0\u20132",
    "\u0661",
]


@pytest.mark.parametrize("text", STRANGE)
def test_a_spec_of_any_text_is_a_plan_or_one_line(text: str) -> None:
    with limited(), pytest.raises(ValueError, match=r"\w"):
        PruningPlan.parse(text, {"encoder": 6, "decoder": 6})


ENDLESS = {
    "repeated": "0," * 200_000 + "0",
    "ranges": "0-5," * 50_000 + "0",
    "long": ",".join(map(str, range(200_000))),
}


@pytest.mark.parametrize("text", ENDLESS.values(), ids=ENDLESS)
def test_a_spec_without_end_is_refused_at_once(text: str) -> None:
    with limited(), pytest.raises(ValueError, match="0-5"):
        LayerSelection.parse(text, 6)


def test_a_pickle_that_is_no_archive_of_torch_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "plain.pkl"
    file.write_bytes(pickle.dumps({"model": Runs(os.mkdir, str(tmp_path / "mark"))}))
    with pytest.raises(CheckpointError, match=r"plain\.pkl"):
        load(file)
    assert not (tmp_path / "mark").exists()
    assert sys.getrecursionlimit() < 10_000
