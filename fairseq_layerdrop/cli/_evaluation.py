# SPDX-License-Identifier: MIT
"""What the verbs that evaluate on data share: their flags, and loading what these name."""

import logging
import warnings
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import track

from fairseq_layerdrop.cli._check import add_user_dir

if TYPE_CHECKING:
    from fairseq_layerdrop.evaluation.loading import Batches
    from fairseq_layerdrop.evaluation.subject import Subject
    from fairseq_layerdrop.operations._evaluation import EvaluationOptions


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
    add_user_dir(parser)
    parser.add_argument("--json", action="store_true", help="print the facts as JSON")


def add_compensate(parser: ArgumentParser) -> None:
    """Add ``--compensate`` of the verbs that take many plans."""
    parser.add_argument(
        "--compensate",
        action="store_true",
        help="make up for the layers that a plan removes, as `prune --compensate` does, on DATA's "
        "train",
    )


def evaluation_options(args: Namespace) -> "EvaluationOptions":
    """The options that the flags of :func:`add_data` and ``add_decoding`` stand for."""
    from fairseq_layerdrop.operations._evaluation import EvaluationOptions

    given = {**vars(args), "subset": args.gen_subset}
    if "metrics" in given:
        given["metrics"] = [name for name in args.metrics.split(",") if name]
    names = {field.name for field in fields(EvaluationOptions)}
    return EvaluationOptions(**{name: value for name, value in given.items() if name in names})


def load(args: Namespace) -> "tuple[Subject, Batches]":
    """The checkpoint and the sentences that the arguments name."""
    from fairseq_layerdrop.operations._evaluation import batches_of, open_subject

    quiet()
    options = evaluation_options(args)
    _, subject = open_subject(args.path, args.data, args.output, options)
    return subject, batches_of(subject, options)


def quiet() -> None:
    """Silence fairseq's and its libraries' logs, which nobody asked for."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    warnings.simplefilter("ignore")
    for name in ("fairseq", "sacrebleu"):
        logging.getLogger(name).setLevel(logging.WARNING)


def bar(label: str) -> Callable[[Sequence[Any]], Iterable[Any]]:
    """A progress bar on stderr around anything that has a length."""

    def wrap(items: Sequence[Any]) -> Iterable[Any]:
        console = Console(stderr=True)
        return track(items, label, console=console, transient=True, disable=not console.is_terminal)

    return wrap
