# SPDX-License-Identifier: MIT
"""From a file to a smaller file: what the command ``prune`` does with layers, for Python programs."""

import os
from pathlib import Path

from fairseq_layerdrop import __version__
from fairseq_layerdrop.checkpoint._read import digest, load
from fairseq_layerdrop.checkpoint._write import check_target, save
from fairseq_layerdrop.pruning.plan import PruningPlan
from fairseq_layerdrop.pruning.surgery import check_surgery, prune_checkpoint
from fairseq_layerdrop.pruning.upgrade import upgrade_checkpoint


def prune(
    source: str | os.PathLike[str], output: str | os.PathLike[str], plan: PruningPlan, *, force: bool = False
) -> None:
    """Write the sub-network that a plan keeps, as an ordinary fairseq checkpoint, without importing fairseq.

    The file is that of ``fairseq-layerdrop prune SOURCE OUTPUT --encoder-keep … --decoder-keep …``: opened again and
    compared with its source, tensor by tensor, before it takes its name. The source is not changed.

    Args:
        source: a fairseq checkpoint (``.pt``).
        output: where the smaller one goes.
        plan: the layers that stay; a stack that it does not name stays whole.
        force: replace a file that is there.

    Raises:
        CheckpointError: if the source cannot be read safely, or the output not be written.
        ValueError: if the plan does not fit the model (it is for other depths, parts layers that share their
            weights, or removes the layer of the alignment).

    Whatever is raised, nothing is written.
    """
    check_target(output, source=source, force=force)
    full = upgrade_checkpoint(load(source))
    small = prune_checkpoint(full, plan, source=digest(source), version=__version__)

    def check(written: Path) -> None:
        check_surgery(full["model"], load(written)["model"], plan)

    save(small, output, force=force, check=check)
