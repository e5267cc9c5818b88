# SPDX-License-Identifier: MIT
"""Each option of fairseq's models is mapped, has no effect, or is refused: none is forgotten."""

import argparse
from collections.abc import Iterator
from dataclasses import fields
from typing import Any, ClassVar

import pytest
from fairseq import utils
from fairseq.models import MODEL_DATACLASS_REGISTRY, MODEL_REGISTRY
from huggingface_models import FORMS, build

from fairseq_layerdrop.formats.huggingface import convert as dispatch
from fairseq_layerdrop.formats.huggingface import options, reading
from fairseq_layerdrop.formats.huggingface.options import ACTIVATIONS, refusals

MODELS = [
    *("transformer", "transformer_align", "bart", "transformer_lm", "roberta"),
    *("wav2vec2", "wav2vec_ctc", "hubert", "s2t_transformer"),
]
TABLES = {
    "mapped": options.MAPPED,
    "read off the model": options.READ_OFF_THE_MODEL,
    "without effect": options.WITHOUT_EFFECT,
    "refused": frozenset(options.REFUSED),
}
MADE_BY_A_TASK = {"conv_strides", "input_channels", "input_feat_per_channel"}


def declared(name: str) -> set[str]:
    """What a model of fairseq declares: arguments, and fields of its dataclass."""
    parser = argparse.ArgumentParser(argument_default=argparse.SUPPRESS, allow_abbrev=False)
    MODEL_REGISTRY[name].add_args(parser)
    found = {action.dest for action in parser._actions} - {"help"}
    if name in MODEL_DATACLASS_REGISTRY:
        found |= {field.name for field in fields(MODEL_DATACLASS_REGISTRY[name])}
    return found - {"_name"}


@pytest.mark.parametrize("name", MODELS)
def test_every_option_is_in_one_table(name: str) -> None:
    placed = {
        option: [table for table, names in TABLES.items() if option in names]
        for option in declared(name)
    }
    assert {option: tables for option, tables in placed.items() if len(tables) != 1} == {}


def test_the_tables_hold_nothing_that_fairseq_does_not_have() -> None:
    known = set().union(*map(declared, MODELS)) | MADE_BY_A_TASK
    # Of architectures, in files before 2021.
    known |= {"decoder_input_dim", "max_source_positions", "max_target_positions"}
    assert {name for names in TABLES.values() for name in names} <= known


def test_every_activation_has_a_name_in_transformers() -> None:
    assert {*utils.get_available_activation_fns()} <= ACTIVATIONS.keys()


class Recorded(dict[str, Any]):
    """Options that remember which of them were read."""

    read: ClassVar[set[str]] = set()

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return super().__getitem__(name)


def test_what_is_mapped_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recorded, "read", set())
    mapped = reading.mapped
    monkeypatch.setattr(reading, "mapped", lambda options: Recorded(mapped(options)))
    for name in ("RoBERTa", "BART", "post-norm", "language model", "pre-norm language model"):
        dispatch.convert(*build(*FORMS[name][1]))
    sound = {name for name in options.MAPPED if name.startswith(("conv", "mask", "input"))}
    sound |= {"dropout_input", "final_dropout", "layer_norm_first"}
    of_heads = {"pooler_activation_fn", "pooler_dropout"}
    assert options.MAPPED - sound - of_heads == Recorded.read


def cases() -> Iterator[tuple[str, Any]]:
    for name, unused in options.REFUSED.items():
        yield name, "other" if isinstance(unused[0], str) else 7


@pytest.mark.parametrize(("name", "value"), cases())
def test_an_option_without_a_home_is_named(name: str, value: Any) -> None:
    (found,) = refusals({name: value})
    assert found.startswith(f"--{name.replace('_', '-')}")
    assert [*refusals({name: options.REFUSED[name][0]})] == []
