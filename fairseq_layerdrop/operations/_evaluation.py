# SPDX-License-Identifier: MIT
"""What the operations that evaluate on data share: their options, and loading them."""

import hashlib
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairseq_layerdrop import checkpoint
from fairseq_layerdrop.operations._choices import METRICS
from fairseq_layerdrop.pruning.inspection import describe
from fairseq_layerdrop.pruning.source import Source

if TYPE_CHECKING:
    from fairseq_layerdrop.evaluation.compensation import Compensator
    from fairseq_layerdrop.evaluation.latency import Stopwatch
    from fairseq_layerdrop.evaluation.loading import Batches
    from fairseq_layerdrop.evaluation.subject import Subject
    from fairseq_layerdrop.evaluation.sweep import Measures

_DECODING = ("beam", "lenpen", "max_len_a", "max_len_b", "remove_bpe")


@dataclass(frozen=True)
class EvaluationOptions:
    """On which sentences a checkpoint is evaluated, on what machine, and what is measured.

    Args:
        subset: of the data.
        max_tokens: of a batch, at most.
        batch_size: sentences of a batch, at most; else as tokens allow.
        device: ``cpu`` or ``cuda``.
        threads: of the CPU; else torch's.
        curve: the model's name in tables and figures; else that of its file.
        metrics: some of :data:`METRICS`; loss has accuracy along.
        beam: hypotheses that are followed.
        lenpen: length penalty.
        max_len_a: a text has at most a · source length + b tokens.
        max_len_b: see ``max_len_a``.
        user_dir: the plugin that the model, its task or its criterion is of; its code is run.
        remove_bpe: how pieces become words: ``sentencepiece``, ``"@@ "``, …
        reference: the target side as text; else from the data.
        compensate: make up for the layers that a plan removes, on sentences of the data's
            ``train`` (``valid`` where there is none), before it is measured or written.
    """

    subset: str = "valid"
    max_tokens: int = 1024
    batch_size: int | None = None
    device: str = "cpu"
    threads: int | None = None
    curve: str | None = None
    user_dir: str | None = None
    metrics: Sequence[str] = ("loss",)
    beam: int = 5
    lenpen: float = 1.0
    max_len_a: float = 0
    max_len_b: int = 200
    remove_bpe: str | None = None
    reference: str | os.PathLike[str] | None = None
    compensate: bool = False

    def __post_init__(self) -> None:
        for name in ("max_tokens", "batch_size", "threads", "beam"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}= must be at least 1, got {value}")
        if not self.metrics or set(self.metrics) - set(METRICS):
            got = ",".join(self.metrics)
            raise ValueError(f"metrics= are of {', '.join(METRICS)}, got {got!r}")


def open_subject(
    path: str | os.PathLike[str],
    data: str,
    output: str | os.PathLike[str],
    options: EvaluationOptions,
) -> "tuple[Source, Subject]":
    """A checkpoint, opened, and its model, ready to be evaluated.

    Args:
        path: the checkpoint.
        data: the data set that it is evaluated on.
        output: where results go: there must be a folder for it before anything is measured.
        options: the machine, and the model's name.

    Raises:
        CheckpointError: if the file cannot be read safely.
        ValueError: if there are no such data, or the model does not fit them.
    """
    if not Path(output).absolute().parent.is_dir():
        raise ValueError(
            f"there is no directory {Path(output).parent} for the output; make it first"
        )
    for folder in str(data).split(":"):
        if not Path(folder).is_dir():
            raise ValueError(f"there is no directory {folder} for DATA")
    source = checkpoint.open_source(path)  # says in one line what is wrong with a file
    facts = describe(source)
    from fairseq_layerdrop.evaluation.loading import load
    from fairseq_layerdrop.evaluation.subject import Subject

    subject = Subject(
        load(
            str(path),
            str(data),
            device=options.device,
            threads=options.threads,
            user_dir=options.user_dir,
        ),
        digest=source.digest,
        curve=options.curve or Path(path).stem + (", compensated" if options.compensate else ""),
        rates={stack: about["layerdrop"] for stack, about in facts["stacks"].items()},
        trained=facts["trained_plans"],
        seed=facts["seed"],
    )
    return source, subject


def batches_of(
    subject: "Subject", options: EvaluationOptions, *, subset: str | None = None, half: Any = "all"
) -> "Batches":
    """The sentences that the options name, or those of another subset."""
    from fairseq_layerdrop.evaluation.loading import Batches

    return Batches(
        subject.loaded,
        subset or options.subset,
        half=half,
        max_tokens=options.max_tokens,
        max_sentences=options.batch_size,
    )


def measures_of(
    subject: "Subject",
    batches: "Batches",
    options: EvaluationOptions,
    *,
    metrics: Collection[str] | None = None,
    stopwatch: "Stopwatch | None" = None,
    compensator: "Compensator | None" = None,
) -> "Measures":
    """What is measured on these sentences.

    Args:
        subject: the checkpoint.
        batches: the sentences.
        options: how text is generated, and the metrics.
        metrics: others than the options'.
        stopwatch: one that is there already keeps its own sentences.
        compensator: likewise, and the plans that it has done.
    """
    from fairseq_layerdrop.evaluation.decoding import Decoder, read_references
    from fairseq_layerdrop.evaluation.latency import Stopwatch
    from fairseq_layerdrop.evaluation.sweep import TEXTS, Measures

    metrics = sorted(metrics or options.metrics)
    settings: dict[str, object] = {}
    decoder, references = None, []
    if set(TEXTS) & set(metrics):
        how = {name: getattr(options, name) for name in _DECODING}
        reference = str(options.reference) if options.reference else None
        settings = {**how, "reference": reference and Path(reference).name}
        decoder = Decoder(subject.loaded, **how)
        references = (
            read_references(reference, batches) if reference else decoder.references(batches)
        )
        if reference:  # its name stays when its text changes
            text = "\n".join(references).encode()
            settings["reference_digest"] = hashlib.blake2b(text, digest_size=8).hexdigest()
    if "latency" in metrics and stopwatch is None:
        stopwatch = Stopwatch(subject.loaded, batches, beam=options.beam)
    if stopwatch:
        settings["latency"] = stopwatch.description
    if options.compensate and compensator is None:
        from fairseq_layerdrop.evaluation.calibration import calibration
        from fairseq_layerdrop.evaluation.compensation import Compensator

        compensator = Compensator(subject.loaded, calibration(subject.loaded))
    return Measures(
        batches, metrics, decoder, references, stopwatch, settings, compensator=compensator
    )
