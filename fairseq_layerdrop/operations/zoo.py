# SPDX-License-Identifier: MIT
"""A stock checkpoint for each of many plans: measured, re-loaded and compared."""

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairseq_layerdrop import __version__, checkpoint
from fairseq_layerdrop.operations._compensate import with_weights
from fairseq_layerdrop.operations._evaluation import (
    EvaluationOptions,
    batches_of,
    measures_of,
    open_subject,
)
from fairseq_layerdrop.operations._manifest import MANIFEST, read_object, write_object
from fairseq_layerdrop.operations._progress import Progress, silent
from fairseq_layerdrop.operations.prune import save_pruned
from fairseq_layerdrop.pruning.plan import PruningPlan
from fairseq_layerdrop.pruning.source import Source
from fairseq_layerdrop.pruning.surgery import prune_checkpoint

if TYPE_CHECKING:
    from fairseq_layerdrop.evaluation.sweep import Measures


def zoo(
    source: str | os.PathLike[str],
    data: str,
    output: str | os.PathLike[str],
    points: str | Sequence[str],
    options: EvaluationOptions | None = None,
    *,
    check: str = "auto",
    command: Sequence[str] | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Write a stock checkpoint for each of many plans, and a manifest of what each is worth.

    >>> zoo("full.pt", "DATA", "zoo", "6+6 6+3 3+3")  # doctest: +SKIP

    Args:
        source: a fairseq checkpoint (``.pt``); it is not changed.
        data: a data set in fairseq's binary form.
        output: the folder for the checkpoints, ``manifest.json`` and ``rows.jsonl``; made if need
            be. What is there of the same source and plan stays, in the manifest, too, if it was
            measured on the same data.
        points: the plans; ``trained`` stands for those of ``--train-plans``.
        options: what they are measured on; the loss always is.
        check: of each file, before it takes its name, as in
            :func:`~fairseq_layerdrop.operations.prune.prune`.
        command: what rows say that they were made by; else the running program.
        progress: shows how far it is.

    Returns:
        The manifest.

    Raises:
        CheckpointError: if the source cannot be read safely, or a file not be written.
        ValueError: if a plan does not fit the model, the folder is not of a zoo, or a written file
            is not the model that was measured.
    """
    options, folder = options or EvaluationOptions(), Path(output)
    earlier = _earlier(folder)
    full, subject = open_subject(source, data, output, options)
    from fairseq_layerdrop.evaluation.preflight import warn_beyond_training
    from fairseq_layerdrop.evaluation.sweep import Results, sweep
    from fairseq_layerdrop.evaluation.zoo import check_reloaded, worth
    from fairseq_layerdrop.reporting.origin import origin

    plans = subject.plans(points if isinstance(points, str) else " ".join(points))
    batches = batches_of(subject, options)
    folder.mkdir(exist_ok=True)
    measures = measures_of(subject, batches, options, metrics={*options.metrics, "loss"})
    with Results(str(folder / "rows.jsonl"), origin(command or sys.argv)) as results:
        warn_beyond_training(subject, batches, plans)
        rows = sweep(subject, plans, measures, results, progress=progress("measuring"))
    models = []
    for plan, name in progress("writing")(list(zip(plans, _names(plans), strict=True))):
        file = folder / name
        _write(full, plan, file, measures, {"check": check, "user_dir": options.user_dir})
        check_reloaded(subject, str(file), str(data), batches, rows[plan])
        about = _facts(full, plan, file, data=str(data) if options.compensate else None)
        models.append({"file": name, **worth(rows[plan], measures), **about})
    manifest = {
        "source": {"file": str(source), "digest": full.digest},
        "data": {
            "folder": str(data),
            "subset": options.subset,
            "sentences": batches.sentences,
            "digest": batches.digest,
        },
        "version": __version__,
        "models": models,
    }
    models += _still_there(earlier, manifest, folder)
    write_object(folder / MANIFEST, manifest)
    return manifest


def _earlier(folder: Path) -> dict[str, Any]:
    """The manifest of an earlier run; another's is not to be overwritten.

    Raises:
        ValueError: if the folder has another's.
    """
    file = folder / MANIFEST
    if not file.exists():
        return {}
    found = read_object(file)
    if "models" not in found or "recipe" in found:  # heal names its recipe
        raise ValueError(f"{file}: not of zoo; name another folder")
    return found


def _still_there(
    earlier: dict[str, Any], manifest: dict[str, Any], folder: Path
) -> list[dict[str, Any]]:
    """What an earlier manifest says of other files, if they are of the same model and data."""
    if any(_digest(earlier, part) != _digest(manifest, part) for part in ("source", "data")):
        return []
    names = {model["file"] for model in manifest["models"]}
    others = [model for model in earlier["models"] if model["file"] not in names]
    return [model for model in others if (folder / model["file"]).exists()]


def _digest(manifest: dict[str, Any], part: str) -> str | None:
    """However its path is spelled."""
    digest: str | None = manifest.get(part, {}).get("digest")
    return digest


def _names(plans: list[PruningPlan]) -> list[str]:
    """``6+3.pt``; a second plan of the same depths has its layers in the name."""
    depths = ["+".join(str(len(kept)) for kept in plan.kept.values()) for plan in plans]
    return [
        f"{name}.pt" if depths.index(name) == i else f"{name}.{str(plan).replace('/', '_')}.pt"
        for i, (plan, name) in enumerate(zip(plans, depths, strict=True))
    ]


def _write(
    full: Source, plan: PruningPlan, file: Path, measures: "Measures", how: dict[str, Any]
) -> None:
    """Prune, unless the file is there already, of the same source and plan."""
    about, compensated = None, measures.compensated(plan)
    if measures.compensator and compensated:
        about = {**measures.compensator.data.sign(), **compensated.to_json()}
        full = with_weights(full, compensated)
    small = prune_checkpoint(full, plan, version=__version__, compensated=about)
    if file.exists():
        found = (checkpoint.load(file).get("extra_state") or {}).get("layerdrop")
        if found != small["extra_state"]["layerdrop"]:
            raise ValueError(f"{file} is another model; name another folder, or remove it")
        return
    save_pruned(small, file, full, plan, **how)


def _facts(full: Source, plan: PruningPlan, file: Path, *, data: str | None) -> dict[str, Any]:
    flags = ["--compensate", data] if data and not plan.is_whole else []
    for stack, kept in plan.kept.items():
        flags += [f"--{stack}-keep", ",".join(map(str, kept))]
    command = shlex.join(["fairseq-layerdrop", "prune", full.path, str(file), *flags])
    return {"bytes": file.stat().st_size, "digest": checkpoint.digest(file), "command": command}
