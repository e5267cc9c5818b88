# SPDX-License-Identifier: MIT
"""scripts/gpu/run.sh with stand-ins: its steps run in order, once, with real commands."""

import gzip
import importlib
import subprocess
from pathlib import Path

import pytest
from fairseq_programs import REPOSITORY
from recipes import PARSED, SCRIPTS, Bench, parse

MADE = ("multi30k", "wikitext-2", "roberta", "glue/sst2")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """The environment is built, and the data are there."""
    for name in MADE:
        (tmp_path / "WORK/figures" / name / "data-bin").mkdir(parents=True)
    (tmp_path / "WORK/figures/roberta/half-bin").mkdir()
    for step in ("build", "data"):
        (tmp_path / "WORK/done" / step).parent.mkdir(exist_ok=True)
        (tmp_path / "WORK/done" / step).touch()
    (tmp_path / "WORK/machine.txt").write_text("a machine\n")
    (tmp_path / "PACK").mkdir()
    return Bench(tmp_path)


def run(bench: Bench, *words: str) -> subprocess.CompletedProcess[str]:
    work = bench.folder / "WORK"
    where = {"PACK": str(bench.folder / "PACK"), "OUT": str(bench.folder / "OUT")}
    return bench.run("gpu/run.sh", work, *words, **where)


def assert_taken(call: list[str]) -> None:
    """The program's own parser takes the command."""
    if call[0] in PARSED:
        parse(call)
    elif call[2].startswith("benchmarks."):
        importlib.import_module(call[2]).parse(call[3:])


@pytest.mark.parametrize(
    "words",
    [
        ["--tiny"],
        pytest.param(["training", "search", "inference", "translation"], marks=pytest.mark.slow),
    ],
    ids=["tiny", "on a card"],
)
def test_steps_run_once_with_commands_that_their_programs_take(
    words: list[str], bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(REPOSITORY)
    done = run(bench, *words)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    calls = bench.calls()
    for call in calls:
        assert_taken(call)
    trained = [call for call in calls if call[0] == "fairseq-train"]
    assert all("16" in call if "--tiny" in words else "--fp16" in call for call in trained)
    for name in ("training_speed/rows.jsonl", "training_speed/rows-bf16.jsonl", "machine.txt"):
        assert (bench.folder / "OUT" / name).read_text()
    assert run(bench, *words).returncode == 0
    assert [call for call in bench.calls()[len(calls) :] if call[0] == "fairseq-train"] == []


def test_a_step_that_fails_stops_no_other_and_is_tried_again(bench: Bench) -> None:
    program = bench.folder / "bin" / "fairseq-train"
    works = program.read_text()
    program.write_text("#!/bin/sh\nexit 3\n")
    done = run(bench, "inference", "search")
    assert (done.returncode, "failed: inference" in done.stderr) == (2, True)
    assert (bench.folder / "OUT/search/rows.jsonl").exists()
    assert not (bench.folder / "OUT/inference/rows.jsonl").exists()
    program.write_text(works)
    assert run(bench, "inference", "search").returncode == 0
    assert (bench.folder / "OUT/inference/rows.jsonl").exists()


@pytest.mark.parametrize(
    ("words", "message"), [(["--tiny", "nonsense"], "no step nonsense; there are: tests")]
)
def test_an_unknown_step_is_refused_by_name(words: list[str], message: str, bench: Bench) -> None:
    done = run(bench, *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


def test_a_tiny_run_is_not_taken_for_a_full_one(bench: Bench) -> None:
    assert run(bench, "--tiny", "search").returncode == 0
    done = run(bench, "search")
    assert (done.returncode, done.stdout) == (2, "")
    assert "WORK is of a tiny run: name another folder" in done.stderr


def test_without_the_pack_it_says_how_to_make_one(bench: Bench) -> None:
    (bench.folder / "PACK").rmdir()
    done = run(bench, "--tiny")
    assert done.returncode == 2 and "scripts/gpu/pack.sh" in done.stderr


def test_data_are_cut_to_their_first_lines(tmp_path: Path) -> None:
    for name in (
        "multi30k/train.en",
        "multi30k/valid.en",
        "wikitext-2/train.txt",
        "glue/sst2/dev.tsv",
    ):
        (tmp_path / "raw" / name).parent.mkdir(parents=True, exist_ok=True)
        text = "".join(f"{i}\n" for i in range(200))
        (tmp_path / "raw" / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
    command = ["bash", SCRIPTS / "gpu/cut.sh", tmp_path / "raw", tmp_path / "cut", "80"]
    subprocess.run(command, check=True)
    counts = {
        str(path.relative_to(tmp_path / "cut")): len(gzip.decompress(path.read_bytes()).split())
        for path in (tmp_path / "cut").rglob("*.gz")
    }
    assert counts == {
        "multi30k/train.en.gz": 80,
        "multi30k/valid.en.gz": 2,
        "wikitext-2/train.txt.gz": 80,
        "glue/sst2/dev.tsv.gz": 2,
    }
