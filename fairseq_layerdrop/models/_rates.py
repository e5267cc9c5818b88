# SPDX-License-Identifier: MIT
"""The rates of layers, and of what is inside them, from a model's flat configuration."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from fairseq_layerdrop.modules.learned import LearnedRates
from fairseq_layerdrop.modules.masks import exponential_rates, linear_rates, uniform_rates
from fairseq_layerdrop.modules.structures import StructureRates
from fairseq_layerdrop.pruning.config import parse_rates

PROFILES = {
    "uniform": uniform_rates,
    "linear": linear_rates,
    "exponential": exponential_rates,
    "learned": uniform_rates,  # of their mean
}
SCHEDULES = tuple(PROFILES)
RANKS = ("global", "own")


def stack_rates(cfg: Any, name: str, depth: int) -> tuple[float, ...]:
    """The rate of each layer of a stack; layers that share their weights have one.

    Raises:
        ValueError: if the rates are not probabilities, or do not fit the depth or the schedule.
    """
    groups = depth // cfg.share_layers
    value = cfg[f"{name}_layerdrop"]
    if depth % cfg.share_layers:
        raise ValueError(f"--share-layers must divide the depth, {depth}, got {cfg.share_layers}")
    parts = parse_rates(value)
    if len(parts) > 1:
        rates = _listed(parts, groups, cfg.layerdrop_schedule)
    else:
        rates = PROFILES[cfg.layerdrop_schedule](groups, parts[0])
    if cfg.layerdrop_schedule == "learned":
        LearnedRates(groups, 1, target=rates[0])  # refuses a target that rates cannot have
    return tuple(rate for rate in rates for _ in range(cfg.share_layers))


def structure_rates(cfg: Any) -> StructureRates:
    """The rates of what is inside the layers."""
    return StructureRates(
        sublayer=cfg.sublayerdrop,
        head=cfg.headdrop,
        ffn=cfg.ffndrop,
        ffn_blocks=cfg.ffndrop_blocks,
        weight=cfg.weightdrop,
    )


def check_rates(cfg: Any, depths: Mapping[str, int]) -> None:
    """Refuse a configuration that cannot be, before anything is built.

    Raises:
        ValueError: one message that names every flag that is out of range.
    """
    errors = _wrong_choices(cfg)
    for stack, depth in depths.items() if not errors else ():
        try:
            stack_rates(cfg, stack, depth)
        except ValueError as error:
            errors.append(f"--{stack}-layerdrop: {error}")
    for flag in ("sublayerdrop", "headdrop", "ffndrop", "weightdrop"):
        if not 0 <= cfg[flag] <= 1:
            errors.append(f"--{flag}: a drop rate must lie in [0, 1], got {cfg[flag]}")
    if cfg.ffndrop_blocks < 1:
        errors.append(f"--ffndrop-blocks: must be at least 1, got {cfg.ffndrop_blocks}")
    for flag in ("layerdrop_min_layers", "layerdrop_warmup_updates"):
        if cfg[flag] < 0:
            errors.append(f"--{flag.replace('_', '-')}: must not be negative, got {cfg[flag]}")
    if errors:
        raise ValueError("; ".join(errors))


def _wrong_choices(cfg: Any) -> list[str]:
    """What is wrong with the choices on which the rates depend."""
    errors = []
    if cfg.layerdrop_schedule not in SCHEDULES:
        errors.append(
            f"--layerdrop-schedule: must be one of {', '.join(SCHEDULES)}, got "
            f"{cfg.layerdrop_schedule!r}"
        )
    if cfg.layerdrop_ranks not in RANKS:
        errors.append(
            f"--layerdrop-ranks: must be one of {', '.join(RANKS)}, got {cfg.layerdrop_ranks!r}"
        )
    if (
        cfg.share_layers > 1
        and "checkpoint_activations" in cfg
        and cfg.checkpoint_activations
        and several_processes()
    ):
        errors.append(
            "--share-layers with --checkpoint-activations: data-parallel training does not bear "
            "both, leave one out"
        )
    if cfg.share_layers < 1:
        errors.append(f"--share-layers: must be at least 1, got {cfg.share_layers}")
    return errors


def several_processes() -> bool:
    """Whether this is a data-parallel training."""
    return torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1


def _listed(parts: Sequence[float], groups: int, schedule: str) -> tuple[float, ...]:
    if schedule != "uniform":
        raise ValueError(f"a list of rates takes no schedule, got {schedule}")
    if len(parts) != groups:
        raise ValueError(
            f"there must be one rate, or one for each of {groups} layers (or chunks), got "
            f"{len(parts)}"
        )
    return tuple(rate for part in parts for rate in uniform_rates(1, part))
