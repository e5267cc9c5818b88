# SPDX-License-Identifier: MIT
"""From ``--train-plans`` to what is shipped: every command knows the trained plans."""

import json
import logging
from pathlib import Path

import pytest
from conftest import SENTENCES, Run
from fairseq_programs import (
    SHORT,
    STYLE,
    USER_DIR,
    evaluate,
    generate,
    logged,
    prune,
    train,
)

from fairseq_layerdrop import cli
from fairseq_layerdrop.checkpoint import load

MODEL = ["--task", "layerdrop_translation", "--arch", "layerdrop_transformer", *STYLE]
MODEL += ["--user-dir", str(USER_DIR), "--encoder-layers", "4", "--decoder-layers", "4"]
OFF = ["--encoder-layerdrop", "0", "--decoder-layerdrop", "0"]
TEACH = ["--criterion", "layerdrop_distill", "--train-plans", "4+2 2+1"]


@pytest.fixture(scope="module")
def planned(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A 4+4 model trained for 60 updates with two plans, two micro-batches an update."""
    folder = tmp_path_factory.mktemp("planned")
    flags = [*MODEL, *OFF, *TEACH, "--update-freq", "2", "--validate-interval", "10"]
    return Run(folder, train(data, folder, *flags, "--max-update", "60", "--save-interval", "10"))


def run(*arguments: object) -> int:
    return cli.main([*map(str, arguments)])


def facts(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, object]:
    assert run(*arguments, "--json") == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_the_log_has_the_losses_of_whole_model_and_plans_in_training_and_validation(
    planned: Run,
) -> None:
    steps = logged(planned.output, "train_inner")
    assert {"loss", "loss_4-2", "loss_2-1", "distill_loss_2-1"} <= steps[-1].keys()
    assert any(float(step["loss_2-1"]) != float(step["loss"]) for step in steps)
    (*_, valid) = logged(planned.output, "valid")
    assert {"valid_loss", "valid_loss_4-2", "valid_loss_2-1"} <= valid.keys()
    assert "valid_distill_loss" not in valid


def test_nobody_is_told_that_the_model_will_not_bear_pruning(planned: Run) -> None:
    assert "LayerDrop, decoder: asked rate 0" in planned.output
    assert "LayerDrop is off" not in planned.output


def test_the_smaller_plans_are_better_than_those_of_the_same_training_without_them(
    planned: Run, data: Path, tmp_path: Path
) -> None:
    flags = [*MODEL, *OFF, "--update-freq", "2", "--disable-validation", "--save-interval", "10"]
    train(data, tmp_path, *flags, "--max-update", "60")
    plan = ["--encoder-keep", "every:2", "--decoder-keep", "first:1"]
    losses = []
    for name, full in (("planned", planned.last), ("not", tmp_path / "checkpoint_last.pt")):
        losses.append(evaluate(prune(full, tmp_path / f"{name}.pt", *plan))["loss"])
    assert losses[0] < losses[1] - 0.3


def test_inspect_and_provenance_name_the_trained_plans(
    planned: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert facts(capsys, "inspect", planned.last)["trained_plans"] == ["4+2", "2+1"]
    small = prune(planned.last, tmp_path / "small.pt", "--decoder-keep", "0,2")
    assert load(small)["extra_state"]["layerdrop"]["trained_plans"] == ["4+2", "2+1"]
    assert not any("train_plans" in key for key in load(small)["cfg"]["task"])
    capsys.readouterr()
    assert run("inspect", small) == 0
    assert "trained plans 4+2 2+1" in capsys.readouterr().out
    again = prune(small, tmp_path / "again.pt", "--decoder-keep", "0")
    assert load(again)["extra_state"]["layerdrop"]["trained_plans"] == ["4+2", "2+1"]


def test_prune_says_where_a_plan_is_none_of_the_trained(
    planned: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def notes(*keep: str) -> str:
        return str(
            facts(capsys, "prune", planned.last, tmp_path / "a.pt", "--dry-run", *keep)["notes"]
        )

    said = "the model was trained with the plans 4+2 2+1, and all/0,1,2 is none of them"
    assert said in notes("--decoder-keep", "0-2")
    assert "trained with" not in notes("--decoder-keep", "0,2")
    assert "trained with" not in notes("--encoder-keep", "0,2", "--decoder-keep", "0")
    assert "trained with" not in notes()


def test_a_zoo_of_the_trained_plans_runs_in_stock_fairseq(
    planned: Run, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "zoo"
    with caplog.at_level(logging.WARNING):
        points = ["--path", planned.last, "--points", "trained", "--gen-subset", "test"]
        assert run("zoo", data, folder, *points) == 0
    assert "Without any single layer" not in caplog.text
    manifest = json.loads((folder / "manifest.json").read_text())
    assert [model["file"] for model in manifest["models"]] == ["4+2.pt", "2+1.pt"]
    for model in manifest["models"]:
        assert len(generate(data, folder / model["file"], *SHORT)) == SENTENCES["test"]


def test_a_sweep_warns_before_an_untrained_plan(
    planned: Run, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        points = ["--path", planned.last, "--points", "trained 4+3", "--gen-subset", "valid"]
        assert run("sweep", data, tmp_path / "rows.jsonl", *points) == 0
    (warning,) = [text for text in caplog.messages if "Without any single layer" in text]
    assert warning.startswith("the model was trained with the plans 4+2 2+1, and all/0,1,2 is none")


def test_trained_plans_are_refused_where_there_are_none(
    trained: Run, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    points = ["--path", trained.last, "--points", "trained"]
    assert run("zoo", data, tmp_path / "zoo", *points) == 2
    assert "names no plans that it was trained with" in capsys.readouterr().err
    assert not (tmp_path / "zoo").exists()
