# SPDX-License-Identifier: MIT
"""The options that a checkpoint was trained with, as flags of ``fairseq-train``."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from fairseq.criterions import CRITERION_DATACLASS_REGISTRY
from fairseq.dataclass import FairseqDataclass
from fairseq.dataclass.configs import CommonConfig, DatasetConfig, OptimizationConfig
from fairseq.optim import OPTIMIZER_DATACLASS_REGISTRY
from fairseq.tasks import TASK_DATACLASS_REGISTRY

_COMMON = ("seed", "fp16", "bf16", "memory_efficient_fp16", "memory_efficient_bf16", "amp")
_DATASET = (
    *("max_tokens", "batch_size", "required_batch_size_multiple", "train_subset", "valid_subset"),
    *("skip_invalid_size_inputs_valid_test", "num_workers", "dataset_impl"),
)
_OPTIMIZATION = ("clip_norm", "update_freq", "sentence_avg")


def training_options(cfg: Mapping[str, Any], distilling: Collection[str]) -> list[str]:
    """Flags for the same task, optimizer and batches, and those of the criterion but its name.

    What a training's length decides (learning rate, schedule, updates) and what only its own
    validation needs is not among them.

    Args:
        cfg: a stock checkpoint's options: sections of plain containers.
        distilling: the criterions that can be trained with a teacher.

    Raises:
        ValueError: if the options name a task, criterion or optimizer that cannot be trained so.
    """
    task, criterion, optimizer = (cfg[name] for name in ("task", "criterion", "optimizer"))
    if criterion.get("_name") not in distilling:
        raise ValueError(
            f"what is healed must be trained by {', '.join(sorted(distilling))}, got "
            f"{criterion.get('_name')}"
        )
    return [
        *("--task", str(task["_name"])),
        *_flags(task, TASK_DATACLASS_REGISTRY.get(task["_name"]), without=("data",)),
        *_flags(criterion, CRITERION_DATACLASS_REGISTRY.get(criterion["_name"])),
        *("--optimizer", str(optimizer["_name"])),
        *_flags(optimizer, OPTIMIZER_DATACLASS_REGISTRY.get(optimizer["_name"])),
        *_flags(cfg.get("dataset", {}), DatasetConfig, only=_DATASET),
        *_flags(cfg.get("optimization", {}), OptimizationConfig, only=_OPTIMIZATION),
        *_flags(cfg.get("common", {}), CommonConfig, only=_COMMON),
        *("--ddp-backend", str(cfg.get("distributed_training", {}).get("ddp_backend"))),
    ]


def _flags(
    section: Mapping[str, Any],
    dataclass: type[FairseqDataclass] | None,
    *,
    only: Collection[str] | None = None,
    without: Collection[str] = (),
) -> Iterator[str]:
    """What a section says that is not its dataclass's default."""
    if dataclass is None:
        raise ValueError(
            f"there are no flags for {section.get('_name')}, which fairseq has as code"
        )
    known = dataclass()
    for name in dataclass.__dataclass_fields__:
        default, value = known._get_default(name), section.get(name)
        elsewhere = isinstance(default, str) and default.startswith("${")  # another section's
        if name in without or (only is not None and name not in only) or name.startswith("eval_"):
            continue
        if name == "_name" or elsewhere or value is None or _plain(value) == _plain(default):
            continue
        yield "--" + name.replace("_", "-")
        if not isinstance(value, bool):
            yield _text(value)


def _plain(value: Any) -> str:
    """A value as text: a default may be an enumeration's, or a list of another kind."""
    return _text(getattr(value, "value", value))


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(str, value)) + "]"
    return str(value)
