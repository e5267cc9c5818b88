# SPDX-License-Identifier: MIT
"""Tiny fairseq models of every form that has a home in transformers, built in this process."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from fairseq_programs import build_task, config
from omegaconf import OmegaConf

from fairseq_layerdrop.formats.huggingface.agreement import Agreement
from fairseq_layerdrop.formats.huggingface.compare import compare
from fairseq_layerdrop.formats.huggingface.convert import convert
from fairseq_layerdrop.formats.huggingface.folder import write
from fairseq_layerdrop.formats.huggingface.source import Source, Target

ENCODER = [
    *("--encoder-embed-dim", "32", "--encoder-ffn-embed-dim", "48"),
    *("--encoder-attention-heads", "2", "--encoder-layers", "2"),
]
DECODER = [
    *("--decoder-embed-dim", "32", "--decoder-ffn-embed-dim", "40"),
    *("--decoder-attention-heads", "4", "--decoder-layers", "1"),
]
MASKED = ["--task", "masked_lm", *ENCODER, "--arch"]
POSITIONS = ["--max-source-positions", "80", "--max-target-positions", "80"]
PAIRS = [
    *("--task", "translation", "--source-lang", "a", "--target-lang", "b"),
    *(*ENCODER, *DECODER, *POSITIONS, "--arch"),
]
TEXT = [
    *("--task", "language_modeling", "--tokens-per-sample", "80", *DECODER),
    *("--arch", "transformer_lm"),
]
NARROW = ["--decoder-input-dim", "16", "--decoder-output-dim", "16"]
WIDE = ["--decoder-input-dim", "32", "--decoder-output-dim", "32"]
PRE = ["--encoder-normalize-before", "--decoder-normalize-before"]
LEARNED = ["--encoder-learned-pos", "--decoder-learned-pos"]
ONE_TABLE = "--share-all-embeddings"

FORMS: dict[str, tuple[str, list[str]]] = {
    "RoBERTa": ("RobertaForMaskedLM", [*MASKED, "roberta_base"]),
    "RoBERTa, untied": (
        "RobertaForMaskedLM",
        [*MASKED, "roberta_base", "--untie-weights-roberta"],
    ),
    "pre-norm RoBERTa": ("XLMRobertaXLForMaskedLM", [*MASKED, "roberta_prenorm"]),
    "pre-norm RoBERTa, embedding norm": (
        "RobertaPreLayerNormForMaskedLM",
        [*MASKED, "roberta_base", "--encoder-normalize-before"],
    ),
    "BART": ("BartForConditionalGeneration", [*PAIRS, "bart_base"]),
    "post-norm mBART": ("BartForConditionalGeneration", [*PAIRS, "mbart_base"]),
    "BART's form, untied": (
        "BartForConditionalGeneration",
        [*PAIRS, "transformer", *LEARNED, "--layernorm-embedding"],
    ),
    "mBART": ("MBartForConditionalGeneration", [*PAIRS, "mbart_base", *PRE]),
    "post-norm, one table": ("FSMTForConditionalGeneration", [*PAIRS, "transformer", ONE_TABLE]),
    "post-norm": ("FSMTForConditionalGeneration", [*PAIRS, "transformer"]),
    "post-norm, learned positions": (
        "FSMTForConditionalGeneration",
        [*PAIRS, "transformer", *LEARNED, "--no-scale-embedding", "--activation-fn", "tanh"],
    ),
    "post-norm, one stack learned": (
        "FSMTForConditionalGeneration",
        [*PAIRS, "transformer", LEARNED[0], "--activation-fn", "gelu_accurate"],
    ),
    "alignment": (
        "FSMTForConditionalGeneration",
        [*PAIRS, "transformer_align", "--alignment-layer", "0"],
    ),
    "pre-norm, one table": (
        "M2M100ForConditionalGeneration",
        [*PAIRS, "transformer", ONE_TABLE, *PRE],
    ),
    "pre-norm, two tables": ("M2M100ForConditionalGeneration", [*PAIRS, "transformer", *PRE]),
    "language model": ("OPTForCausalLM", [*TEXT, *WIDE]),
    "pre-norm language model": (
        "XGLMForCausalLM",
        [*TEXT, *WIDE, "--decoder-normalize-before", "--share-decoder-input-output-embed"],
    ),
    "language model, learned positions": (
        "OPTForCausalLM",
        [*TEXT, *WIDE, "--decoder-normalize-before", "--decoder-learned-pos"],
    ),
    "language model, tied and not scaled": (
        "OPTForCausalLM",
        [
            *(*TEXT, *WIDE, "--decoder-normalize-before", "--decoder-learned-pos"),
            *("--no-scale-embedding", "--share-decoder-input-output-embed"),
        ],
    ),
    "language model, narrow table": (
        "OPTForCausalLM",
        [*TEXT, *NARROW, "--decoder-normalize-before", "--activation-fn", "gelu"],
    ),
    "language model, no last norm": (
        "OPTForCausalLM",
        [*TEXT, *WIDE, "--decoder-normalize-before", "--no-decoder-final-norm"],
    ),
}
"""The class that each form becomes, and the flags that make it."""


class Built(NamedTuple):
    """A fairseq model as it was drawn, its task, and the options that its checkpoint would hold."""

    model: Any
    task: Any
    options: dict[str, Any]


def build(*flags: str) -> Built:
    """The model of these flags, with layers and norms that differ."""
    cfg = config(*flags)
    task = build_task(cfg)
    torch.manual_seed(4)
    model = task.build_model(cfg.model).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return Built(model.requires_grad_(False), task, plain_options(cfg.model))


def plain_options(options: Any) -> dict[str, Any]:
    """A model's options as its checkpoint would hold them."""
    whole = OmegaConf.is_config(options)
    return dict(OmegaConf.to_container(options, enum_to_str=True) if whole else vars(options))


def exported(built: Built, folder: Path, head: str | None = None) -> tuple[Source, Target, Any]:
    """It in transformers: as it was converted, and as it was read again."""
    source, target = convert(*built, head=head)
    return source, target, write(target, folder)


def agreement(built: Built, folder: Path, head: str | None = None) -> Agreement:
    """How it agrees with fairseq."""
    source, target, model = exported(built, folder, head)
    return compare(built.model, built.task, model, source, target, head=head)
