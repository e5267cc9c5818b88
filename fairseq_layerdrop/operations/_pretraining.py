# SPDX-License-Identifier: MIT
"""Speech models that were fine-tuned: the options of the pre-trained encoder, from its own file.

fairseq writes them into the fine-tuned file as ``w2v_args`` for some models. For others it builds
the encoder of the file at ``w2v_path`` each time, as deep as that one is.
"""

import dataclasses
from argparse import Namespace
from pathlib import Path
from typing import Any

from fairseq_layerdrop import checkpoint
from fairseq_layerdrop.pruning.config import plain
from fairseq_layerdrop.pruning.plan import PruningPlan
from fairseq_layerdrop.pruning.source import Source
from fairseq_layerdrop.pruning.upgrade import upgrade_checkpoint

_REPLACED = {"encoder_layerdrop": "layerdrop"} | {
    name: name
    for name in (
        *("dropout", "activation_dropout", "dropout_input", "attention_dropout", "mask_length"),
        *("mask_prob", "mask_selection", "mask_other", "no_mask_overlap", "mask_channel_length"),
        *("mask_channel_prob", "mask_channel_before", "mask_channel_selection"),
        *("mask_channel_other", "no_mask_channel_overlap", "feature_grad_mult"),
        *("checkpoint_activations", "offload_activations", "min_params_to_wrap"),
        "require_same_masks",
    )
}
"""What fairseq replaces in these options, and by which of the fine-tuned model's."""


def with_pretraining(source: Source, plan: PruningPlan) -> Source:
    """A source whose file says itself how its encoder is built.

    Raises:
        ValueError: if the plan cuts the encoder, and its options are in a file that is not there.
    """
    path = source.options.get("w2v_path")
    cut = plan.encoder is not None and not plan.encoder.is_whole
    if not path or source.options.get("w2v_args") is not None or not cut:
        return source
    if not Path(path).is_file():
        raise ValueError(
            f"the depth of its encoder is in the pre-trained model's file, w2v_path {path}, which "
            "is not there: put it back, or keep the whole encoder"
        )
    options = plain(upgrade_checkpoint(checkpoint.load(path))["cfg"])
    options |= {"criterion": None, "lr_scheduler": None}
    for name, ours in _REPLACED.items():
        if name in options["model"] and source.options.get(ours) is not None:
            options["model"][name] = source.options[ours]
    return _with_option(source, "w2v_args", options)


def _with_option(source: Source, name: str, value: Any) -> Source:
    section = source.checkpoint["cfg"]["model"]
    was_namespace = isinstance(section, Namespace)
    model = {**(vars(section) if was_namespace else section), name: value}
    cfg = {**source.checkpoint["cfg"], "model": Namespace(**model) if was_namespace else model}
    return dataclasses.replace(
        source,
        checkpoint={**source.checkpoint, "cfg": cfg},
        options={**source.options, name: value},
    )
