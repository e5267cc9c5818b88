# SPDX-License-Identifier: MIT
"""From a file to a smaller file: what the command ``prune`` does with layers, for Python
programs.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fairseq_layerdrop import __version__
from fairseq_layerdrop.checkpoint._read import digest, load
from fairseq_layerdrop.checkpoint._write import check_target, save
from fairseq_layerdrop.pruning.plan import PruningPlan
from fairseq_layerdrop.pruning.surgery import check_surgery, prune_checkpoint
from fairseq_layerdrop.pruning.upgrade import upgrade_checkpoint


def save_pruned(
    small: dict[str, Any],
    output: str | os.PathLike[str],
    full: Mapping[str, Any],
    plan: PruningPlan,
    *,
    inside: Callable[[dict[str, Any]], dict[str, Any]] = dict,
    force: bool = False,
) -> None:
    """Write what was cut from ``full``; it takes its name when it was opened again and equals its
    source.

    Args:
        small: what :func:`~fairseq_layerdrop.pruning.surgery.prune_checkpoint` made.
        output: where it goes.
        full: the checkpoint that it was cut from.
        plan: the layers that stay.
        inside: what was done to the source inside its layers.
        force: replace a file that is there.

    Raises:
        CheckpointError: if it cannot be written.
        ValueError: if what was written differs, naming where.
    """

    def check(written: Path) -> None:
        check_surgery(full["model"], load(written)["model"], plan, inside)

    save(small, output, force=force, check=check)


def prune(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    plan: PruningPlan,
    *,
    force: bool = False,
) -> None:
    """Write the sub-network that a plan keeps, as an ordinary fairseq checkpoint, without importing
    fairseq.

    The file is that of ``fairseq-layerdrop prune SOURCE OUTPUT --encoder-keep … --decoder-keep …``:
    opened again and compared with its source, tensor by tensor, before it takes its name. The
    source is not changed.

    Args:
        source: a fairseq checkpoint (``.pt``).
        output: where the smaller one goes.
        plan: the layers that stay; a stack that it does not name stays whole.
        force: replace a file that is there.

    Raises:
        CheckpointError: if the source cannot be read safely, or the output not be written.
        ValueError: if the plan does not fit the model (it is for other depths, parts layers that
        share their
            weights, or removes the layer of the alignment).

    Whatever is raised, nothing is written.
    """
    check_target(output, source=source, force=force)
    full = upgrade_checkpoint(load(source))
    small = prune_checkpoint(full, plan, source=digest(source), version=__version__)
    save_pruned(small, output, full, plan, force=force)
