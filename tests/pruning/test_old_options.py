# SPDX-License-Identifier: MIT
"""The options of old checkpoints in sections, against those that fairseq makes of them."""

from argparse import Namespace
from dataclasses import fields
from typing import Any

import pytest
from fairseq import options
from fairseq.criterions import CRITERION_DATACLASS_REGISTRY
from fairseq.dataclass.configs import FairseqConfig
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from omegaconf import OmegaConf

from fairseq_layerdrop.pruning.old_options import CRITERIONS, DEFAULTS, upgrade_options

TRANSLATION = [
    *("--task", "translation", "--arch", "transformer", "--source-lang", "en"),
    *("--criterion", "label_smoothed_cross_entropy", "--label-smoothing", "0.2"),
    *("--optimizer", "adam", "--adam-betas", "(0.9, 0.98)", "--lr", "0.01", "--max-tokens", "99"),
    *("--lr-scheduler", "inverse_sqrt", "--clip-norm", "2", "--update-freq", "4", "--fp16"),
]
SENTENCEPIECE = ["--bpe", "sentencepiece", "--sentencepiece-model", "spm.model"]
MOSES = ["--tokenizer", "moses", "--target-lang", "de", "--moses-no-escape"]
ROBERTA = [
    *("--task", "masked_lm", "--arch", "roberta_base", "--criterion", "masked_lm"),
    *("--bpe", "gpt2", "--batch-size", "8", "--optimizer", "nag"),
]
TRAININGS = {
    "translation": TRANSLATION,
    "with pieces and words": [*TRANSLATION, *SENTENCEPIECE, *MOSES],
    "roberta": ROBERTA,
}


def sections(args: Namespace) -> dict[str, Any]:
    cfg: dict[str, Any] = upgrade_options({"args": args})["cfg"]
    return cfg


def arguments(flags: list[str]) -> Namespace:
    """Of a training, in one Namespace, as fairseq wrote them."""
    return options.parse_args_and_arch(options.get_training_parser(), ["DATA", *flags])


@pytest.mark.parametrize("name", TRAININGS)
def test_a_section_has_what_fairseq_puts_there(name: str) -> None:
    args = arguments(TRAININGS[name])
    cfg = OmegaConf.to_container(convert_namespace_to_omegaconf(args))
    assert isinstance(cfg, dict)
    ours = sections(args)
    assert ours.keys() <= cfg.keys()
    for section, mine in ours.items():
        theirs = cfg[section]
        if section in ("bpe", "tokenizer"):
            assert mine == theirs
        elif section in ("task", "optimizer"):
            common = mine.keys() & theirs.keys()
            assert len(common) >= len(theirs) - 2  # of which some are another section's
            assert {key: mine[key] for key in common} == {key: theirs[key] for key in common}
        elif section != "model":
            assert mine == {key: theirs[key] for key in mine}


def test_what_an_old_file_does_not_say_is_fairseqs_default() -> None:
    for section, defaults in DEFAULTS.items():
        theirs = getattr(FairseqConfig(), section)()
        for name, default in defaults.items():
            value = getattr(theirs, name)
            assert default == (None if str(value).startswith("${") else value), name


def test_the_fields_of_a_criterion_are_those_of_fairseq() -> None:
    for name, names in CRITERIONS.items():
        known = {field.name for field in fields(CRITERION_DATACLASS_REGISTRY[name])}
        assert known - {"_name"} == set(names)


def test_batches_of_sentences_have_todays_name() -> None:
    found = sections(Namespace(arch="transformer", max_sentences=8))
    assert (found["dataset"]["batch_size"], found["dataset"]["max_tokens"]) == (8, None)
    assert (found["bpe"], found["tokenizer"]) == (None, None)
