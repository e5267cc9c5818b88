# SPDX-License-Identifier: MIT
"""The options of old checkpoints in sections, against those that fairseq makes of them."""

from argparse import Namespace
from typing import Any

import pytest
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from omegaconf import OmegaConf

from fairseq_layerdrop.pruning.old_options import upgrade_options

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
    *("--bpe", "gpt2", "--batch-size", "8"),
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
        if section in ("bpe", "tokenizer") or theirs is None:
            assert mine == theirs
        elif section in ("task", "criterion", "optimizer"):
            common = mine.keys() & theirs.keys()
            assert len(common) >= len(theirs) - 2  # of which some are another section's
            assert {key: mine[key] for key in common} == {key: theirs[key] for key in common}
        elif section != "model":
            assert mine == {key: theirs[key] for key in mine}


def test_batches_of_sentences_have_todays_name() -> None:
    found = sections(Namespace(arch="transformer", max_sentences=8))
    assert (found["dataset"]["batch_size"], found["dataset"]["max_tokens"]) == (8, None)
    assert (found["bpe"], found["tokenizer"]) == (None, None)
