# SPDX-License-Identifier: MIT
"""The mean of checkpoints, as fairseq's script takes it: summed in order, then divided.

Other than there, the checkpoints come one after another, tensors that were one stay one, and what
belongs to a single checkpoint (its optimizer, its validation) does not end up in the mean.
"""

import functools
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from fairseq_layerdrop.pruning.config import config_style, plain
from fairseq_layerdrop.pruning.plan import PruningPlan
from fairseq_layerdrop.pruning.stacks import locate
from fairseq_layerdrop.pruning.surgery import TRAINING_ONLY_KEYS
from fairseq_layerdrop.pruning.tensors import identity, same_bits
from fairseq_layerdrop.pruning.upgrade import EMA, upgrade_checkpoint, upgrade_state

# Half precision would round at every step. Booleans are summed as int64, so that the mean is True
# only where every input is.
_SUMMED_AS = {torch.float16: torch.float32, torch.bfloat16: torch.float32, torch.bool: torch.int64}


class Average:
    """The mean of checkpoints added one by one, in the memory of one model."""

    def __init__(self) -> None:
        self.left_out: list[str] = []
        """What the first holds that is not true of a mean, in words."""
        self.dtypes: set[torch.dtype] = set()
        """The types of the inputs' tensors."""
        self._sums: dict[str, Tensor] = {}  # one tensor under several keys where these are tied
        self._names: dict[str, str] = {}  # of the inputs, by their digests
        self._pruned: dict[str, Mapping[str, Any]] = {}  # the provenance of pruned inputs
        self._rest: dict[str, Any] = {}

    def add(self, checkpoint: Mapping[str, Any], *, name: str, source: str) -> None:
        """Add a checkpoint; only what is not the model is kept, and only of the first.

        Args:
            checkpoint: as fairseq or this package wrote it; it is not changed.
            name: what an error calls it.
            source: its file's digest, for the provenance.

        Raises:
            ValueError: if it was added before, or cannot be averaged with the first: naming
            everything that differs.
        """
        if source in self._names:
            raise ValueError(
                f"it is the same checkpoint as {self._names[source]}; name each one once"
            )
        state = upgrade_state(upgrade_checkpoint(checkpoint)["model"])
        provenance = (checkpoint.get("extra_state") or {}).get("layerdrop")
        if not self._names:
            rest = everything_else(checkpoint)  # before anything of this object changes
            self.left_out = _left_out(checkpoint)
            self._sums = _copies(state)
            self._rest = rest
        else:
            self._check(state, provenance)
            self._sums = _untied(self._sums, state)
            for key, total in _each_once(self._sums):
                total.add_(state[key].detach())
        self._names[source] = name
        self.dtypes |= {tensor.dtype for tensor in state.values()}
        if provenance:
            self._pruned[name] = provenance

    def result(self, *, version: str) -> dict[str, Any]:
        """The mean, as a checkpoint. It takes the sum's memory: nothing can be added afterwards.

        Args:
            version: this package's, for the provenance.
        """
        for _, total in _each_once(self._sums):
            if total.is_floating_point():
                total.div_(len(self._names))
            else:
                total.floor_divide_(len(self._names))
        extra = self._rest["extra_state"]
        if len(self._pruned) < len(self._names):
            extra.pop("layerdrop", None)  # true of some inputs only
        extra["layerdrop_average"] = {"sources": list(self._names), "version": version}
        return {**self._rest, "model": self._sums}

    def _check(self, state: Mapping[str, Tensor], provenance: Mapping[str, Any] | None) -> None:
        wrong = _differences(self._sums, state)
        first = next(iter(self._names.values()))
        if wrong:
            raise ValueError(f"it does not fit {first}: {'; '.join(wrong)}")
        if provenance and self._pruned:
            name, other = next(iter(self._pruned.items()))  # the others were compared with it
            if (mine := _plan(provenance)) != (theirs := _plan(other)):
                raise ValueError(
                    f"it holds other layers of the full model ({mine}) than {name} ({theirs}); "
                    "average the full models, then prune the mean"
                )


def everything_else(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint without its model and training state, in plain containers if these will do.

    ``torch.load`` takes those with its safe defaults. Where fairseq's code for the architecture
    needs it, ``args`` and the sections of ``cfg`` that were a Namespace stay one.
    """
    extra = checkpoint.get("extra_state") or {}
    gone = {"model", "last_optimizer_state"}
    return {
        **{key: plain(value) for key, value in checkpoint.items() if key not in gone},
        **_options(checkpoint),
        "extra_state": {
            k: plain(v) for k, v in extra.items() if k not in (*EMA, *TRAINING_ONLY_KEYS)
        },
    }


def check_written(mean: Mapping[str, Tensor], written: Mapping[str, Tensor]) -> None:
    """Compare the written model with the mean in memory: keys, types, shapes, bits and ties.

    Raises:
        ValueError: naming what differs.
    """
    wrong = sorted(mean.keys() ^ written.keys())
    wrong += [key for key in mean.keys() & written.keys() if not same_bits(mean[key], written[key])]
    if wrong:
        raise ValueError(
            f"what was written differs from the mean in {_few(wrong)}; nothing was kept"
        )
    if _ties(mean, mean) != _ties(written, mean):
        raise ValueError(
            "what was written has other ties between tensors than the mean; nothing was kept"
        )


def _left_out(checkpoint: Mapping[str, Any]) -> list[str]:
    """What is true of this checkpoint only, in words."""
    extra = checkpoint.get("extra_state") or {}
    words = ["optimizer state"] if checkpoint.get("last_optimizer_state") is not None else []
    words += ["EMA weights"] if any(name in extra for name in EMA) else []
    return words + [name for name in TRAINING_ONLY_KEYS if name in extra]


def _copies(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies to sum in: one for tied keys, which would otherwise be added several times."""
    copies: dict[Any, Tensor] = {}
    for tensor in state.values():
        if identity(tensor) not in copies:
            dtype = _SUMMED_AS.get(tensor.dtype, tensor.dtype)
            copies[identity(tensor)] = tensor.detach().to(dtype, copy=True)
    return {key: copies[identity(tensor)] for key, tensor in state.items()}


def _untied(sums: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The sums, untied where the next model's tensors are: a tie must be in every input."""
    parts: dict[Any, Tensor] = {}
    seen: set[int] = set()
    for key, total in sums.items():
        part = (id(total), identity(state[key]))
        if part not in parts:
            parts[part] = total.clone() if id(total) in seen else total
            seen.add(id(total))
    return {key: parts[id(total), identity(state[key])] for key, total in sums.items()}


def _each_once(state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a state dict, under the first key of each."""
    seen: set[int] = set()
    for key, tensor in state.items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            yield key, tensor


def _ties(state: Mapping[str, Tensor], keys: Iterable[str]) -> list[int]:
    """For each key the first one that it is tied to, by number."""
    first: dict[Any, int] = {}
    return [first.setdefault(identity(state[key]), number) for number, key in enumerate(keys)]


def _differences(sums: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    """Everything that keeps a model from being added to others."""
    lacking = [key for key in sums if key not in state]
    more = [key for key in state if key not in sums]
    forms = {key: (_form(state[key]), _form(sums[key])) for key in sums if key in state}
    other = [
        f"{key} is {mine}, not {theirs}" for key, (mine, theirs) in forms.items() if mine != theirs
    ]
    wrong = [f"it lacks {_few(lacking)}"] if lacking else []
    wrong += [f"it has besides {_few(more)}"] if more else []
    wrong += [_few(other)] if other else []
    layers = [{place[:2] for place in map(locate, keys) if place} for keys in (sums, state)]
    if layers[0] != layers[1] and all(map(locate, lacking + more)):
        wrong.append("the depths differ: average models of one depth, then prune the mean")
    return wrong


def _form(tensor: Tensor) -> str:
    dtype = _SUMMED_AS.get(tensor.dtype, tensor.dtype)
    return f"{'x'.join(map(str, tensor.shape)) or 'a single'} {str(dtype).removeprefix('torch.')}"


def _few(items: list[str], most: int = 3) -> str:
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")


def _plan(provenance: Mapping[str, Any]) -> PruningPlan:
    """The layers of the full model that are left, after every pruning there was."""
    plans: Iterable[PruningPlan] = (
        PruningPlan.from_json(step["plan"]) for step in provenance["steps"]
    )
    return functools.reduce(PruningPlan.compose, plans)


def _options(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """``args`` and ``cfg``: plain if fairseq can build the model from that, else as they were."""
    cfg = plain(upgrade_checkpoint(checkpoint).get("cfg"))
    model = cfg.get("model") if isinstance(cfg, dict) else None
    if isinstance(model, dict) and config_style(model) == "plain":
        return {"args": None, "cfg": cfg}
    sections = checkpoint.get("cfg")
    if isinstance(sections, Mapping):
        sections = {name: _as_it_was(section) for name, section in sections.items()}
    return {"args": _as_it_was(checkpoint.get("args")), "cfg": sections}


def _as_it_was(section: Any) -> Any:
    """A section in plain containers, but a Namespace of them if it was one."""
    return Namespace(**plain(section)) if isinstance(section, Namespace) else plain(section)
