# SPDX-License-Identifier: MIT
"""The families that are known to the last option, compared with fairseq's own configurations."""

import argparse
from dataclasses import fields
from typing import Any

import pytest
from builders import config
from fairseq.models import ARCH_MODEL_INV_REGISTRY, ARCH_MODEL_NAME_REGISTRY, MODEL_REGISTRY
from fairseq.models.transformer import TransformerConfig
from fairseq.models.transformer.transformer_config import (
    DecoderConfig,
    EncDecBaseConfig,
    QuantNoiseConfig,
)
from fairseq.models.transformer_lm import TransformerLanguageModelConfig

import fairseq_layerdrop
from fairseq_layerdrop.pruning.families import OPTIONS, family, own_options

fairseq_layerdrop.register()

NESTED: dict[str, Any] = {
    "encoder": EncDecBaseConfig,
    "decoder": DecoderConfig,
    "quant_noise": QuantNoiseConfig,
}


def transformer() -> set[str]:
    flat = {field.name for field in fields(TransformerConfig)} - NESTED.keys()
    return flat | {
        f"{part}_{field.name}" for part, of_it in NESTED.items() for field in fields(of_it)
    }


def flags(model: str) -> set[str]:
    parser = argparse.ArgumentParser(add_help=False, conflict_handler="resolve")
    MODEL_REGISTRY[model].add_args(parser)
    return {action.dest for action in parser._actions}


def test_the_options_are_those_of_fairseq() -> None:
    language_model = {field.name for field in fields(TransformerLanguageModelConfig)}
    whole = {
        "transformer": transformer(),
        "transformer_lm": transformer() | language_model,
        "roberta": transformer() | flags("roberta"),
        "bart": transformer() | flags("bart"),
    }
    assert {name: known - {"_name"} for name, known in whole.items()} == OPTIONS


def test_their_architectures_are_those_of_fairseq_and_of_this_package() -> None:
    found: dict[str | None, set[str]] = {}
    for arch in ARCH_MODEL_NAME_REGISTRY:
        found.setdefault(family(arch), set()).add(arch)
    for name in OPTIONS:
        ours = {arch for arch in found[name] if arch.startswith("layerdrop_")}
        assert ours and found[name] - ours == set(ARCH_MODEL_INV_REGISTRY[name])
    assert not {arch for arch in found[None] if arch.startswith("layerdrop_")}


@pytest.mark.parametrize("namespace", [False, True])
def test_options_of_other_sections_are_not_the_models_own(namespace: bool) -> None:
    cfg = config(ours=True, namespace=namespace)
    assert own_options(cfg) == {}
    model = vars(cfg["model"]) if namespace else cfg["model"]
    model["out_gain"] = 3
    assert own_options(cfg) == {"out_gain": 3}
