# SPDX-License-Identifier: MIT
"""The mean of checkpoints, as fairseq's script would write it, without fairseq."""

import os
import re
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fairseq_layerdrop import __version__, checkpoint
from fairseq_layerdrop.operations._check import Check
from fairseq_layerdrop.pruning.averaging import Average, check_written
from fairseq_layerdrop.pruning.config import plain
from fairseq_layerdrop.pruning.inspection import parameter_sizes
from fairseq_layerdrop.pruning.upgrade import upgrade_checkpoint

FileName = str | os.PathLike[str]

NAMES = {
    "epoch": (re.compile(r"checkpoint(\d+)\.pt"), "checkpointEPOCH.pt"),
    "update": (re.compile(r"checkpoint_\d+_(\d+)\.pt"), "checkpoint_EPOCH_UPDATE.pt"),
    "best": (
        re.compile(r"checkpoint\.best_.+_(-?\d+\.?\d*)\.pt"),
        "checkpoint.best_METRIC_VALUE.pt",
    ),
}
"""What fairseq calls the checkpoints of a training; each kind is sorted by its number."""


def average(
    checkpoints: Sequence[FileName],
    output: FileName,
    *,
    check: str = "auto",
    user_dir: str | None = None,
    force: bool = False,
    progress: Callable[[Sequence[Path]], Iterable[Path]] = iter,
) -> dict[str, Any]:
    """Write the mean of checkpoints' models; the memory is one model's, however many there are.

    >>> average(["checkpoint9.pt", "checkpoint10.pt"], "mean.pt")  # doctest: +SKIP

    Args:
        checkpoints: fairseq checkpoints of one shape; they are not changed, and all but the weights
            is taken from the first.
        output: where the mean goes.
        check: of what is written: ``tensors``, ``load`` (by fairseq, outputs compared), or
            ``auto``: load what is of no family whose every option is known.
        user_dir: the plugin that the model needs in fairseq, to be loaded.
        force: replace a file that is there.
        progress: wraps the files, which are read one after another.

    Returns:
        The facts: ``parameters`` and ``bytes``, ``dtypes`` before and after, what was ``left_out``,
        the ``namespaces`` that were kept, and the ``check`` that it passed, in words.

    Raises:
        CheckpointError: if a file cannot be read safely, or the output not be written.
        ValueError: if a checkpoint does not fit the first, or is named twice.

    Whatever is raised, nothing is written.
    """
    paths = [Path(path) for path in checkpoints]
    for path in paths:
        checkpoint.check_target(output, source=path, force=True)
    checkpoint.check_target(output, force=force)
    total = Average()
    for path in progress(paths):
        _add(total, path)
    mean = total.result(version=__version__)
    compare = partial(check_written, mean["model"])
    checked = Check(upgrade_checkpoint(mean), str(paths[0]), check, user_dir=user_dir)
    if checked.loads:  # what the mean is compared with has the options of the first as they were
        full = {**upgrade_checkpoint(checkpoint.load(paths[0])), "model": mean["model"]}
        checked = Check(full, str(paths[0]), check, user_dir=user_dir)
    mean, found = checked.save(mean, output, {}, compare, force=force)
    return {**_facts(paths, output, total, mean), "check": found}


def checkpoints_of(
    folder: FileName, kind: str, count: int, *, upper_bound: int | None = None
) -> list[Path]:
    """The last or best checkpoints of a training, in the order of fairseq's script.

    Args:
        folder: of the training.
        kind: ``epoch`` and ``update`` for the last, newest first; ``best`` for what
            ``--keep-best-checkpoints`` kept, best first.
        count: how many.
        upper_bound: none after this epoch or update.

    Raises:
        ValueError: if there are fewer, or it is not clear which way the metric goes.
    """
    folder = Path(folder)
    pattern, form = NAMES[kind]
    matches = [match for path in folder.iterdir() if (match := pattern.fullmatch(path.name))]
    numbers = [
        (float(match[1]), match[0])
        for match in matches
        if upper_bound is None or int(match[1]) <= upper_bound
    ]
    if len(numbers) < count:
        within = "" if upper_bound is None else f" up to {upper_bound}"
        found = f"{len(numbers)} files named {form}{within}, not the {count} asked for"
        raise ValueError(f"{folder} holds {found}; ask for fewer, or name files one by one")
    high_first = kind != "best" or _highest_is_best(folder, [match[0] for match in matches])
    return [folder / name for _, name in sorted(numbers, reverse=high_first)[:count]]


def _add(total: Average, path: Path) -> None:
    """Add a file's checkpoint, and let it go before the next one is read."""
    found, source = checkpoint.load(path), checkpoint.digest(path)
    with checkpoint.naming_file(path):
        total.add(found, name=str(path), source=source)


def _highest_is_best(folder: Path, names: list[str]) -> bool:
    """Whether the metric in the names is maximised, from the options of the training."""
    metrics = sorted({name.removeprefix("checkpoint.best_").rpartition("_")[0] for name in names})
    if len(metrics) > 1:
        raise ValueError(
            f"{folder} holds the best by several metrics, {', '.join(metrics)}; name the files "
            "instead"
        )
    first = checkpoint.load(folder / min(names))
    options = plain((first.get("cfg") or {}).get("checkpoint") or first.get("args")) or {}
    return bool(options.get("maximize_best_checkpoint_metric"))


def _facts(
    paths: list[Path], output: FileName, total: Average, mean: dict[str, Any]
) -> dict[str, Any]:
    dtypes = (total.dtypes, {tensor.dtype for tensor in mean["model"].values()})
    options = {"args": mean["args"]}
    options |= {f"cfg.{name}": section for name, section in (mean["cfg"] or {}).items()}
    return {
        "inputs": [str(path) for path in paths],
        "output": str(output),
        "parameters": sum(parameter_sizes(mean["model"]).values()),
        "bytes": Path(output).stat().st_size,
        "dtypes": [sorted(str(dtype).removeprefix("torch.") for dtype in both) for both in dtypes],
        "left_out": total.left_out,
        "namespaces": [name for name, section in options.items() if isinstance(section, Namespace)],
    }
