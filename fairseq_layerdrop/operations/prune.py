# SPDX-License-Identifier: MIT
"""From a file to a smaller one: the sub-network of a plan, as an ordinary checkpoint.

fairseq is imported only where the check needs it.
"""

import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from fairseq_layerdrop import __version__, checkpoint
from fairseq_layerdrop.operations._check import Check
from fairseq_layerdrop.operations._choices import CONFIG_STYLES, check_choice
from fairseq_layerdrop.operations._compensate import TOKENS, Calibrate
from fairseq_layerdrop.operations._compensate import compensate as fit
from fairseq_layerdrop.operations._dictionaries import copy, plan_copies
from fairseq_layerdrop.operations._facts import notes, training_flags
from fairseq_layerdrop.operations._plan import Plan, choose_plan
from fairseq_layerdrop.operations._pretraining import with_pretraining
from fairseq_layerdrop.operations._widths import WidthChoice, choose_widths
from fairseq_layerdrop.pruning.inspection import parameter_sizes
from fairseq_layerdrop.pruning.plan import PruningPlan
from fairseq_layerdrop.pruning.source import Source
from fairseq_layerdrop.pruning.surgery import check_surgery, prune_checkpoint


def prune(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    plan: Plan = None,
    *,
    target_params: str | int | None = None,
    strategy: str | None = None,
    heads_keep: str | None = None,
    ffn_keep: str | None = None,
    sublayers_remove: str | None = None,
    importance: str | os.PathLike[str] | None = None,
    compensate: str | os.PathLike[str] | None = None,
    compensate_subset: str | None = None,
    compensate_tokens: int = TOKENS,
    device: str = "cpu",
    keep_optimizer: bool = False,
    copy_dicts: str | os.PathLike[str] | None = None,
    config_style: str | None = None,
    check: str = "auto",
    user_dir: str | None = None,
    dry_run: bool = False,
    force: bool = False,
) -> dict[str, Any]:
    """Write the sub-network that a plan keeps.

    The file is opened again and checked against its source before it takes its name.

    >>> prune("full.pt", "small.pt", "all/every:2")  # doctest: +SKIP

    Args:
        source: a fairseq checkpoint (``.pt``); it is not changed.
        output: where the smaller one goes.
        plan: the layers that stay, e.g. ``"even:6/0,2,5"`` or ``{"decoder": "every:2"}``; a stack
            that is not named stays whole.
        target_params: choose the depth of what is not named: the largest model of at most this many
            parameters, e.g. ``"30M"``.
        strategy: how that depth becomes layers: even, spread, first, last or learned.
        heads_keep: heads of each attention that stay: how many, or ``"0.5"`` of them.
        ffn_keep: units of each FFN that stay, likewise.
        sublayers_remove: sub-layers that go, e.g. ``"encoder:3.ffn,decoder:0.self_attn"``, of the
            layers of ``source``.
        importance: a file of scores of heads and units; else their magnitude counts.
        compensate: a data set, on which layers that stay are refitted to make up for those that
            go, see :mod:`~fairseq_layerdrop.pruning.compensation`; fairseq is imported then.
        compensate_subset: its split; without one ``train``, or ``valid`` where there is no
            ``train``.
        compensate_tokens: about this many tokens of it; a quarter of the sentences is held out.
        device: where that is computed, ``cpu`` or ``cuda``.
        keep_optimizer: keep Adam's moments of the layers that stay.
        copy_dicts: a data set whose dictionaries are copied beside the output.
        config_style: ``plain`` or ``namespace``, see
            :func:`~fairseq_layerdrop.pruning.config.in_style`; else the one that loads.
        check: of what is written: ``tensors``, ``load`` (by fairseq, outputs compared), or
            ``auto``: load what is of no family whose every option is known.
        user_dir: the plugin that the model needs in fairseq, to be loaded.
        dry_run: say what would be written; write nothing.
        force: replace a file that is there.

    Returns:
        The facts: ``stacks`` (kept and removed layers), ``parameters`` and ``bytes`` before and
        after, ``inside`` (what was cut inside layers), ``compensated`` (what became of each gap),
        ``training_flags``, ``notes``, ``check`` (which one it passed, in words) and the
        ``dictionaries`` that were copied.

    Raises:
        CheckpointError: if the source cannot be read safely, or the output not be written.
        ValueError: if what is asked for does not fit the model.

    Whatever is raised, nothing is written.
    """
    check_choice("config_style", config_style, CONFIG_STYLES)
    target, may_replace = Path(output), force or dry_run
    for read in (source, importance):
        checkpoint.check_target(target, source=read, force=may_replace)
    copies = plan_copies(copy_dicts, target, force=may_replace) if copy_dicts else {}
    cuts = {"heads_keep": heads_keep, "ffn_keep": ffn_keep, "sublayers_remove": sublayers_remove}
    on = None
    if compensate is not None:
        on = Calibrate(str(compensate), compensate_subset, compensate_tokens, device, user_dir)
        _check_calibration(on, cuts_inside=any(cuts.values()))
    full = checkpoint.open_source(source)
    with checkpoint.naming_file(source):
        chosen = choose_plan(full, plan, target_params=target_params, strategy=strategy)
        inside = choose_widths(full, chosen, **cuts, importance=importance)
        cut = _cut(full, chosen, inside, on, style=config_style, keep_optimizer=keep_optimizer)
        checked = check_of(cut.full, check, user_dir=user_dir, data=copy_dicts)
    written: dict[str, Any] = {}
    if not dry_run:
        cut, found = _write(cut, checked, output, style=config_style, force=force)
        copy(copies)
        written = {
            "check": found,
            "bytes": [Path(source).stat().st_size, target.stat().st_size],
            "dictionaries": [str(copied) for copied in copies.values()],
        }
    said = notes(
        cut.full,
        cut.small,
        chosen,
        target,
        style=config_style,
        copies_dictionaries=bool(copy_dicts),
    )
    return {
        "input": str(source),
        "output": None if dry_run else str(output),
        **_sizes(cut),
        "training_flags": training_flags(cut.small, output, with_optimizer=keep_optimizer),
        "notes": list(said),
        "inside": inside.facts,
        "compensated": cut.compensated,
        **written,
    }


@dataclass(frozen=True)
class _Cut:
    """A sub-network, and what it was cut from."""

    full: Source  # with the compensated weights
    plan: PruningPlan
    inside: WidthChoice
    small: dict[str, Any]
    compensated: dict[str, Any] | None


def _check_calibration(on: Calibrate, *, cuts_inside: bool) -> None:
    on.check()
    if cuts_inside:
        raise ValueError(
            "compensate= is for whole layers; cut inside layers first, then compensate the file "
            "that was written"
        )


def _cut(
    full: Source,
    plan: PruningPlan,
    inside: WidthChoice,
    calibrate_on: Calibrate | None,
    *,
    style: str | None,
    keep_optimizer: bool,
) -> _Cut:
    compensated = None
    if calibrate_on:
        full, compensated = fit(full, plan, calibrate_on)
    small = prune_checkpoint(
        with_pretraining(full, plan),
        plan,
        version=__version__,
        style=style,
        keep_optimizer=keep_optimizer,
        widths=inside.widths,
        compensated=compensated,
    )
    return _Cut(full, plan, inside, small, compensated)


def _write(
    cut: _Cut,
    checked: Check,
    output: str | os.PathLike[str],
    *,
    style: str | None,
    force: bool,
) -> tuple[_Cut, str]:
    """Write it; return it as it was written, and what its check found, in words."""
    small, found = checked.save(
        cut.small,
        output,
        cut.plan.kept,
        partial(check_surgery, cut.full.weights, plan=cut.plan, inside=cut.inside.narrow),
        inside=cut.inside.widths is not None,
        style=style,
        force=force,
    )
    return replace(cut, small=small), found


def _sizes(cut: _Cut) -> dict[str, Any]:
    """The layers that stay and go, and the parameters before and after."""
    stacks = {}
    for stack, selection in cut.plan.selections.items():
        stacks[stack] = {"kept": list(selection.kept), "removed": list(selection.removed)}
    before, after = (
        sum(parameter_sizes(state).values()) for state in (cut.full.state, cut.small["model"])
    )
    return {"stacks": stacks, "parameters": [before, after]}


def save_pruned(
    small: dict[str, Any],
    output: str | os.PathLike[str],
    source: Source,
    plan: PruningPlan,
    *,
    check: str = "auto",
    user_dir: str | None = None,
    force: bool = False,
) -> None:
    """Write what was cut from a source, once it was opened again and passed its check.

    Args:
        small: what :func:`~fairseq_layerdrop.pruning.surgery.prune_checkpoint` made.
        output: where it goes.
        source: the model that it was cut from.
        plan: the layers that stay.
        check: as in :func:`prune`.
        user_dir: the plugin that the model needs in fairseq.
        force: replace a file that is there.

    Raises:
        CheckpointError: if it cannot be written.
        ValueError: if what was written does not load, or is another model.
    """
    compare = partial(check_surgery, source.weights, plan=plan)
    checked = check_of(source, check, user_dir=user_dir)
    checked.save(small, output, plan.kept, compare, force=force)


def check_of(
    source: Source,
    kind: str = "auto",
    *,
    user_dir: str | None = None,
    data: str | os.PathLike[str] | None = None,
) -> Check:
    """The check of what is cut from a source, see :class:`Check`."""
    full = {**source.checkpoint, "model": source.state}
    return Check(full, source.path, kind, user_dir=user_dir, data=data)
