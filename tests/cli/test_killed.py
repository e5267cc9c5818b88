# SPDX-License-Identifier: MIT
"""``kill -9`` at any moment: the output is absent or whole, the input untouched."""

import json
import random
import shutil
import time
from pathlib import Path

import pytest
import torch
from builders import training_checkpoint
from conftest import Run
from forks import server, start
from torch import Tensor

from fairseq_layerdrop.checkpoint import digest, load

VERBS = {
    "prune": lambda folder: ["prune", folder / "0.pt", folder / "out.pt", "--decoder-keep", "0,2"],
    "average": lambda folder: ["average", folder / "0.pt", folder / "1.pt", folder / "out.pt"],
    "prune, replacing": lambda folder: [
        "prune",
        folder / "0.pt",
        folder / "out.pt",
        "--encoder-keep",
        "1",
        "--force",
    ],
}


def inputs(folder: Path) -> dict[Path, bytes]:
    """Two checkpoints of some megabytes, and their bytes."""
    for i in range(2):
        full = training_checkpoint()
        full["model"]["encoder.embed_tokens.weight"] = torch.full((1 << 19, 4), float(i))
        torch.save(full, folder / f"{i}.pt")
    return {folder / f"{i}.pt": (folder / f"{i}.pt").read_bytes() for i in range(2)}


def seconds_of(arguments: list[object]) -> float:
    server()  # is there before the clock starts
    before, child = time.perf_counter(), start(arguments)
    child.join()
    assert child.exitcode == 0
    return time.perf_counter() - before


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def kill_at_random(folder: Path, verb: str, *, kills: int, seed: int) -> int:
    """How many of the killed runs had written their output already."""
    before, draw, written = inputs(folder), random.Random(seed), 0
    arguments, out = VERBS[verb](folder), folder / "out.pt"
    longest = seconds_of(arguments)
    whole = {
        key: tensor.clone() for key, tensor in load(out)["model"].items()
    }  # it is mapped from a file that changes
    for _ in range(kills):
        if verb == "prune, replacing":
            out.write_bytes(before[folder / "1.pt"])
        else:
            out.unlink(missing_ok=True)
        child = start(arguments)
        time.sleep(draw.uniform(0, longest))
        child.kill()
        child.join()
        assert {path: path.read_bytes() for path in before} == before
        if verb == "prune, replacing":
            assert same(load(out)["model"], whole) or out.read_bytes() == before[folder / "1.pt"]
        elif out.exists():
            assert same(load(out)["model"], whole)
            written += 1
        assert {path.name for path in folder.iterdir()} <= {"0.pt", "1.pt", "out.pt", ".out.pt.tmp"}
    out.unlink(missing_ok=True)
    assert seconds_of(arguments) > 0
    assert same(load(out)["model"], whole)
    assert {path.name for path in folder.iterdir()} == {"0.pt", "1.pt", "out.pt"}, (
        "a second run clears what was left"
    )
    return written


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_that_is_killed_leaves_all_or_nothing(tmp_path: Path, verb: str) -> None:
    kill_at_random(tmp_path, verb, kills=8, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_that_is_killed_often_leaves_all_or_nothing(tmp_path: Path, verb: str) -> None:
    assert kill_at_random(tmp_path, verb, kills=50, seed=2) < 50


# A zoo: a folder of files, and beside it the rows of what was measured


ZOO = ["--points", "4+3 4+2 3+3 2+2", "--metrics", "loss", "--threads", "1"]


def kill_zoos(trained: Run, data: Path, folder: Path, *, kills: int, seed: int) -> set[int]:
    """After each kill all files are whole and a second run completes; the numbers of models."""
    source, whole, out, draw, found = (
        folder / "full.pt",
        folder / "whole",
        folder / "out",
        random.Random(seed),
        set(),
    )
    shutil.copy(trained.last, source)
    before = source.read_bytes()
    arguments = ["--path", source, *ZOO]
    longest = seconds_of(["zoo", data, whole, *arguments])
    models = {path.name: load(path)["model"] for path in whole.glob("*.pt")}
    assert len(models) == 4
    everything = {path.name for path in whole.iterdir()}
    for _ in range(kills):
        child = start(["zoo", data, out, *arguments])
        time.sleep(draw.uniform(0, longest))
        child.kill()
        child.join()
        assert source.read_bytes() == before
        there = list(out.glob("*.pt")) if out.exists() else []
        found.add(len(there))
        for path in there:
            assert same(load(path)["model"], models[path.name])
        if (out / "manifest.json").exists():
            manifest = json.loads((out / "manifest.json").read_text())
            assert {m["file"]: m["digest"] for m in manifest["models"]} == {
                path.name: digest(path) for path in there
            }
        assert seconds_of(["zoo", data, out, *arguments]) > 0
        assert {path.name for path in out.iterdir()} == everything, (
            "a second run clears what was left"
        )
        assert json.loads((out / "manifest.json").read_text())["models"]
        shutil.rmtree(out)
    return found


def test_a_zoo_that_is_killed_has_whole_files_only_and_is_completed(
    trained: Run, data: Path, tmp_path: Path
) -> None:
    kill_zoos(trained, data, tmp_path, kills=3, seed=1)


@pytest.mark.slow
def test_a_zoo_that_is_killed_often_has_whole_files_only_and_is_completed(
    trained: Run, data: Path, tmp_path: Path
) -> None:
    found = kill_zoos(trained, data, tmp_path, kills=50, seed=2)
    assert len(found) > 2, "kills hit the middle of the writing"
