# SPDX-License-Identifier: MIT
"""Facts about a pruned checkpoint: how to train it on, and what to know."""

import os
import re
import shlex
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fairseq_layerdrop.pruning.config import architecture, config_style, model_section
from fairseq_layerdrop.pruning.families import own_options
from fairseq_layerdrop.pruning.flags import model_flags
from fairseq_layerdrop.pruning.plan import PruningPlan
from fairseq_layerdrop.pruning.source import Source
from fairseq_layerdrop.pruning.stacks import other_lists
from fairseq_layerdrop.pruning.trained import trained_plans, untrained

USER_DIR = '--user-dir "$(fairseq-layerdrop user-dir)"'


def training_flags(
    small: Mapping[str, Any], output: str | os.PathLike[str], *, with_optimizer: bool
) -> str:
    """The flags with which ``fairseq-train`` goes on from a pruned checkpoint, to be pasted.

    Args:
        small: the checkpoint.
        output: its file.
        with_optimizer: whether it goes on as the same training, and not as a new one.
    """
    flags = [
        model_flags(model_section(small)),
        *_positions(small),
        "--restore-file" if with_optimizer else "--finetune-from-model",
        shlex.quote(str(output)),
    ]
    needs_us = isinstance(small["cfg"]["model"], Namespace) or _has_shapes(small)
    return " ".join([USER_DIR, *flags] if needs_us else flags)


def _positions(small: Mapping[str, Any]) -> list[str]:
    """RoBERTa and some language models take the number of positions from their task.

    With another number nothing would fit.
    """
    weights = small["model"]
    found = {"--max-positions": weights.get("encoder.sentence_encoder.embed_positions.weight")}
    if model_section(small).get("max_target_positions") is None:
        found["--max-target-positions"] = weights.get("decoder.embed_positions.weight")
    return [
        f"{flag} {len(weight) - 2}" for flag, weight in found.items() if weight is not None
    ]  # padding's index is 1


def notes(
    source: Source,
    small: Mapping[str, Any],
    plan: PruningPlan,
    output: Path,
    *,
    style: str | None,
    copies_dictionaries: bool,
) -> Iterator[str]:
    """What a user should know of a file beside what was asked for.

    Args:
        source: the full model.
        small: what was cut from it.
        plan: the layers that stay.
        output: where that goes.
        style: of the configuration, if one was asked for.
        copies_dictionaries: whether dictionaries go beside it.
    """
    full, cut = source.checkpoint, small["extra_state"]["layerdrop"]["steps"][-1]["plan"]
    if reason := untrained(plan, trained_plans(full), source.depths):
        yield f"the model {reason}"
    for path, length in other_lists(small["model"]).items():
        if path not in cut:
            yield f"left whole: the {length} layers of {path}, another list (--keep {path}=SPEC)"
    if full.get("last_optimizer_state") is not None and "last_optimizer_state" not in small:
        yield "the optimizer's state was left out (keep_optimizer=True keeps it)"
    if "ema" in small["extra_state"]:
        yield "the EMA's weights were pruned alike"
    if lost := sorted((full.get("task_state") or {}).keys() - small["task_state"].keys()):
        yield f"left out of the task's state, being objects and no plain data: {', '.join(lost)}"
    if style == "plain" and config_style(source.options) == "namespace":
        yield (
            "stock fairseq does not load this architecture from plain options: leave "
            "config_style= out"
        )
    if own := _own_options(small):
        yield f"to train on, give its own options as in its own training, too: {own}"
    if _has_shapes(small):
        yield f"fairseq's own models cannot hold these shapes: it is loaded with {USER_DIR}"
    if isinstance(small["cfg"]["model"], Namespace):
        yield f"its options are in a Namespace, which fairseq on torch >= 2.6 loads with {USER_DIR}"
    if not copies_dictionaries and _lacks_dictionary(small, output.parent):
        yield (
            f"from_pretrained looks for dict.txt in {output.parent}: copy_dicts=DATA puts it there"
        )


def _own_options(small: Mapping[str, Any], most: int = 6) -> str:
    """Options that the printed flags leave out, as far as they are texts or numbers."""
    own = {name: value for name, value in own_options(small["cfg"]).items() if value}
    told = [f"{name} {value}" for name, value in own.items() if not isinstance(value, dict)]
    more = [f"and {len(told) - most} more"] if len(told) > most else []
    return ", ".join(told[:most] + more)


def _has_shapes(small: Mapping[str, Any]) -> bool:
    return "layerdrop_shapes" in model_section(small)


def _lacks_dictionary(small: Mapping[str, Any], folder: Path) -> bool:
    name = architecture(model_section(small))
    return bool(re.match("(roberta|m?bart)(_|$)", name)) and not any(folder.glob("dict*.txt"))
