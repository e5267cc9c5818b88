# SPDX-License-Identifier: MIT
"""``layerdrop_masked_lm``: plans in validation and depth on demand, in fairseq's programs."""

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Run
from fairseq_programs import (
    USER_DIR,
    WIDTH,
    batch,
    build_model,
    build_task,
    config,
    evaluate,
    fairseq,
    logged,
    masked_lm_data,
    prune,
)

import fairseq_layerdrop
from fairseq_layerdrop.checkpoint import load
from fairseq_layerdrop.modules.subnetwork import restricted

fairseq_layerdrop.register()

TASK = ["--user-dir", str(USER_DIR), "--task", "layerdrop_masked_lm", "--tokens-per-sample", "24"]
MODEL = ["--arch", "layerdrop_roberta", *WIDTH[:6], "--encoder-layers", "4"]
BATCHES = [
    "--batch-size",
    "3",
    "--required-batch-size-multiple",
    "1",
    "--cpu",
    "--num-workers",
    "0",
]
PLANS = {"even-2": "even:2", "0-3": "0,3"}  # by the names that they have in metrics


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return masked_lm_data(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A 4-layer RoBERTa after six epochs with LayerDrop 0.5, validated with two plans."""
    folder = tmp_path_factory.mktemp("masked-lm")
    flags = ["--encoder-layerdrop", "0.5", "--mask-prob", "0.3", "--sample-break-mode", "complete"]
    flags += ["--optimizer", "adam", "--lr", "0.01", "--max-epoch", "6", "--criterion", "masked_lm"]
    flags += [
        "--valid-plans",
        " ".join(PLANS.values()),
        "--best-checkpoint-metric",
        "loss_0-3",
        "--batch-size-valid",
        "2",
    ]
    log = [
        "--no-epoch-checkpoints",
        "--no-progress-bar",
        "--log-format",
        "json",
        "--log-interval",
        "1",
    ]
    return Run(
        folder,
        fairseq("train", corpus, *TASK, *MODEL, *BATCHES, *flags, *log, "--save-dir", folder),
    )


@pytest.fixture(scope="module")
def losses(trained: Run, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], float]:
    """``losses("0,3")``: the pruned file's validation loss in stock fairseq, in one batch."""
    folder = tmp_path_factory.mktemp("pruned")

    def loss(spec: str) -> float:
        small = prune(trained.last, folder / "small.pt", "--encoder-keep", spec, "--force")
        return evaluate(small)["loss"]

    return loss


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_s_metrics_are_those_of_the_pruned_file(
    trained: Run, losses: Callable[[str], float], name: str
) -> None:
    valid = logged(trained.output, "valid")[-1]
    loss = losses(PLANS[name])
    assert float(valid[f"valid_loss_{name}"]) == pytest.approx(loss, abs=0.0006)  # it is logged so
    assert float(valid[f"valid_ppl_{name}"]) == pytest.approx(2**loss, abs=0.01)


def test_the_full_model_s_metrics_are_those_of_the_file_that_keeps_everything(
    trained: Run, losses: Callable[[str], float]
) -> None:
    valid = logged(trained.output, "valid")[-1]
    assert float(valid["valid_loss"]) == pytest.approx(losses("all"), abs=0.0006)
    assert len({valid["valid_loss"], valid["valid_loss_even-2"], valid["valid_loss_0-3"]}) == 3


def test_a_plan_s_loss_chooses_the_best_checkpoint(trained: Run) -> None:
    scores = [float(valid["valid_loss_0-3"]) for valid in logged(trained.output, "valid")]
    best = load(trained.folder / "checkpoint_best.pt")["extra_state"]
    assert best["best"] == best["val_loss"] == min(scores)


def test_training_drops_layers_at_the_rate_asked_for(trained: Run) -> None:
    rates = [float(step["encoder_keep"]) for step in logged(trained.output, "train_inner")]
    assert set(rates) <= {0.25, 0.5, 0.75, 1.0}
    assert 0.4 < sum(rates) / len(rates) < 0.7  # with the minimum of one, the mean is 0.516
    assert trained.output.count("LayerDrop, encoder: asked rate 0.5") == 1


def test_depth_on_demand_by_override_has_the_pruned_file_s_loss(
    trained: Run, losses: Callable[[str], float]
) -> None:
    restricted = {
        spec: evaluate(trained.last, encoder_keep=spec)["loss"] for spec in ("0,2", "1", "last:3")
    }
    for spec, loss in restricted.items():
        assert loss == pytest.approx(losses(spec), abs=1e-5)
    assert len(set(restricted.values())) == 3


def test_depth_on_demand_by_override_works_on_a_stock_file_too(
    trained: Run, losses: Callable[[str], float], tmp_path: Path
) -> None:
    stock = prune(trained.last, tmp_path / "stock.pt")
    loss = evaluate(stock, task={"_name": "layerdrop_masked_lm", "encoder_keep": "0,2"})["loss"]
    assert loss == pytest.approx(losses("0,2"), abs=1e-5)


def test_depth_on_demand_by_override_reaches_fairseq_validate(
    corpus: Path, trained: Run, losses: Callable[[str], float]
) -> None:
    override = [
        "--path",
        trained.last,
        "--model-overrides",
        "{'encoder_keep': '0,2'}",
        "--log-format",
        "json",
    ]
    output = fairseq("validate", corpus, *TASK, *BATCHES, *override, "--no-progress-bar")
    (valid,) = logged(output, "valid")
    assert float(valid["valid_loss"]) == pytest.approx(losses("0,2"), abs=0.0006)
    assert float(valid["valid_loss"]) != pytest.approx(losses("all"), abs=0.01)


@pytest.mark.parametrize("arch", ["layerdrop_roberta", "roberta"])
def test_plans_that_a_training_had_do_not_hinder_depth_on_demand(arch: str) -> None:
    """They are in the checkpoint; the second of them has a layer that is not kept."""
    flags = [
        *TASK[2:],
        "--arch",
        arch,
        *MODEL[2:],
        "--criterion",
        "masked_lm",
        "--valid-plans",
        "0 3",
    ]
    cfg = config(*flags)
    cfg.task.encoder_keep = "0,1"
    task = build_task(cfg)
    model, full = (
        task.build_model(cfg.model, from_checkpoint=True).eval(),
        build_model(*flags).eval(),
    )
    model.load_state_dict(full.state_dict())
    criterion, sample = task.build_criterion(cfg.criterion), batch()
    with restricted(full, {"encoder": (0, 1)}):
        expected = criterion(full, sample)[2]["loss"]
    assert task.valid_step(sample, model, criterion)[2]["loss"] == expected


@pytest.mark.parametrize("spec", ["0,4", "even:5"])
def test_a_bad_spec_is_refused_by_stack_and_range(trained: Run, spec: str) -> None:
    with pytest.raises(ValueError, match=r"encoder: .*4"):
        evaluate(trained.last, encoder_keep=spec)


def test_a_decoder_is_refused_where_there_is_none(trained: Run) -> None:
    with pytest.raises(ValueError, match="decoder: the model has no such stack"):
        evaluate(trained.last, decoder_keep="0")


def test_training_refuses_layers_to_keep_by_the_mend() -> None:
    cfg = config(*TASK[2:], *MODEL, "--encoder-keep", "0,2")
    with pytest.raises(ValueError, match=r"--encoder-keep .*`fairseq-layerdrop prune`"):
        build_task(cfg).build_model(cfg.model)


def test_a_plan_that_does_not_fit_the_model_is_refused() -> None:
    with pytest.raises(ValueError, match=r"--valid-plans: even:5: .*4.*5"):
        build_model(*TASK[2:], *MODEL, "--valid-plans", "even:2 even:5")
