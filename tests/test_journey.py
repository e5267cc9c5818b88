# SPDX-License-Identifier: MIT
"""The whole way in fairseq's programs: train, prune, generate, train on; with and without us."""

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import LAYERDROP_TRAINING, SENTENCES, Run
from fairseq_programs import (
    SHORT,
    STYLE,
    USER_DIR,
    Hypotheses,
    assert_same_hypotheses,
    assert_same_tensors,
    generate,
    logged,
    prune,
    python,
    train,
    weights,
)

DEPTHS = ["--encoder-layers", "2", "--decoder-layers", "2"]
OFF = ["--encoder-layerdrop", "0", "--decoder-layerdrop", "0"]

LOAD_WITH_TORCH_ALONE = """
import sys, torch
for path in sys.argv[1:]:
    print(torch.load(path, weights_only=True)["cfg"]["model"]["_name"])
assert not any(name.startswith("fairseq") for name in sys.modules)
"""

REGISTER = """
import sys
import fairseq_layerdrop
assert "torch" not in sys.modules and "fairseq" not in sys.modules
fairseq_layerdrop.register()
fairseq_layerdrop.register()
from fairseq import options
flags = ["no-data", "--user-dir", sys.argv[1], "--task", "layerdrop_translation", "--arch"]
flags += ["layerdrop_transformer", "--encoder-layerdrop", "0.3"]
args = options.parse_args_and_arch(options.get_training_parser(), flags)
print(args.task, args.arch, args.encoder_layerdrop)
"""


@pytest.fixture(scope="module")
def undropped(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    """Six updates with dropout at LayerDrop 0: stock ``transformer``, then ours, from one seed."""
    runs = []
    for name, flags in (
        ("stock", ["--arch", "transformer"]),
        ("ours", ["--user-dir", USER_DIR, "--arch", "layerdrop_transformer", *OFF]),
    ):
        folder = tmp_path_factory.mktemp(name)
        size = [*STYLE, *DEPTHS, "--dropout", "0.1", "--max-update", "6"]
        runs.append(Run(folder, train(data, folder, *flags, *size)))
    return runs[0], runs[1]


@pytest.fixture(scope="module")
def small(trained: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The trained model pruned to 2+2 layers, and the flags that were printed."""
    target = tmp_path_factory.mktemp("small") / "small.pt"
    keep = ["--encoder-keep", "even:2", "--decoder-keep", "even:2"]
    printed = python("-m", "fairseq_layerdrop.cli", "prune", trained.last, target, *keep)
    (flags,) = (
        line.removeprefix("to train on: ")
        for line in printed.splitlines()
        if line.startswith("to train on: ")
    )
    return target, shlex.split(flags)


# What a training writes


def test_what_is_written_loads_with_torch_alone(
    trained: Run, undropped: tuple[Run, Run], small: tuple[Path, list[str]]
) -> None:
    """With torch's safe loading, too: plans and --eval-bleu, a plain training, a pruned file."""
    best = trained.folder / "checkpoint_best.pt"
    names = python(
        "-c", LOAD_WITH_TORCH_ALONE, trained.last, best, undropped[1].last, small[0]
    ).split()
    assert names == ["layerdrop_transformer"] * 3 + ["transformer"]


def test_keep_rates_appear_in_the_log(trained: Run) -> None:
    steps = logged(trained.output, "train_inner")
    assert len(steps) == 60
    for stack in ("encoder", "decoder"):
        rates = [float(step[f"{stack}_keep"]) for step in steps]
        assert set(rates) <= {
            n / 8 for n in range(2, 9)
        }  # of four layers in two micro-batches, at least one in each
        assert 0.4 < sum(rates) / len(rates) < 0.7  # with the minimum of one, the mean is 0.533


def test_the_log_says_the_effective_rate_once(trained: Run) -> None:
    assert trained.output.count("LayerDrop, encoder: asked rate 0.5") == 1
    assert trained.output.count("LayerDrop, decoder: asked rate 0.5") == 1
    assert "LayerDrop is off" not in trained.output


# LayerDrop 0 is stock fairseq


def test_rate_zero_trains_the_weights_that_stock_fairseq_trains(undropped: tuple[Run, Run]) -> None:
    stock, ours = undropped
    assert_same_tensors(weights(ours.last), weights(stock.last))


def test_rate_zero_logs_the_losses_that_stock_fairseq_logs(undropped: tuple[Run, Run]) -> None:
    losses = [[step["loss"] for step in logged(run.output, "train_inner")] for run in undropped]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 6


def test_rate_zero_is_warned_of_in_the_log(undropped: tuple[Run, Run]) -> None:
    assert undropped[1].output.count("LayerDrop is off") == 1


# A run that was stopped


def test_a_resumed_run_ends_with_the_same_weights(data: Path, trained: Run, tmp_path: Path) -> None:
    """60 updates, or 25, a stop in the middle of an epoch, and the rest; all randomness on."""
    stopped = train(data, tmp_path, *LAYERDROP_TRAINING, "--max-update", "25")
    resumed = train(data, tmp_path, *LAYERDROP_TRAINING, "--max-update", "60")
    steps = logged(stopped, "train_inner") + logged(resumed, "train_inner")
    expected = logged(trained.output, "train_inner")
    drawn = [
        [(step["encoder_keep"], step["decoder_keep"]) for step in run] for run in (steps, expected)
    ]
    assert drawn[0] == drawn[1]
    assert_same_tensors(weights(tmp_path / "checkpoint_last.pt"), weights(trained.last))


# Pruned, stock fairseq goes on


def test_a_pruned_file_runs_in_stock_generate(data: Path, small: tuple[Path, list[str]]) -> None:
    assert len(generate(data, small[0], *SHORT)) == SENTENCES["test"]


def test_keeping_everything_makes_a_stock_file_of_a_training_file(
    data: Path, trained: Run, stock_hypotheses: Callable[..., Hypotheses]
) -> None:
    with_plugin = generate(data, trained.last, "--user-dir", USER_DIR, *SHORT)
    assert_same_hypotheses(stock_hypotheses(), with_plugin, sentences=SENTENCES["test"])


def test_a_pruned_file_is_trained_on_by_stock_fairseq_and_pruned_again(
    data: Path, small: tuple[Path, list[str]], tmp_path: Path
) -> None:
    source, flags = small
    output = train(
        data, tmp_path, *flags, "--max-update", "2"
    )  # the printed flags say all of the model's form
    assert f"loading pretrained model from {source}" in output
    before, after = weights(source), weights(tmp_path / "checkpoint_last.pt")
    assert before.keys() == after.keys()
    worst = max(float((after[key] - before[key]).abs().max()) for key in before)
    assert 0 < worst < 0.1  # two steps of Adam at 0.01 from where it was, not from a new start
    with_plugin = generate(data, tmp_path / "checkpoint_last.pt", "--user-dir", USER_DIR, *SHORT)
    stock = prune(tmp_path / "checkpoint_last.pt", tmp_path / "stock.pt")
    assert_same_hypotheses(generate(data, stock, *SHORT), with_plugin, sentences=SENTENCES["test"])


# Python programs


def test_register_serves_a_program_that_imported_us_first() -> None:
    printed = python("-c", REGISTER, USER_DIR)
    assert printed.splitlines()[-1] == "layerdrop_translation layerdrop_transformer 0.3"
