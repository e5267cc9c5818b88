# SPDX-License-Identifier: MIT
"""The options of an old checkpoint in today's sections: before 2021 they were one Namespace.

fairseq itself converts them by the dataclasses of all its sections. Here a section has what its
readers pick: fairseq where it loads a file to translate or to score, and we where we train it on.
"""

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

_FIELDS = {
    "common": ("seed", "fp16", "bf16", "memory_efficient_fp16", "memory_efficient_bf16"),
    "dataset": (
        *("max_tokens", "required_batch_size_multiple", "skip_invalid_size_inputs_valid_test"),
        *("train_subset", "valid_subset", "num_workers", "dataset_impl"),
    ),
    "optimization": ("lr", "clip_norm", "update_freq", "sentence_avg"),
    "distributed_training": ("ddp_backend",),
}
_CHOICES: dict[str, str | tuple[str, ...]] = {
    "criterion": "",
    "optimizer": "",
    "bpe": ("gpt2_", "bpe_", "sentencepiece_"),
    "tokenizer": ("moses_no_", "source_lang", "target_lang"),
}
"""Sections that are chosen by a name, and what their options begin with: at any other option in one
of the last two fairseq stops."""


def upgrade_options(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint with its options in ``cfg``, and those of a model within it in sections, too."""
    upgraded = dict(checkpoint)
    args = checkpoint.get("args")
    if args is not None and checkpoint.get("cfg") is None:
        upgraded |= {"args": None, "cfg": _sections(vars(args))}
    cfg = upgraded.get("cfg")
    if not isinstance(cfg, Mapping):
        return upgraded
    model = cfg.get("model")
    options = vars(model) if isinstance(model, Namespace) else model
    # A fine-tuned wav2vec2 or HuBERT holds the options of the model that it was made from.
    if isinstance(options, Mapping) and isinstance(options.get("w2v_args"), Namespace):
        options = {**options, "w2v_args": _sections(vars(options["w2v_args"]))}
        upgraded["cfg"] = {
            **cfg,
            "model": Namespace(**options) if isinstance(model, Namespace) else options,
        }
    return upgraded


def _sections(options: Mapping[str, Any]) -> dict[str, Any]:
    data = options.get("data")
    positions = options.get("max_positions")
    if positions is not None:
        options = {"max_source_positions": positions, "max_target_positions": positions, **options}
    task = {**options, "data": data[0] if isinstance(data, list) and data else data}
    sections = {
        name: {field: options[field] for field in fields if field in options}
        for name, fields in _FIELDS.items()
    }
    # The first is read without a default; the second had another name.
    sections["dataset"] = {
        "max_tokens": None,
        "batch_size": options.get("batch_size", options.get("max_sentences")),
        **sections["dataset"],
    }
    return {
        **sections,
        "generation": {"print_alignment": None, "replace_unk": None},  # likewise without
        "model": {**options, "_name": options.get("arch")},
        "task": {**task, "_name": options.get("task", "translation")},
        **{section: _named(section, options) for section in _CHOICES},
    }


def _named(section: str, options: Mapping[str, Any]) -> dict[str, Any] | None:
    """The section of what the training was told by name; None where it was told of none."""
    name, begins = options.get(section), _CHOICES[section]
    if name is None:
        return None
    own = {key: value for key, value in options.items() if key.startswith(begins)}
    return {**own, "_name": name}
