# SPDX-License-Identifier: MIT
"""``layerdrop_transformer_lm`` against fairseq's own ``transformer_lm`` of the same sizes."""

import dataclasses
from typing import Any

import pytest
import torch
from fairseq.models import ARCH_MODEL_INV_REGISTRY
from fairseq_programs import (
    after_training,
    assert_same_tensors,
    batch,
    build_model,
    build_task,
    config,
    loss_of,
)

import fairseq_layerdrop
from fairseq_layerdrop.models._config import LayerDropConfig

fairseq_layerdrop.register()

WIDTH = [
    *("--decoder-embed-dim", "32", "--decoder-input-dim", "32", "--decoder-output-dim", "32"),
    *(
        "--decoder-ffn-embed-dim",
        "32",
        "--decoder-attention-heads",
        "2",
        "--decoder-normalize-before",
    ),
]
SIZES = [*WIDTH, "--decoder-layers", "4", "--task", "layerdrop_language_modeling"]
OURS = ["--arch", "layerdrop_transformer_lm", *SIZES]
STOCK = ["--arch", "transformer_lm", *SIZES]
WIKI = ["--task", "layerdrop_language_modeling", "--tokens-per-sample", "8"]
TWINS = {
    "layerdrop_transformer_lm": ("transformer_lm", []),
    "layerdrop_transformer_lm_wiki103": ("transformer_lm_wiki103", []),
    "layerdrop_transformer_lm_wiki103_40": (
        "transformer_lm_wiki103",
        ["--decoder-layers", "40", "--decoder-ffn-embed-dim", "2560"],
    ),
}


def tokens(seed: int = 11) -> dict[str, Any]:
    """A sample of a language model: the source alone."""
    sample = batch(seed=seed)
    words = sample["net_input"]["src_tokens"]
    inputs = {"src_tokens": words[[0, 2]], "src_lengths": torch.tensor([6, 6])}
    return {**sample, "net_input": inputs, "target": words[[0, 2]].roll(-1, dims=1)}


def parameters(*flags: str) -> int:
    """The parameters of a Wikitext-103 model with that dictionary, without making weights."""
    cfg = config(*flags)
    task = build_task(cfg)
    words = type("Words", (), {"__len__": lambda _: 267744, "pad": lambda _: 1})()
    task.dictionary = task.output_dictionary = words
    with torch.device("meta"):
        return sum(p.numel() for p in task.build_model(cfg.model).parameters())


def test_every_architecture_is_known_to_these_tests() -> None:
    assert set(ARCH_MODEL_INV_REGISTRY["layerdrop_transformer_lm"]) == set(TWINS)


@pytest.mark.parametrize("name", TWINS)
def test_architecture_has_the_values_of_its_stock_twin(name: str) -> None:
    stock, flags = TWINS[name]
    ours, theirs = (
        dict(config("--arch", arch, *WIKI, *more).model)
        for arch, more in ((name, []), (stock, flags))
    )
    assert ours.pop("decoder_layerdrop") == 0.2
    added = {f.name for f in dataclasses.fields(LayerDropConfig)}
    assert {k: v for k, v in ours.items() if k not in added} == {
        k: theirs[k] for k in ours if k not in added
    }


@pytest.mark.parametrize(
    ("flags", "count"),
    [
        (["--arch", "layerdrop_transformer_lm_wiki103"], 246_933_504),  # fairseq's LayerDrop README
        (
            ["--arch", "layerdrop_transformer_lm_wiki103", "--decoder-layers", "8"],
            146_163_712,
        ),  # likewise, pruned
        (
            ["--arch", "layerdrop_transformer_lm_wiki103", "--decoder-layers-to-keep", "every:2"],
            146_163_712,
        ),
        (["--arch", "layerdrop_transformer_lm_wiki103_40"], 423_352_320),  # the paper says 423M
    ],
)
def test_wikitext_models_have_the_published_number_of_parameters(
    flags: list[str], count: int
) -> None:
    assert parameters(*flags, *WIKI) == count


def test_rate_zero_trains_as_stock_does_to_the_bit() -> None:
    samples = [tokens(update) for update in range(3)]
    never = ["--decoder-layerdrop", "0"]
    stock, ours = (
        after_training(samples, *flags, "--dropout", "0.1") for flags in (STOCK, [*OURS, *never])
    )
    assert ours[0] == stock[0]
    assert_same_tensors(ours[1], stock[1])


def test_evaluation_gives_stock_s_outputs_to_the_bit() -> None:
    stock, ours = (
        build_model(*STOCK).eval(),
        build_model(*OURS, "--decoder-layerdrop", "0.5", seed=6).eval(),
    )
    ours.load_state_dict(stock.state_dict())
    inputs = tokens()["net_input"]
    assert torch.equal(ours(**inputs)[0], stock(**inputs)[0])


def test_a_training_step_skips_layers_and_reaches_every_parameter() -> None:
    model = build_model(*OURS, "--decoder-layerdrop", "0.9").train()
    loss_of(model, tokens()).backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]
    idle = [
        layer for layer in model.decoder.layers if not any(p.grad.any() for p in layer.parameters())
    ]
    assert 1 <= len(idle) <= 3


def test_layers_to_keep_prune_a_deeper_state_dict() -> None:
    full = build_model(*OURS)
    small = build_model(*OURS, "--decoder-layers-to-keep", "0,3", seed=6)
    small.load_state_dict(full.state_dict())
    assert len(small.decoder.layers) == 2
    assert torch.equal(small.decoder.layers[1].fc1.weight, full.decoder.layers[3].fc1.weight)


def test_a_rate_that_is_no_probability_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"--decoder-layerdrop: .*1\.5"):
        build_model(*OURS, "--decoder-layerdrop", "1.5")
