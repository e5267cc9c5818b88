# SPDX-License-Identifier: MIT
"""``layerdrop_translation``: depth on demand and plans in validation, in fairseq's programs."""

import gc
import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SENTENCES, Run
from fairseq.logging import metrics
from fairseq_programs import (
    SHORT,
    USER_DIR,
    WIDTH,
    Hypotheses,
    assert_same_hypotheses,
    batch,
    build_model,
    build_task,
    config,
    fairseq,
    generate,
    logged,
)

from fairseq_layerdrop.checkpoint import load

TASK = ["--task", "layerdrop_translation"]
MODEL = [
    *TASK,
    "--arch",
    "layerdrop_transformer",
    *WIDTH,
    "--encoder-layers",
    "4",
    "--decoder-layers",
    "4",
]
PLANS = ["--valid-plans", "4+2 every:2/first:1"]


# Depth on demand


@pytest.mark.parametrize(
    "keep",
    [
        ["--encoder-keep", "0,3", "--decoder-keep", "1"],
        pytest.param(["--decoder-keep", "0,2"], marks=pytest.mark.slow),
        pytest.param(
            ["--encoder-keep", "every:2", "--decoder-keep", "first:1"], marks=pytest.mark.slow
        ),
    ],
    ids=["both sides", "decoder only", "rules"],
)
def test_depth_on_demand_generates_what_the_pruned_file_does(
    data: Path, trained: Run, stock_hypotheses: Callable[..., Hypotheses], keep: list[str]
) -> None:
    on_demand = generate(data, trained.last, "--user-dir", USER_DIR, *TASK, *keep, *SHORT)
    assert_same_hypotheses(on_demand, stock_hypotheses(*keep), sentences=SENTENCES["test"])
    assert on_demand != stock_hypotheses()  # what the full model generates


def test_a_model_from_a_checkpoint_is_restricted_once_its_weights_are_in() -> None:
    cfg = config(*MODEL, "--encoder-keep", "even:2", "--decoder-keep", "3")
    model = build_task(cfg).build_model(cfg.model, from_checkpoint=True)
    model.load_state_dict(build_model(*MODEL).state_dict())
    assert (model.encoder.layers.keep, model.decoder.layers.keep) == ((0, 2), (3,))


def test_a_stock_model_from_a_checkpoint_is_restricted_too() -> None:
    stock = [
        *TASK,
        "--arch",
        "transformer",
        *WIDTH,
        "--encoder-layers",
        "4",
        "--decoder-layers",
        "4",
    ]
    full = build_model(*stock)
    cfg = config(*stock, "--decoder-keep", "0,2")
    model = build_task(cfg).build_model(cfg.model, from_checkpoint=True)
    model.load_state_dict(full.state_dict())
    assert (len(model.encoder.layers), len(model.decoder.layers)) == (4, 2)
    assert torch.equal(model.decoder.layers[1].fc1.weight, full.decoder.layers[2].fc1.weight)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--encoder-keep", "0,4"], r"encoder: .*0-3.*4"),
        (["--decoder-keep", "even:9"], r"decoder: .*4.*9"),
        (["--decoder-keep", "1,1"], r"decoder: .*1 more than once"),
    ],
)
def test_a_bad_spec_is_refused_by_stack_and_range(flags: list[str], message: str) -> None:
    cfg = config(*MODEL, *flags)
    with pytest.raises(ValueError, match=message):
        build_task(cfg).build_model(cfg.model, from_checkpoint=True)


def test_training_refuses_layers_to_keep_by_name(data: Path, tmp_path: Path) -> None:
    flags = [
        *MODEL,
        "--user-dir",
        USER_DIR,
        "--encoder-keep",
        "0,1",
        "--save-dir",
        tmp_path / "run",
    ]
    needed = ["--optimizer", "adam", "--batch-size", "8", "--cpu", "--max-update", "1"]
    output = fairseq("train", data, *flags, *needed, fails=True)
    assert "ValueError: --encoder-keep" in output
    assert "fairseq-layerdrop prune" in output
    assert not (tmp_path / "run" / "checkpoint_last.pt").exists()


# Plans in validation


@pytest.mark.parametrize(
    ("name", "keep"),
    [
        ("4-2", ["--decoder-keep", "0,2"]),
        ("every-2-first-1", ["--encoder-keep", "every:2", "--decoder-keep", "first:1"]),
    ],
)
def test_a_plan_s_metrics_are_those_of_the_pruned_file(
    data: Path, trained: Run, pruned: Callable[..., Path], name: str, keep: list[str]
) -> None:
    valid = logged(trained.output, "valid")[-1]  # 14 sentences in batches of 5, 5 and 4
    flags = ["--task", "translation", "--required-batch-size-multiple", "1", "--no-progress-bar"]
    whole = ["--batch-size", "14", "--log-format", "json", "--cpu"]  # in one batch
    (own,) = logged(fairseq("validate", data, "--path", pruned(*keep), *flags, *whole), "valid")
    for metric in ("loss", "nll_loss", "ppl", "bleu"):
        assert valid[f"valid_{metric}_{name}"] == own[f"valid_{metric}"], metric
    assert float(own["valid_bleu"]) > 0


def test_the_full_model_and_each_plan_have_losses_of_their_own(trained: Run) -> None:
    for valid in logged(trained.output, "valid"):
        assert (
            len({valid["valid_loss"], valid["valid_loss_4-2"], valid["valid_loss_every-2-first-1"]})
            == 3
        )


def test_speeds_are_not_told_once_more_for_each_plan(trained: Run) -> None:
    valid = logged(trained.output, "valid")[-1]
    for name in ("4-2", "every-2-first-1"):
        metrics = {key.removesuffix(f"_{name}") for key in valid if key.endswith(f"_{name}")}
        assert metrics - {"valid_best_bleu"} == {
            "valid_loss",
            "valid_nll_loss",
            "valid_ppl",
            "valid_bleu",
        }


def test_a_plan_s_metric_chooses_the_best_checkpoint(trained: Run) -> None:
    scores = [float(valid["valid_bleu_4-2"]) for valid in logged(trained.output, "valid")]
    best = load(trained.folder / "checkpoint_best.pt")["extra_state"]
    assert best["best"] == best["val_loss"] == max(scores)


def test_two_plans_with_one_metric_name_are_refused() -> None:
    with pytest.raises(ValueError, match=r"--valid-plans.*4-2"):
        build_model(*MODEL, "--valid-plans", "4+2 4/2")


@pytest.mark.parametrize("plans", ["5+2", "all/9", "all"])
def test_a_plan_that_does_not_fit_the_model_is_refused(plans: str) -> None:
    with pytest.raises(ValueError, match=r"encoder|decoder"):
        build_model(*MODEL, "--valid-plans", plans)


class Criterion(torch.nn.Module):
    """A criterion that notes which layers it was asked to score, and fails at will."""

    def __init__(self, fails_at: int | None = None) -> None:
        super().__init__()
        self.seen: list[Any] = []
        self.fails_at = fails_at

    def forward(
        self, model: Any, sample: dict[str, Any]
    ) -> tuple[torch.Tensor, int, dict[str, Any]]:
        self.seen.append((model.encoder.layers.draw().active, model.decoder.layers.draw().active))
        if len(self.seen) - 1 == self.fails_at:
            raise RuntimeError("out of memory")
        logits, _ = model(**sample["net_input"])
        return logits.sum(), 1, {"loss": logits.sum().item()}


def valid_step(criterion: Criterion) -> tuple[Any, dict[str, Any]]:
    """One validation step of a new model over the plans; the model and its logging output."""
    cfg = config(*MODEL, *PLANS)
    task = build_task(cfg)
    model = task.build_model(cfg.model).eval()
    try:
        logging_output = task.valid_step(batch(), model, criterion)[2]
    except RuntimeError:
        logging_output = {}
    return model, logging_output


def test_validation_runs_the_full_model_then_each_plan() -> None:
    criterion = Criterion()
    valid_step(criterion)
    every = (0, 1, 2, 3)
    assert criterion.seen == [(every, every), (every, (0, 2)), ((0, 2), (0,))]


def test_the_loss_returned_is_the_full_model_s() -> None:
    criterion = Criterion()
    cfg = config(*MODEL, *PLANS)
    task = build_task(cfg)
    model = task.build_model(cfg.model).eval()
    loss, _, output = task.valid_step(batch(), model, criterion)
    assert loss.item() == output["loss"] == criterion(model, batch())[2]["loss"]
    assert len(set(output.values())) == 3


@pytest.mark.parametrize("fails_at", [None, 1, 2])
def test_the_model_is_whole_again_after_validation(fails_at: int | None) -> None:
    criterion = Criterion(fails_at)
    model, _ = valid_step(criterion)
    assert len(criterion.seen) == (3 if fails_at is None else fails_at + 1)
    assert model.encoder.layers.draw().active == model.decoder.layers.draw().active == (0, 1, 2, 3)
    model.train()
    model.encoder.layers.rates = (0.9,) * 4
    assert {len(model.encoder.layers.draw().active) for _ in range(20)} != {4}  # and draws again


def test_a_validation_step_s_output_is_numbers_under_the_same_names_each_time() -> None:
    """fairseq sums it across workers."""
    outputs = [valid_step(Criterion())[1] for _ in range(2)]
    assert outputs[0].keys() == outputs[1].keys()
    assert all(isinstance(value, (int, float)) for value in outputs[0].values())


def test_several_workers_outputs_are_reduced_to_what_the_restricted_model_gives() -> None:
    """An empty output is what fairseq hands out for a batch that fills up a shorter shard."""
    cfg = config(*MODEL, *PLANS, "--criterion", "cross_entropy")
    task = build_task(cfg)
    model = task.build_model(cfg.model).eval()
    criterion = task.build_criterion(cfg.criterion)

    def reduced() -> dict[str, float]:
        samples = [batch(sentences=2 + n, length=4 + n, seed=n) for n in range(3)]
        outputs = [task.valid_step(sample, model, criterion)[2] for sample in samples]
        with torch.no_grad(), metrics.aggregate(new_root=True) as meters:
            task.reduce_metrics([*outputs, {}], criterion)
        return meters.get_smoothed_values()

    whole = reduced()
    task.plans = {}
    model.decoder.layers.keep = (0, 2)
    assert whole["loss_4-2"] == reduced()["loss"] != whole["loss"]


# An epoch's end


@pytest.fixture
def no_collection() -> Iterator[None]:
    """A scope in which Python collects only where it is told to."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collection")
def test_the_data_workers_of_an_epoch_end_before_the_next(data: Path) -> None:
    cfg = config(*MODEL)
    task = build_task(cfg)
    task.cfg.data, task.cfg.source_lang, task.cfg.target_lang = str(data), "src", "tgt"
    task.load_dataset("valid")
    before = set(multiprocessing.active_children())
    options = {"max_sentences": 5, "num_workers": 1, "update_epoch_batch_itr": True}
    epoch = task.get_batch_iterator(task.dataset("valid"), **options)
    assert len(list(epoch.next_epoch_itr())) == 3
    del epoch
    assert len(set(multiprocessing.active_children()) - before) == 1
    task.begin_epoch(2, build_model(*MODEL))
    assert set(multiprocessing.active_children()) <= before
