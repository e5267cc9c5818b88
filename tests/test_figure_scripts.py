# SPDX-License-Identifier: MIT
"""The scripts of the paper's figures run with stubs; real parsers take their commands."""

import gzip
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from fairseq_programs import STYLE, TRAINING, python
from recipes import PARSED, SCRIPTS, Bench, parse
from repeats import mostly_slow

FIGURES = sorted(
    path.name
    for path in (SCRIPTS / "figures").glob("*.sh")
    if path.stem not in ("models", "prepare", "figure7_speed")
)
KINDS = (
    *("any_depth_translation.sh", "figure3_roberta.sh", "figure4_structures.sh"),
    *("figure5_importance.sh", "heal_translation.sh"),
)
"""One of each kind; the others use the same functions of ``models.sh``."""
MODEL = ["--task", "translation", "--arch", "transformer", *STYLE, *TRAINING]
DATA = ("multi30k", "wikitext-2", "samsum", "roberta", "glue/sst2", "glue/rte", "glue/mrpc")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    for name in DATA:
        (tmp_path / "WORK" / name / "data-bin").mkdir(parents=True)
    for name in ("wikitext-2/tenth-bin", "roberta/half-bin"):
        (tmp_path / "WORK" / name).mkdir()
    return Bench(tmp_path)


def run(bench: Bench, script: str) -> None:
    # All depths, seeds and tasks are hundreds of commands, the same ones again and again.
    fewer = {}
    if script.startswith(("heal_", "converged_")):
        fewer = {"SEEDS": "1 2", "DEPTHS": "3 1"}
    elif script == "figure3_roberta.sh":
        fewer = {"TASKS": "sst2 800"}
    done = bench.run(f"figures/{script}", bench.folder / "WORK", bench.folder / "OUT", **fewer)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("script", mostly_slow(FIGURES, *KINDS))
def test_a_figure_trains_scores_and_draws_with_commands_that_their_programs_take(
    script: str, bench: Bench
) -> None:
    run(bench, script)
    assert_drawn_with_commands_that_their_programs_take(bench)


def assert_drawn_with_commands_that_their_programs_take(bench: Bench) -> None:
    called = [call for call in bench.calls() if call[0] in PARSED]
    for call in called:
        parse(call)
    assert called[-1][:2] == ["fairseq-layerdrop", "report"]
    runs = [call[call.index("--save-dir") + 1] for call in called if call[0] == "fairseq-train"]
    assert runs and len(runs) == len(set(runs)), "a model is trained once"
    for folder in runs:
        row = json.loads(Path(folder, "training.json").read_text())
        assert (row["kind"], row["updates"], row["seconds"]) == ("training", 60, 3)
        assert row["command"].startswith("fairseq-train ") and row["machine"]


def test_figure_7_s_speeds_are_medians_by_system_and_rate(bench: Bench) -> None:
    run(bench, "figure7_speed.sh")
    assert_drawn_with_commands_that_their_programs_take(bench)
    rows = [json.loads(line) for line in (bench.folder / "OUT/rows.jsonl").read_text().splitlines()]
    assert {(row["curve"], row["rate"]) for row in rows} == {
        (system, rate)
        for system in ("fairseq-layerdrop", "stock fairseq")
        for rate in (0, 0.1, 0.2, 0.3, 0.4, 0.5)
    }
    assert {(row["tokens_per_second"], row["windows"]) for row in rows} == {(7.5, 2)}


def test_what_is_trained_is_not_trained_again(bench: Bench) -> None:
    for _ in range(2):
        run(bench, "figure5_importance.sh")
    assert len(bench.calls("fairseq-train")) == 1


def test_the_data_are_prepared_once(tmp_path: Path) -> None:
    bench, raw = Bench(tmp_path), tmp_path / "RAW"
    pair = "sentence\tsentence1\tsentence2\tlabel\n" + "A B\tC\tD\t1\n" * 500
    for name, text in {
        **{
            f"multi30k/{s}.{side}": "a b\n"
            for s in ("train", "valid", "test2016", "test2017", "test2017mscoco")
            for side in ("en", "de")
        },
        **{
            f"samsum/{split}.{side}": "a b\n"
            for split in ("train", "valid", "test")
            for side in ("source", "target")
        },
        **{f"wikitext-2/{split}.txt": "A b\n" * 40 for split in ("train", "valid", "test")},
        **{
            f"glue/{task}/{split}.tsv": pair
            for task in ("sst2", "rte")
            for split in ("train", "dev")
        },
        "glue/mrpc/train.tsv": pair,
    }.items():
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        (raw / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
    killed = tmp_path / "WORK/samsum/data-bin.part"
    killed.mkdir(parents=True)
    (killed / "of-a-run-that-was-killed").touch()
    for _ in range(2):
        done = bench.run("figures/prepare.sh", raw, tmp_path / "WORK")
        assert done.returncode == 0, done.stderr[-2000:]
    calls = bench.calls("fairseq-preprocess")
    for call in calls:
        parse(call)
    folders = [call[call.index("--destdir") + 1] for call in calls]
    assert len(folders) == len(set(folders)) == 6 + 2 + 3 + 3
    assert not [call for call in calls if "," in call[call.index("--validpref") + 1]], (
        "fairseq-train takes one alone"
    )
    mrpc = tmp_path / "WORK/glue/mrpc/text"
    assert [len((mrpc / f"{split}.label").read_text().split()) for split in ("train", "dev")] == [
        92,
        408,
    ]
    assert (mrpc / "dev.input0").read_text().startswith("c\n"), "the first sentence, in lower case"
    assert (tmp_path / "WORK/roberta/text/half.bpe.txt").read_text() == "a b\n" * 20
    assert not list(tmp_path.rglob("*.part")) and not list(
        tmp_path.rglob("of-a-run-that-was-killed")
    )


@pytest.mark.parametrize("program", ["fairseq-train", "another"])
def test_the_trainings_and_nothing_else_take_denormal_numbers_as_zero(
    program: str, tmp_path: Path
) -> None:
    script = tmp_path / program
    script.write_text("import torch; print(torch.full((64,), 1e-30).mul(1e-10).sum().item())")
    environment = {**os.environ, "PYTHONPATH": str(SCRIPTS / "figures/denormals")}
    printed = subprocess.check_output([sys.executable, script], env=environment, text=True)
    assert (float(printed) == 0) == (program == "fairseq-train")


def failing(run: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Start a training by a ``fairseq-train`` that fails, as the real one does without data."""
    program = run / "bin" / "fairseq-train"
    program.parent.mkdir(exist_ok=True)
    program.write_text("#!/bin/sh\necho FileNotFoundError: DATA >&2; exit 1\n")
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}"}
    command = [sys.executable, "scripts/figures/train.py", str(run), "DATA", *flags]
    return subprocess.run(
        command, cwd=SCRIPTS.parent, env=environment, capture_output=True, text=True, check=False
    )


def test_a_training_that_fails_leaves_no_row_and_says_why(tmp_path: Path) -> None:
    done = failing(tmp_path)
    assert done.returncode == 1
    assert "train.log" in done.stderr and "FileNotFoundError: DATA" in done.stderr
    assert not (tmp_path / "training.json").exists()


def test_a_training_with_other_flags_is_not_taken_for_this_one(tmp_path: Path) -> None:
    assert failing(tmp_path, "--lr", "1", "--seed", "2").returncode == 1
    (tmp_path / "training.json").touch()
    assert failing(tmp_path, "--seed", "1", "--lr", "1", "--seed", "2").returncode == 0
    done = failing(tmp_path, "--lr", "1", "--seed", "1")
    assert (done.returncode, done.stdout) == (2, "")
    message = f"{tmp_path} was trained with other flags; remove it, or use another WORK\n"
    assert done.stderr == message


def test_what_a_family_costs_is_measured_and_what_it_is_worth_is_its_mean(
    data: Path, tmp_path: Path
) -> None:
    def training(run: str, updates: int, *flags: str) -> dict[str, object]:
        command = shlex.join(["fairseq-train", str(data), *MODEL, *flags])
        return {"kind": "training", "run": run, "updates": updates, "command": command}

    models = [
        {"kind": "plan", "curve": "small", "seed": 1, "loss": loss, "decoder_layers": n}
        for n, loss in ((4, 3.0), (1, 5.0))
    ]
    others = [{**models[0], "seed": 2, "loss": 9.0}, {**models[0], "curve": "other"}]
    rows = [training("whole", 100), training("one", 300, "--decoder-layers", "1")]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in (*rows, *models, *others)))
    python(
        *("scripts/figures/family_cost.py", file, "small", "whole", "one", "--unit", "whole"),
    )
    row = json.loads(file.read_text().splitlines()[-1])
    costs = row["update_costs"]
    assert row["kind"] == "family"
    assert (row["trainings"], row["models"], row["loss"]) == (2, 2, 4.0)
    assert costs["whole"] == 1
    assert 0 < costs["one"] < 1
    assert row["cost"] == pytest.approx(1 + 3 * costs["one"], abs=1e-3)
