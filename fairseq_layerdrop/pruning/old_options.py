# SPDX-License-Identifier: MIT
"""The options of an old checkpoint in today's sections: before 2021 they were one Namespace.

fairseq itself converts them by the dataclasses of all its sections. Here a section has what its
readers pick: fairseq where it loads a file to translate or to score, and we where we train it on.
"""

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from fairseq_layerdrop.pruning.config import CRITERION_FIELDS

DEFAULTS: dict[str, dict[str, Any]] = {
    "common": {
        "seed": 1,
        "fp16": False,
        "bf16": False,
        "tpu": False,
        "memory_efficient_fp16": False,
        "memory_efficient_bf16": False,
        "use_plasma_view": False,
        "plasma_path": "/tmp/plasma",
    },
    "dataset": {
        "max_tokens": None,
        "batch_size": None,
        "batch_size_valid": None,
        "required_batch_size_multiple": 8,
        "required_seq_len_multiple": 1,
        "train_subset": "train",
        "valid_subset": "valid",
        "dataset_impl": None,
        "num_workers": 1,
        "data_buffer_size": 10,
        "skip_invalid_size_inputs_valid_test": False,
    },
    "optimization": {"lr": [0.25], "clip_norm": 0.0, "update_freq": [1], "sentence_avg": False},
    "distributed_training": {"ddp_backend": "pytorch_ddp"},
    "generation": {"print_alignment": None, "replace_unk": None},
}
"""What is read of these sections, also by references from others, and fairseq's defaults."""
_RENAMED = {"max_sentences": "batch_size", "max_sentences_valid": "batch_size_valid"}
CRITERIONS = {
    **CRITERION_FIELDS,
    "label_smoothed_cross_entropy_with_alignment": (
        *CRITERION_FIELDS["label_smoothed_cross_entropy"],
        "alignment_lambda",
    ),
    "nat_loss": ("label_smoothing",),
    "ctc": (
        *("zero_infinity", "sentence_avg", "post_process", "wer_kenlm_model", "wer_lexicon"),
        *("wer_lm_weight", "wer_word_score", "wer_sil_weight", "wer_args"),
    ),
    "wav2vec": ("infonce", "loss_weights", "log_keys"),
}
"""The fields of those that there were; any other's section has all options."""


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
    today = {_RENAMED.get(name, name): value for name, value in options.items()}
    sections = {
        section: {name: today.get(name, default) for name, default in defaults.items()}
        for section, defaults in DEFAULTS.items()
    }
    # A task refers to these, and fairseq resolves no reference of one that has all options.
    task = {**sections["common"], **sections["dataset"], **options}
    task["data"] = data[0] if isinstance(data, list) and data else data
    return {
        **sections,
        "model": {**options, "_name": options.get("arch")},
        "task": {**task, "_name": options.get("task", "translation")},
        "criterion": _criterion(options),
        "optimizer": _named("optimizer", options),
        # In these, as in the criterion, fairseq stops at an option that is none of theirs.
        "bpe": _named("bpe", options, ("gpt2_", "bpe_", "sentencepiece_")),
        "tokenizer": _named("tokenizer", options, ("moses_no_", "source_lang", "target_lang")),
    }


def _criterion(options: Mapping[str, Any]) -> dict[str, Any]:
    name = options.get("criterion")
    fields = CRITERIONS.get(str(name), options.keys())
    return {**{field: options[field] for field in fields if field in options}, "_name": name}


def _named(
    section: str, options: Mapping[str, Any], begins: str | tuple[str, ...] = ""
) -> dict[str, Any] | None:
    """The section of something with a name, and of its own options those that begin so; None where
    the training was told of none."""
    name = options.get(section)
    if name is None:
        return None
    return {**{key: options[key] for key in options if key.startswith(begins)}, "_name": name}
