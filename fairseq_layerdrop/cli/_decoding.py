# SPDX-License-Identifier: MIT
"""The flags of verbs that generate text, named as in fairseq-generate, and what they measure."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fairseq_layerdrop.evaluation.latency import Stopwatch
    from fairseq_layerdrop.evaluation.loading import Batches
    from fairseq_layerdrop.evaluation.subject import Subject
    from fairseq_layerdrop.evaluation.sweep import Measures

METRICS = ("loss", "bleu", "chrf", "rouge", "latency", "memory")


def add_decoding(parser: ArgumentParser, *, metrics: str) -> None:
    """Add flags for the metrics and for generation; references are the data's own by default."""
    parser.add_argument(
        "--metrics",
        default=metrics,
        help=f"of {', '.join(METRICS)}, separated by commas; loss has accuracy along (default: "
        f"{metrics})",
    )
    parser.add_argument(
        "--beam", metavar="N", type=int, default=5, help="hypotheses that are followed (default: 5)"
    )
    parser.add_argument(
        "--lenpen", metavar="X", type=float, default=1.0, help="length penalty (default: 1)"
    )
    parser.add_argument(
        "--max-len-a", metavar="X", type=float, default=0, help="see --max-len-b (default: 0)"
    )
    parser.add_argument(
        "--max-len-b",
        metavar="N",
        type=int,
        default=200,
        help="at most a·source length + b tokens (default: 200)",
    )
    parser.add_argument(
        "--remove-bpe", metavar="HOW", help="how pieces become words: sentencepiece, '@@ ', …"
    )


def parse_metrics(args: Namespace) -> list[str]:
    """The metrics that are asked for.

    Raises:
        ValueError: if one is unknown, or there is none.
    """
    names = [name for name in args.metrics.split(",") if name]
    if not names or set(names) - set(METRICS):
        raise ValueError(
            f"--metrics are of {', '.join(METRICS)}, separated by commas, got {args.metrics!r}"
        )
    if args.beam < 1:
        raise ValueError(f"--beam must be at least 1, got {args.beam}")
    return names


def make_measures(
    args: Namespace,
    subject: "Subject",
    batches: "Batches",
    metrics: list[str],
    stopwatch: "Stopwatch | None" = None,
) -> "Measures":
    """What is measured on these sentences; a stopwatch that is there already keeps its own."""
    from fairseq_layerdrop.evaluation.decoding import Decoder, read_references
    from fairseq_layerdrop.evaluation.latency import Stopwatch
    from fairseq_layerdrop.evaluation.sweep import TEXTS, Measures

    settings: dict[str, object] = {}
    decoder, references = None, []
    if set(TEXTS) & set(metrics):
        names = ("beam", "lenpen", "max_len_a", "max_len_b", "remove_bpe")
        settings = {name: getattr(args, name) for name in names}
        reference = getattr(args, "reference", None)
        settings["reference"] = reference and Path(reference).name
        decoder = Decoder(subject.loaded, **{name: getattr(args, name) for name in names})
        references = (
            read_references(reference, batches) if reference else decoder.references(batches)
        )
    if "latency" in metrics and stopwatch is None:
        stopwatch = Stopwatch(subject.loaded, batches, beam=args.beam)
    if stopwatch:
        settings["latency"] = stopwatch.description
    return Measures(batches, metrics, decoder, references, stopwatch, settings)
