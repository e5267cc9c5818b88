# SPDX-License-Identifier: MIT
"""Each option of fairseq's models is mapped, has no effect, or is refused: none is forgotten."""

import argparse
import re
from collections.abc import Iterable, Iterator
from dataclasses import fields, make_dataclass
from pathlib import Path
from typing import Any, ClassVar

import fairseq
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
STACKS = ("base", "config", "decoder", "encoder", "legacy")
SOURCES = [
    *(f"models/transformer/transformer_{name}.py" for name in STACKS),
    *("models/transformer_align.py", "models/transformer_lm.py", "models/bart/model.py"),
    *("models/roberta/model.py", "models/hubert/hubert.py", "modules/transformer_layer.py"),
    *("models/wav2vec/wav2vec2.py", "models/wav2vec/wav2vec2_asr.py"),
    "models/speech_to_text/s2t_transformer.py",
]
"""The files of fairseq that these models are built by."""
UNDECLARED = {
    *("autoregressive", "decoder_dropout"),  # of wav2vec models with a decoder, which have no home
    *("ctc_weight", "tgt_dict_size"),  # of a head beside the decoder, for training
    *("decoder_final_norm", "no_tie_adaptive_proj"),  # old names: fairseq sets the new ones
    "task",  # of what BART's heads are for
}
"""What these files read and no model declares."""
MADE_BY_A_TASK = {"conv_strides", "input_channels", "input_feat_per_channel"}


def declared(name: str) -> set[str]:
    """What a model of fairseq declares: arguments, and fields of its dataclass."""
    parser = argparse.ArgumentParser(argument_default=argparse.SUPPRESS, allow_abbrev=False)
    MODEL_REGISTRY[name].add_args(parser)
    found = {action.dest for action in parser._actions} - {"help"}
    if name in MODEL_DATACLASS_REGISTRY:
        found |= {field.name for field in fields(MODEL_DATACLASS_REGISTRY[name])}
    return found - {"_name"}


def unplaced(names: Iterable[str]) -> dict[str, list[str]]:
    """The options that are not in one table, and the tables that they are in."""
    placed = {
        option: [table for table, names in TABLES.items() if option in names] for option in names
    }
    return {option: tables for option, tables in placed.items() if len(tables) != 1}


@pytest.mark.parametrize("name", MODELS)
def test_every_option_is_in_one_table(name: str) -> None:
    assert unplaced(declared(name)) == {}


def test_a_new_option_of_fairseq_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    model, config = MODEL_REGISTRY["bart"], MODEL_DATACLASS_REGISTRY["wav2vec2"]
    add_args = model.add_args

    def add_more(parser: argparse.ArgumentParser) -> None:
        add_args(parser)
        parser.add_argument("--new-norm")

    monkeypatch.setattr(model, "add_args", staticmethod(add_more))
    longer = make_dataclass("Longer", [("new_rate", float, 0.0)], bases=(config,))
    monkeypatch.setitem(MODEL_DATACLASS_REGISTRY, "wav2vec2", longer)
    assert unplaced(declared("bart")) == {"new_norm": []}
    assert unplaced(declared("wav2vec2")) == {"new_rate": []}


_READ = re.compile(
    r"\b(?:args|cfg)\.(?:(encoder|decoder|quant_noise)\.)?([a-z]\w*)\b(?!\()"
    r"|attr\(\s*(?:self\.)?(?:args|cfg),\s*\"(\w+)\""
)


def read_by(text: str) -> set[str]:
    """The options that a program reads, those of a nested section with its name before them."""
    found = {f"{one}_{two}" if one else two or three for one, two, three in _READ.findall(text)}
    sections = {"encoder", "decoder", "quant_noise"}
    return {name for name in found - sections if not name.startswith("_")}


def test_no_option_is_read_behind_the_tables_back() -> None:
    assert read_by('cfg.decoder.size + self.args.x; getattr(args, "y", 1); cfg.get("z")') == {
        *("decoder_size", "x", "y")
    }
    root = Path(fairseq.__file__).parent
    read = set().union(*(read_by((root / file).read_text("utf-8")) for file in SOURCES))
    assert len(read) > 150
    assert {*unplaced(read)} == UNDECLARED


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
