# SPDX-License-Identifier: MIT
"""``--criterion layerdrop_distill`` in fairseq's programs: trained, pruned, trained on."""

from collections.abc import Callable
from pathlib import Path
from statistics import mean

import pytest
from conftest import Run
from fairseq_programs import (
    STYLE,
    USER_DIR,
    evaluate,
    fairseq,
    in_stock,
    logged,
    prune,
    train,
    weights,
)

from fairseq_layerdrop.checkpoint import load

DEPTHS = ["--encoder-layers", "4", "--decoder-layers", "4"]
HALF = [
    "--encoder-layerdrop",
    "0.5",
    "--decoder-layerdrop",
    "0.5",
    "--dropout",
    "0.1",
    "--update-freq",
    "2",
]
PLUGIN = ["--user-dir", str(USER_DIR), "--arch", "layerdrop_transformer"]
DISTILL = [
    "--criterion",
    "layerdrop_distill",
    "--label-smoothing",
    "0.1",
    "--distill-temperature",
    "2",
]
KEEP = ["--encoder-keep", "0,3", "--decoder-keep", "1,2"]

REGISTER = """
import sys
sys.path.insert(0, sys.argv.pop())
import fairseq_layerdrop
from fairseq.criterions import CRITERION_REGISTRY
assert "layerdrop_distill" not in CRITERION_REGISTRY
fairseq_layerdrop.register()
fairseq_layerdrop.register()
print(CRITERION_REGISTRY["layerdrop_distill"].__name__)
"""


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """``run("1")``: with LayerDrop, dropout, two micro-batches and this distill weight; 60 updates,
    or as many as are asked for.
    """
    done: dict[tuple[str, int], Run] = {}

    def trained(weight: str, updates: int = 60) -> Run:
        if (weight, updates) not in done:
            folder = tmp_path_factory.mktemp("distilled")
            flags = [*PLUGIN, *STYLE, *DEPTHS, *HALF, *DISTILL, "--distill-weight", weight]
            flags += ["--max-update", str(updates), "--validate-interval", "10"]
            done[weight, updates] = Run(folder, train(data, folder, *flags))
        return done[weight, updates]

    return trained


@pytest.fixture(scope="module")
def small(run: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of ``run("1")`` cut to 2+2 layers, with its optimizer's state."""
    return prune(
        run("1").last, tmp_path_factory.mktemp("small") / "small.pt", *KEEP, "--keep-optimizer"
    )


@pytest.mark.slow
def test_distillation_lowers_the_distance_of_sub_networks_from_the_full_path(
    run: Callable[..., Run],
) -> None:
    """Against a run that measures the distance alone: the same data, the same draws."""
    distances = {}
    for weight in ("1", "1e-9"):
        steps = logged(run(weight).output, "train_inner")
        assert len(steps) == 60
        assert all({"loss", "nll_loss", "ppl", "encoder_keep"} <= step.keys() for step in steps)
        distances[weight] = mean(float(step["distill_loss"]) for step in steps[40:])
    assert 0 < distances["1"] < 0.7 * distances["1e-9"]


def test_the_first_update_s_student_is_that_of_a_run_without(run: Callable[..., Run]) -> None:
    runs = run("1"), run("1e-9", 1)
    first = [logged(one.output, "train_inner")[0] for one in runs]
    for name in ("loss", "nll_loss", "encoder_keep", "decoder_keep", "distill_loss"):
        assert first[0][name] == first[1][name]
    assert first[0]["gnorm"] != first[1]["gnorm"]


def test_validation_s_numbers_are_those_of_stock_fairseq(
    data: Path, run: Callable[..., Run], tmp_path: Path
) -> None:
    valid = logged(run("1").output, "valid")[-1]
    whole = prune(
        run("1").last, tmp_path / "whole.pt", "--encoder-keep", "all", "--decoder-keep", "all"
    )
    flags = [
        "--task",
        "translation",
        "--required-batch-size-multiple",
        "1",
        "--no-progress-bar",
        "--cpu",
    ]
    output = fairseq(
        "validate", data, "--path", whole, *flags, "--batch-size", "14", "--log-format", "json"
    )
    (own,) = logged(output, "valid")
    assert "valid_distill_loss" not in valid
    for name in ("loss", "nll_loss", "ppl"):
        assert valid[f"valid_{name}"] == own[f"valid_{name}"]


def test_a_pruned_file_names_the_criterion_that_trained_the_task(
    run: Callable[..., Run], small: Path
) -> None:
    assert load(run("1").last)["cfg"]["criterion"]["_name"] == "layerdrop_distill"
    criterion = {
        "_name": "label_smoothed_cross_entropy",
        "label_smoothing": 0.1,
        "report_accuracy": False,
    }
    assert load(small)["cfg"]["criterion"] == criterion | {
        "ignore_prefix_size": 0,
        "sentence_avg": False,
    }
    assert evaluate(small)["nll_loss"] > 0


def test_stock_fairseq_trains_the_pruned_file_on_with_its_optimizer(
    data: Path, small: Path, tmp_path: Path
) -> None:
    """It compares the criterion's name with the one in the file, unless the optimizer is reset."""
    flags = [
        "--arch",
        "transformer",
        *STYLE,
        "--encoder-layers",
        "2",
        "--decoder-layers",
        "2",
        "--update-freq",
        "2",
    ]
    output = train(
        data,
        tmp_path,
        *flags,
        "--restore-file",
        small,
        "--max-update",
        "62",
        "--disable-validation",
    )
    assert [int(step["num_updates"]) for step in logged(output, "train_inner")] == [61, 62]
    assert weights(tmp_path / "checkpoint_last.pt").keys() == weights(small).keys()


def test_distillation_can_be_turned_off_in_a_training(
    data: Path, run: Callable[..., Run], tmp_path: Path
) -> None:
    flags = [
        *PLUGIN,
        *STYLE,
        *DEPTHS,
        *HALF,
        "--restore-file",
        run("1").last,
        "--disable-validation",
    ]
    (step,) = logged(train(data, tmp_path, *flags, "--max-update", "61"), "train_inner")
    assert int(step["num_updates"]) == 61
    assert "distill_loss" not in step


def test_register_registers_it_once(tmp_path: Path) -> None:
    script = tmp_path / "register.py"
    script.write_text(REGISTER)
    assert in_stock(str(script), USER_DIR.parent).split()[-1] == "LayerDropDistill"
