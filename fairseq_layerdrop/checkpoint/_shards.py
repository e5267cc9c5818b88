# SPDX-License-Identifier: MIT
"""Files of sharded and model-parallel training, which hold part of a model: refused."""

import re
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fairseq_layerdrop.checkpoint._errors import CheckpointError

_NAMES = re.compile(
    r"(?P<whole>.*?)(?P<part>-shard\d+|_part\d+|-model_part-\d+(-shard\d+)?|-rank-\d+|-shared)\.pt"
)
_FLAGS = {"model_parallel_size": 1, "base_layers": 0}
"""Options that split a model over processes, and the value with which they do not."""


def check_name(path: Path) -> None:
    """Refuse a file by its name.

    Raises:
        CheckpointError: if fairseq gives such a name to one part of a model.
    """
    if found := _NAMES.fullmatch(path.name):
        raise CheckpointError(
            f"{path} is named as one part of a model ({found['part']}), which is refused: a whole "
            "one is needed; if it is whole, give it another name"
        )


def check_whole(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Refuse a checkpoint that says of itself that it is one part of a model.

    Raises:
        CheckpointError: naming what says so.
    """
    # fairseq writes fsdp_metadata into whole files of fully sharded training too.
    if "fsdp_metadata" in checkpoint and any("flat_param" in key for key in checkpoint["model"]):
        raise CheckpointError(
            f"{path} is one shard of a model (--use-sharded-state), which is refused: a whole one "
            "is needed; fairseq writes it without that flag"
        )
    for option, alone in _FLAGS.items():
        value = next(
            (section[option] for section in _sections(checkpoint) if section.get(option)), alone
        )
        if value != alone:
            flag = option.replace("_", "-")
            raise CheckpointError(
                f"{path} is one part of a model (--{flag} {value}), which is refused: a whole "
                "one is needed"
            )


def only_parts(path: Path) -> str:
    """What to add where a model is not there as a whole, but in parts: their names."""
    names = sorted(item.name for item in path.parent.iterdir()) if path.parent.is_dir() else []
    parts = []
    for name in names:
        found = _NAMES.fullmatch(name)
        if found and found["whole"] == path.stem:
            parts.append(name)
    if not parts:
        return ""
    named = ", ".join(parts)
    return f", only parts of that model ({named}), which are refused: a whole one is needed"


def _sections(checkpoint: Mapping[str, Any]) -> list[dict[str, Any]]:
    cfg = checkpoint.get("cfg")
    found = [checkpoint.get("args"), *(cfg.values() if isinstance(cfg, Mapping) else ())]
    found = [vars(section) if isinstance(section, Namespace) else section for section in found]
    return [section for section in found if isinstance(section, dict)]
