# SPDX-License-Identifier: MIT
"""What the verbs that evaluate on data share: their flags, and loading what these name."""

import logging
import warnings
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import track

if TYPE_CHECKING:
    from fairseq_layerdrop.evaluation.loading import Batches
    from fairseq_layerdrop.evaluation.subject import Subject


def add_data(parser: ArgumentParser, *, output: str, subset: str = "valid") -> None:
    """The arguments of every such verb."""
    parser.add_argument("data", metavar="DATA", help="a data set in fairseq's binary form")
    parser.add_argument("output", metavar="OUT", help=output)
    parser.add_argument("--path", metavar="CKPT", required=True, help="a fairseq checkpoint (.pt)")
    parser.add_argument(
        "--gen-subset", metavar="SPLIT", default=subset, help=f"of the data (default: {subset})"
    )
    parser.add_argument(
        "--max-tokens", metavar="N", type=int, default=1024, help="tokens a batch (default: 1024)"
    )
    parser.add_argument(
        "--batch-size", metavar="N", type=int, help="sentences a batch (default: as tokens allow)"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--threads", metavar="N", type=int, help="of the CPU (default: torch's)")
    parser.add_argument(
        "--curve", metavar="NAME", help="the model's name in tables and figures (default: CKPT's)"
    )
    parser.add_argument("--json", action="store_true", help="print the facts as JSON")


def load_subject(args: Namespace) -> "Subject":
    """The checkpoint that the arguments name, ready to be evaluated."""
    from fairseq_layerdrop import checkpoint
    from fairseq_layerdrop.pruning.inspection import describe

    for name in ("max_tokens", "batch_size", "threads"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    if not Path(args.output).absolute().parent.is_dir():
        raise ValueError(
            f"there is no directory {Path(args.output).parent} for the output; make it first"
        )
    for folder in args.data.split(":"):
        if not Path(folder).is_dir():
            raise ValueError(f"there is no directory {folder} for DATA")
    source = checkpoint.open_source(args.path)  # says in one line what is wrong with a file
    facts = describe(source)
    quiet()
    from fairseq_layerdrop.evaluation.loading import load
    from fairseq_layerdrop.evaluation.subject import Subject

    loaded = load(args.path, args.data, device=args.device, threads=args.threads)
    rates = {stack: about["layerdrop"] for stack, about in facts["stacks"].items()}
    name = args.curve or Path(args.path).stem
    return Subject(
        loaded,
        digest=source.digest,
        curve=name,
        rates=rates,
        trained=facts["trained_plans"],
        seed=facts["seed"],
    )


def quiet() -> None:
    """Silence fairseq's and its libraries' logs, which nobody asked for."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    warnings.simplefilter("ignore")
    for name in ("fairseq", "sacrebleu"):
        logging.getLogger(name).setLevel(logging.WARNING)


def load_batches(
    args: Namespace, subject: "Subject", *, subset: str | None = None, half: Any = "all"
) -> "Batches":
    """The sentences that the arguments name."""
    from fairseq_layerdrop.evaluation.loading import Batches

    sizes = {"max_tokens": args.max_tokens, "max_sentences": args.batch_size}
    return Batches(subject.loaded, subset or args.gen_subset, half=half, **sizes)


def bar(label: str, *, shown: bool = True) -> Callable[[Iterable[Any]], Iterable[Any]]:
    """A progress bar on stderr around anything that has a length."""

    def wrap(items: Sequence[Any]) -> Iterable[Any]:
        console = Console(stderr=True)
        return track(
            items,
            label,
            console=console,
            transient=True,
            disable=not (shown and console.is_terminal),
        )

    return wrap  # type: ignore[return-value]
