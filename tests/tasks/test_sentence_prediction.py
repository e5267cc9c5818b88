# SPDX-License-Identifier: MIT
"""``layerdrop_sentence_prediction``: fine-tuned with plans, depth on demand, its head."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from conftest import Run
from fairseq_programs import (
    USER_DIR,
    WIDTH,
    batch,
    build_task,
    config,
    evaluate,
    fairseq,
    logged,
    masked_lm_data,
    prune,
    sentence_data,
    weights,
)

import fairseq_layerdrop
from fairseq_layerdrop.checkpoint import load

fairseq_layerdrop.register()

PLUGIN = ["--user-dir", str(USER_DIR)]
TASK = ["--task", "layerdrop_sentence_prediction", "--num-classes", "2", "--max-positions", "24"]
MODEL = [
    "--arch",
    "layerdrop_roberta",
    *WIDTH[:6],
    "--encoder-layers",
    "4",
    "--encoder-layerdrop",
    "0.5",
]
BATCHES = ["--required-batch-size-multiple", "1", "--cpu", "--num-workers", "0"]
LOG = ["--no-progress-bar", "--log-format", "json", "--log-interval", "1"]
CRITERION = ["--criterion", "sentence_prediction"]
PLANS = {"even-2": "even:2", "0-3": "0,3"}  # by the names that they have in metrics
HEAD = "sentence_classification_head"


class Data(NamedTuple):
    """Two data sets with one dictionary."""

    text: Path
    classes: Path


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Data:
    text = masked_lm_data(tmp_path_factory.mktemp("text"))
    return Data(text, sentence_data(tmp_path_factory.mktemp("classes"), text / "dict.txt"))


@pytest.fixture(scope="module")
def pretrained(corpus: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 4-layer RoBERTa after two epochs of masked language modelling with LayerDrop."""
    folder = tmp_path_factory.mktemp("pretrained")
    task = [
        *PLUGIN,
        "--task",
        "layerdrop_masked_lm",
        "--tokens-per-sample",
        "24",
        "--criterion",
        "masked_lm",
    ]
    flags = [
        "--optimizer",
        "adam",
        "--lr",
        "0.005",
        "--max-epoch",
        "2",
        "--batch-size",
        "3",
        "--disable-validation",
    ]
    flags += ["--no-epoch-checkpoints"]
    fairseq("train", corpus.text, *task, *MODEL, *BATCHES, *LOG, *flags, "--save-dir", folder)
    return folder / "checkpoint_last.pt"


@pytest.fixture(scope="module")
def trained(corpus: Data, pretrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """That model fine-tuned to tell two classes apart, with LayerDrop and two plans."""
    folder = tmp_path_factory.mktemp("fine-tuned")
    flags = [
        "--restore-file",
        pretrained,
        "--reset-optimizer",
        "--reset-dataloader",
        "--reset-meters",
    ]
    flags += [
        "--optimizer",
        "adam",
        "--lr",
        "0.005",
        "--max-epoch",
        "10",
        "--batch-size",
        "10",
        "--init-token",
        "0",
    ]
    flags += ["--valid-plans", " ".join(PLANS.values()), "--batch-size-valid", "4"]
    flags += ["--best-checkpoint-metric", "accuracy_even-2", "--maximize-best-checkpoint-metric"]
    flags += ["--no-epoch-checkpoints"]
    task = [*PLUGIN, *TASK, *CRITERION]
    return Run(
        folder,
        fairseq(
            "train", corpus.classes, *task, *MODEL, *BATCHES, *LOG, *flags, "--save-dir", folder
        ),
    )


@pytest.fixture(scope="module")
def metrics(
    trained: Run, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], dict[str, float]]:
    """``metrics("0,3")["accuracy"]``: the pruned file's, on the validation set, in stock."""
    folder = tmp_path_factory.mktemp("pruned")
    return lambda spec: evaluate(
        prune(trained.last, folder / "small.pt", "--encoder-keep", spec, "--force")
    )


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_s_metrics_are_those_of_the_pruned_file(
    trained: Run, metrics: Callable[[str], dict[str, float]], name: str
) -> None:
    valid = logged(trained.output, "valid")[-1]  # 15 sentences in batches of 4, 4, 4 and 3
    own = metrics(PLANS[name])  # in one batch
    for metric, precision in (
        ("loss", 0.0006),
        ("nll_loss", 0.0006),
        ("accuracy", 0.06),
    ):  # as they are logged
        assert float(valid[f"valid_{metric}_{name}"]) == pytest.approx(
            own[metric], abs=precision
        ), metric


def test_the_full_model_and_each_plan_have_metrics_of_their_own(
    trained: Run, metrics: Callable[[str], dict[str, float]]
) -> None:
    valid = logged(trained.output, "valid")[-1]
    assert float(valid["valid_accuracy"]) == pytest.approx(metrics("all")["accuracy"], abs=0.06)
    for metric in ("loss", "accuracy"):
        assert len({valid[f"valid_{metric}{name}"] for name in ("", "_even-2", "_0-3")}) == 3


def test_a_plan_s_accuracy_chooses_the_best_checkpoint(trained: Run) -> None:
    scores = [float(valid["valid_accuracy_even-2"]) for valid in logged(trained.output, "valid")]
    best = load(trained.folder / "checkpoint_best.pt")["extra_state"]
    assert best["best"] == best["val_loss"] == max(scores) > min(scores)


def test_fine_tuning_starts_from_the_pretrained_weights_and_trains_a_new_head(
    trained: Run, pretrained: Path
) -> None:
    before, after = weights(pretrained), weights(trained.last)
    assert {name for name in after if name not in before} == {
        f"classification_heads.{HEAD}.{part}"
        for part in ("dense.weight", "dense.bias", "out_proj.weight", "out_proj.bias")
    }
    unused = "encoder.lm_head.dense.weight"
    assert torch.equal(before[unused], after[unused])
    positions = "encoder.sentence_encoder.embed_positions.weight"
    assert torch.equal(before[positions][14:], after[positions][14:])  # no sentence is so long
    assert not torch.equal(before[positions], after[positions])


def test_training_drops_layers_at_the_rate_asked_for(trained: Run) -> None:
    rates = [float(step["encoder_keep"]) for step in logged(trained.output, "train_inner")]
    assert set(rates) <= {0.25, 0.5, 0.75, 1.0}
    assert 0.4 < sum(rates) / len(rates) < 0.7  # with the minimum of one, the mean is 0.516


@pytest.mark.parametrize("report", ["mcc", "acc_and_f1", "pearson_and_spearman"])
def test_a_plan_has_glue_s_metrics_too(trained: Run, tmp_path: Path, report: str) -> None:
    """They are computed from all predictions at once, not from sums over batches."""
    both = evaluate(trained.last, **{f"report_{report}": True})
    small = prune(trained.last, tmp_path / "small.pt", "--encoder-keep", PLANS["0-3"])
    assert (
        both[f"{report}_0-3"]
        == evaluate(small, **{f"report_{report}": True})[report]
        != both[report]
    )


# Depth on demand


def test_depth_on_demand_by_override_has_the_pruned_file_s_loss(
    trained: Run, metrics: Callable[[str], dict[str, float]]
) -> None:
    restricted = {
        spec: evaluate(trained.last, encoder_keep=spec) for spec in ("0,2", "1", "last:3")
    }
    for spec, own in restricted.items():
        assert own["loss"] == pytest.approx(metrics(spec)["loss"], abs=1e-5)
        assert own["accuracy"] == metrics(spec)["accuracy"]
    assert len({own["loss"] for own in restricted.values()}) == 3


def test_depth_on_demand_by_override_reaches_fairseq_validate(
    corpus: Data, trained: Run, metrics: Callable[[str], dict[str, float]]
) -> None:
    flags = [
        "--path",
        trained.last,
        "--model-overrides",
        "{'encoder_keep': '0,2'}",
        "--batch-size",
        "4",
    ]
    output = fairseq("validate", corpus.classes, *PLUGIN, *TASK, *CRITERION, *BATCHES, *LOG, *flags)
    (valid,) = logged(output, "valid")
    assert float(valid["valid_loss"]) == pytest.approx(metrics("0,2")["loss"], abs=0.0006)
    assert float(valid["valid_accuracy"]) == pytest.approx(metrics("0,2")["accuracy"], abs=0.06)
    assert metrics("0,2")["accuracy"] != metrics("all")["accuracy"]


def test_a_decoder_is_refused_where_there_is_none(trained: Run) -> None:
    with pytest.raises(ValueError, match="decoder: the model has no such stack"):
        evaluate(trained.last, decoder_keep="0")


def test_training_refuses_layers_to_keep_by_the_mend() -> None:
    cfg = config(*TASK, *CRITERION, *MODEL, "--encoder-keep", "0,2")
    with pytest.raises(ValueError, match=r"--encoder-keep .*`fairseq-layerdrop prune`"):
        build_task(cfg).build_model(cfg.model)


# The head elsewhere


def test_the_hub_s_interface_predicts_with_the_trained_head(
    corpus: Data, trained: Run, tmp_path: Path
) -> None:
    """``from_pretrained`` of our model for its own file, of stock's for the pruned one."""
    from fairseq.models.roberta import RobertaModel

    from fairseq_layerdrop.models.roberta import LayerDropRoberta

    prune(trained.last, tmp_path / "small.pt", "--encoder-keep", "0,3")
    sentences = torch.tensor([[0, 4, 5, 6, 2], [0, 9, 8, 7, 2]])
    place = {"data_name_or_path": str(corpus.classes), "bpe": None}
    ours = LayerDropRoberta.from_pretrained(
        str(trained.folder), "checkpoint_last.pt", **place
    ).eval()
    stock = RobertaModel.from_pretrained(str(tmp_path), "small.pt", **place).eval()
    assert type(stock.model) is RobertaModel
    whole = ours.predict(HEAD, sentences)
    ours.model.encoder.sentence_encoder.layers.keep = (0, 3)
    assert torch.equal(ours.predict(HEAD, sentences), stock.predict(HEAD, sentences))
    assert not torch.equal(ours.predict(HEAD, sentences), whole)


def test_a_bart_is_fine_tuned_and_validated_with_plans_too() -> None:
    model_flags = [
        "--arch",
        "layerdrop_bart",
        *WIDTH,
        "--encoder-layers",
        "4",
        "--decoder-layers",
        "4",
    ]
    cfg = config(
        *TASK, *CRITERION, *model_flags, "--add-prev-output-tokens", "--valid-plans", "0,3/1 4+2"
    )
    task = build_task(cfg)
    model, criterion = task.build_model(cfg.model), task.build_criterion(cfg.criterion)
    sample = {**batch(), "target": torch.tensor([[0], [1], [1]])}
    loss, sample_size, _ = criterion(model.train(), sample)
    loss.backward()
    assert (sample_size, bool(torch.isfinite(loss))) == (3, True)
    _, _, output = task.valid_step(sample, model, criterion)
    model.encoder.layers.keep, model.decoder.layers.keep = (0, 3), (1,)
    expected = criterion(model.eval(), sample)[2]["loss"]
    assert output["_plan_0-3-1_loss"] == expected
    assert len({output["loss"].item(), expected.item(), output["_plan_4-2_loss"].item()}) == 3
