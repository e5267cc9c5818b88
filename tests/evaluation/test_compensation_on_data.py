# SPDX-License-Identifier: MIT
"""Compensation on models and data: what it gains, what it leaves alone, the model whole again."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq_programs import STYLE, WIDTH
from planted import poison, write_model

from fairseq_layerdrop.evaluation.calibration import calibration
from fairseq_layerdrop.evaluation.compensation import Compensation, Compensator
from fairseq_layerdrop.evaluation.loading import Batches, Loaded, load
from fairseq_layerdrop.evaluation.losses import score_losses
from fairseq_layerdrop.evaluation.streams import layers, replaced, see
from fairseq_layerdrop.modules.subnetwork import depths, restricted
from fairseq_layerdrop.pruning.compensation import gaps
from fairseq_layerdrop.pruning.plan import PruningPlan


def plan_of(loaded: Loaded, text: str) -> PruningPlan:
    return PruningPlan.parse(text, depths(loaded.model))


def compensate(loaded: Loaded, text: str, tokens: int = 1500) -> Compensation:
    return Compensator(loaded, calibration(loaded, tokens=tokens))(plan_of(loaded, text))


def loss_on(loaded: Loaded, subset: str, text: str, found: Compensation | None = None) -> float:
    with replaced(loaded.model, found.weights if found else {}):
        samples = Batches(loaded, subset).samples
        (losses,) = score_losses(loaded, samples, [plan_of(loaded, text).kept])
    return losses.loss


@pytest.fixture(scope="module")
def pairs(official: Path) -> Loaded:
    return load(str(official / "checkpoint.pt"), str(official / "data-bin"))


@pytest.fixture(scope="module")
def language_model(fixtures: Path) -> Loaded:
    folder = fixtures / "lm-0.12.2"
    return load(str(folder / "checkpoint.pt"), str(folder / "data-bin"))


@pytest.mark.parametrize("text", ["6+4", "6+2"])
def test_half_of_what_pruning_costs_a_translation_model_comes_back(
    pairs: Loaded, text: str
) -> None:
    whole, cut = loss_on(pairs, "test", "all/all"), loss_on(pairs, "test", text)
    mended = loss_on(pairs, "test", text, compensate(pairs, text))
    assert mended - whole < (cut - whole) / 2


@pytest.mark.parametrize("text", ["even:4", "even:2"])
def test_half_of_what_pruning_costs_a_language_model_comes_back(
    language_model: Loaded, text: str
) -> None:
    whole, cut = loss_on(language_model, "test", "all"), loss_on(language_model, "test", text)
    mended = loss_on(language_model, "test", text, compensate(language_model, text, tokens=99999))
    assert mended - whole < (cut - whole) / 2


def test_an_encoder_that_stays_whole_runs_once_for_all_gaps(pairs: Loaded) -> None:
    data = calibration(pairs, tokens=1500)
    compensator, ran = Compensator(pairs, data), []
    hook = pairs.model.encoder.layers[0].register_forward_pre_hook(lambda *_: ran.append(1))
    try:
        for text in ("6+4", "6+2"):
            compensator(plan_of(pairs, text))
        assert len(ran) == len(data.fit) + len(data.held_out)
        compensator(plan_of(pairs, "5+2"))
        assert len(ran) > 4 * len(data.fit)
    finally:
        hook.remove()


def test_no_plan_is_worse_with_it_than_without_on_sentences_that_it_has_not_seen(
    pairs: Loaded, language_model: Loaded
) -> None:
    draw = random.Random(1)
    for loaded in (pairs, pairs, pairs, language_model, language_model):
        sides = [
            ",".join(map(str, draw.sample(range(depth), draw.randint(1, depth - 1))))
            for depth in depths(loaded.model).values()
        ]
        text = "/".join(sides)
        found = compensate(loaded, text, tokens=99999)
        assert found.loss <= found.cut
        assert loss_on(loaded, "test", text, found) <= loss_on(loaded, "test", text) + 0.01, text


TINY = [
    *("--task", "translation", "--arch", "transformer", *STYLE),
    *("--encoder-layers", "3", "--decoder-layers", "3"),
]


def test_the_model_is_whole_afterwards(pairs: Loaded) -> None:
    before = {name: tensor.clone() for name, tensor in pairs.model.state_dict().items()}
    found = compensate(pairs, "even:3/0,3")
    assert found.weights
    after = pairs.model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert {stack: len(own) for stack, own in layers(pairs.model).items()} == depths(pairs.model)
    assert not any(module._forward_hooks for module in pairs.model.modules())


def test_only_layers_before_gaps_change_and_of_these_only_the_last_map(pairs: Loaded) -> None:
    found = compensate(pairs, "all/0-3")
    assert set(found.weights) == {"decoder.layers.3.fc2.weight", "decoder.layers.3.fc2.bias"}


def test_each_gap_says_what_became_of_it(pairs: Loaded) -> None:
    found = compensate(pairs, "1-5/0,2,4")
    assert [str(outcome.gap) for outcome in found.outcomes] == [
        "decoder layer 1",
        "decoder layer 3",
        "decoder layer 5",
    ]
    losses = [found.cut, *(outcome.loss for outcome in found.outcomes)]
    assert losses == sorted(losses, reverse=True)
    for outcome, before in zip(found.outcomes, losses, strict=False):
        assert (outcome.loss < before) == (outcome.share is not None)
    assert found.notes == [
        "the first layers of the encoder go, with no layer before them to make up for them"
    ]


def test_sentences_to_fit_on_and_held_out_ones_have_none_in_common(pairs: Loaded) -> None:
    data = calibration(pairs, tokens=400)
    ids = [{int(i) for batch in part for i in batch["id"]} for part in (data.fit, data.held_out)]
    assert not ids[0] & ids[1]
    assert data.subset == "valid"
    assert data.sentences == (len(ids[0]), len(ids[1]))
    again = calibration(pairs, tokens=400)
    assert [b["id"].tolist() for b in again.fit] == [b["id"].tolist() for b in data.fit]


def test_a_plan_that_keeps_all_is_refused(pairs: Loaded) -> None:
    with pytest.raises(ValueError, match="removes layers, got one that keeps all"):
        compensate(pairs, "all/all")


def test_a_subset_that_is_not_there_is_refused(pairs: Loaded) -> None:
    with pytest.raises(ValueError, match="there is no subset train in the data"):
        calibration(pairs, subset="train")


def test_one_sentence_is_too_few(pairs: Loaded) -> None:
    with pytest.raises(ValueError, match="at least 2 sentences to fit on and to hold out, got 1"):
        calibration(pairs, tokens=1)


def test_activations_that_are_no_numbers_are_refused(data: Path, tmp_path: Path) -> None:
    loaded = load(str(write_model(data, tmp_path / "model.pt", *TINY)), str(data))
    poison(loaded, "decoder", 1)
    with pytest.raises(ValueError, match="numbers, got others in the decoder after layer 0 or 1"):
        compensate(loaded, "all/0,2")


def test_layers_that_share_their_weights_are_left_alone(pairs: Loaded, official: Path) -> None:
    loaded = load(str(official / "checkpoint.pt"), str(official / "data-bin"))
    shared = layers(loaded.model)["decoder"]
    shared[3] = shared[2]
    found = compensate(loaded, "all/2-3")
    assert not found.weights
    assert "shares its weights" in str(found.outcomes[0])


SIZES = ["--encoder-layers", "3", "--decoder-layers", "3"]
FAMILIES: dict[str, tuple[str, list[str]]] = {
    "norms before": ("all/0,2", ["--task", "translation", "--arch", "transformer", *STYLE, *SIZES]),
    "norms behind": (
        "0/1",
        [
            "--task",
            "translation",
            "--arch",
            "transformer",
            *WIDTH,
            "--share-all-embeddings",
            *SIZES,
        ],
    ),
    "bart": ("0,1/0,2", ["--task", "translation", "--arch", "bart_base", *WIDTH, *SIZES]),
    "language model": (
        "0,2",
        [
            *("--task", "language_modeling", "--arch", "transformer_lm", *WIDTH[6:], *SIZES[2:]),
            *("--decoder-input-dim", "32", "--decoder-output-dim", "32"),
            *("--tokens-per-sample", "16"),
        ],
    ),
    "masked language model": (
        "0,2",
        [
            *("--task", "masked_lm", "--arch", "roberta_base", *WIDTH[:6], *SIZES[:2]),
            *("--tokens-per-sample", "16", "--sample-break-mode", "complete"),
        ],
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_what_follows_a_gap_gets_more_of_what_it_had(
    family: str, data: Path, text_data: Path, tmp_path: Path
) -> None:
    text, flags = FAMILIES[family]
    folder = text_data if "language model" in family else data
    loaded = load(str(write_model(folder, tmp_path / "model.pt", *flags)), str(folder))
    calibrated = calibration(loaded, tokens=99999)
    compensator, plan = Compensator(loaded, calibrated), plan_of(loaded, text)
    for gap in gaps(plan):
        weights = compensator.refit(plan, gap, {}).weights
        layer, last = (layers(loaded.model)[gap.stack][i] for i in (gap.layer, gap.last))

        def end(found: Any, of: Any) -> torch.Tensor:
            return found.stream if of.normalize_before else of.final_layer_norm(found.stream)

        for sample in calibrated.held_out:
            whole = end(see(loaded, sample, gap.stack, last), last)
            with restricted(loaded.model, plan.kept):
                cut = end(see(loaded, sample, gap.stack, layer), layer)
            with replaced(loaded.model, weights), restricted(loaded.model, plan.kept):
                mended = end(see(loaded, sample, gap.stack, layer), layer)
            assert (mended - whole).square().sum() < 0.9 * (cut - whole).square().sum()


def test_a_shift_that_a_removed_layer_adds_goes_into_the_bias(data: Path, tmp_path: Path) -> None:
    loaded = load(str(write_model(data, tmp_path / "model.pt", *TINY)), str(data))
    removed = layers(loaded.model)["decoder"][1]
    with torch.no_grad():
        for module in (removed.self_attn.out_proj, removed.encoder_attn.out_proj, removed.fc2):
            module.weight.zero_()
            module.bias.zero_()
        removed.fc2.bias.copy_(torch.linspace(-1, 1, 32))
    plan = plan_of(loaded, "all/0,2")
    (gap,) = gaps(plan)
    weights = Compensator(loaded, calibration(loaded, tokens=99999)).refit(plan, gap, {}).weights
    found = Compensation(weights, [], 0.0)
    whole = loss_on(loaded, "test", "all/all")
    assert loss_on(loaded, "test", "all/0,2", found) == pytest.approx(whole, abs=1e-4)
    assert loss_on(loaded, "test", "all/0,2") != pytest.approx(whole, abs=1e-2)
