# SPDX-License-Identifier: MIT
"""The options that a checkpoint was trained with, as flags of ``fairseq-train``."""

from argparse import ArgumentParser
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from fairseq.criterions import CRITERION_DATACLASS_REGISTRY
from fairseq.dataclass import FairseqDataclass
from fairseq.dataclass.configs import CommonConfig, DatasetConfig, OptimizationConfig
from fairseq.models import ARCH_MODEL_REGISTRY
from fairseq.optim import OPTIMIZER_DATACLASS_REGISTRY
from fairseq.tasks import TASK_DATACLASS_REGISTRY

from fairseq_layerdrop.pruning.config import architecture, plain
from fairseq_layerdrop.pruning.families import unknown_options

_COMMON = ("seed", "fp16", "bf16", "memory_efficient_fp16", "memory_efficient_bf16", "amp")
_DATASET = (
    *("max_tokens", "batch_size", "required_batch_size_multiple", "train_subset", "valid_subset"),
    *("skip_invalid_size_inputs_valid_test", "num_workers", "dataset_impl"),
)
_OPTIMIZATION = ("clip_norm", "update_freq", "sentence_avg")


def training_options(cfg: Mapping[str, Any], distilling: Collection[str] | None) -> list[str]:
    """Flags for the same task, optimizer and batches, and those of the criterion but its name.

    What a training's length decides (learning rate, schedule, updates) and what only its own
    validation needs is not among them.

    Args:
        cfg: a stock checkpoint's options: sections of plain containers.
        distilling: the criterions that can be trained with a teacher; None where there is none.

    Raises:
        ValueError: if the options name no task, criterion or optimizer, or one that cannot be
            trained so.
    """
    task, criterion, optimizer = (_named(cfg, name) for name in ("task", "criterion", "optimizer"))
    if distilling is not None and criterion["_name"] not in distilling:
        raise ValueError(
            "what is healed with a teacher must be trained by "
            f"{', '.join(sorted(distilling))}, got {criterion['_name']}; heal it without one"
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


def _named(cfg: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section: Mapping[str, Any] = cfg.get(name) or {}
    if "_name" not in section:
        raise ValueError(
            f"the checkpoint does not say with which {name} it was trained; give fairseq-train its "
            "flags yourself, with --finetune-from-model"
        )
    return section


def own_flags(cfg: Mapping[str, Any]) -> Iterator[str]:
    """Flags for the options that a model has and its family in fairseq has not: a plugin's.

    Those that the plugin sets by its architecture's name, without a flag, come with the name.
    """
    model = plain(cfg["model"])
    unknown = unknown_options(model)
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    ARCH_MODEL_REGISTRY[architecture(model)].add_args(parser)
    for action in parser._actions:
        value = model[action.dest] if action.dest in unknown else None
        if value is None or (action.nargs == 0 and value is not action.const):
            continue
        yield action.option_strings[0]
        if action.nargs != 0:
            yield _text(value)


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
