# SPDX-License-Identifier: MIT
"""How fast are sub-networks in stock fairseq, CTranslate2 and transformers, and do they say the
same?

Every plan's stock checkpoint and its exports (single precision, int8) translate the same sentences
in turn, a round after the other, so that whatever else the machine does hits all alike: all of them
in batches, then some one by one.

    python -m benchmarks.inference DATA --path CKPT --reference TEXT [--plans "6+6 all/every:2"]
        [--rounds 5] [--transformers] [--rows ROWS.jsonl]

*times* is how many times as fast a system is as fairseq with the first plan in the same round:
medians over the rounds, with their quartiles. *same* is the share of sentences that fairseq
translates alike with the same plan. ``--rows`` adds a row a system that has none yet, which
``fairseq-layerdrop report`` draws: a curve an engine. On one thread of the CPU times are CPU time,
which others on the machine do not lengthen.
"""

import argparse
import contextlib
import io
import json
import logging
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from fairseq.data.data_utils import post_process
from rich.console import Console
from rich.progress import track

from benchmarks.engines import (
    Pieces,
    Sentences,
    Translate,
    in_ctranslate2,
    in_fairseq,
    in_transformers,
)
from benchmarks.training_speed import on_cpu_time, timed
from fairseq_layerdrop import checkpoint, cli
from fairseq_layerdrop.evaluation.loading import Batches, Loaded, load
from fairseq_layerdrop.evaluation.subject import Subject
from fairseq_layerdrop.evaluation.texts import score_texts
from fairseq_layerdrop.pruning.plan import PruningPlan
from fairseq_layerdrop.reporting.origin import origin
from fairseq_layerdrop.reporting.rows import Row, RowFile

STOCK = "fairseq float32"
TRANSFORMERS = "transformers float32"
EXPORTS = {"CTranslate2 float32": "float32", "CTranslate2 int8": "int8"}
"""Engines, as curves are called, and their quantization."""
VERSIONS = ("fairseq-fixed", "torch", "sacrebleu")


@dataclass
class System:
    """A plan in an engine, and what was measured of it, round by round."""

    plan: PruningPlan
    engine: str
    bytes: int
    in_batches: Translate
    alone: Translate
    found: Pieces = field(default_factory=list)
    speeds: list[float] = field(default_factory=list)
    """Sentences a second, in batches."""
    waits: list[list[float]] = field(default_factory=list)
    """Milliseconds of each sentence alone."""

    def turn(
        self, sentences: Sentences, singles: Sequence[Sentences], device: torch.device
    ) -> None:
        """Translate everything once."""
        seconds = timed(lambda: setattr(self, "found", self.in_batches(sentences)), device)
        self.speeds.append(len(sentences.numbers) / seconds)
        self.waits.append(
            [1000 * timed(lambda one=one: self.alone(one), device) for one in singles]
        )


def choose(loaded: Loaded, args: argparse.Namespace) -> tuple[Sentences, list[Sentences], str]:
    """The sentences, evenly spread over the lengths; some of them one by one; the digest of all."""
    batches = Batches(loaded, args.gen_subset, max_tokens=None, max_sentences=args.batch_size)
    ordered = [int(number) for sample in batches for number in sample["id"]]
    numbers = evenly(ordered, args.sentences or len(ordered))
    batches.samples = Batches.collate(
        loaded,
        batches.dataset,
        [numbers[i : i + args.batch_size] for i in range(0, len(numbers), args.batch_size)],
    )
    singles = [
        Batches.collate(loaded, batches.dataset, [[n]]) for n in evenly(numbers, args.singles)
    ]
    return (
        _sentences(loaded, batches.samples),
        [_sentences(loaded, single) for single in singles],
        batches.digest,
    )


def _sentences(loaded: Loaded, samples: list[Any]) -> Sentences:
    words = loaded.task.source_dictionary
    rows = [row for sample in samples for row in sample["net_input"]["src_tokens"].tolist()]
    sources = [
        [words[token] for token in row if token not in (words.pad(), words.eos())] for row in rows
    ]
    return Sentences(
        [int(number) for sample in samples for number in sample["id"]], samples, sources
    )


def evenly(numbers: Sequence[int], count: int) -> list[int]:
    """So many of the numbers, at even distances."""
    count = min(count, len(numbers))
    return [numbers[i * len(numbers) // count] for i in range(count)]


def systems(args: argparse.Namespace, folder: Path, plan: PruningPlan) -> list[System]:
    """A plan's file in fairseq, and what is exported of it."""
    small = folder / f"{len(list(folder.iterdir()))}.pt"
    keep = [
        word
        for stack, kept in plan.kept.items()
        for word in (f"--{stack}-keep", ",".join(map(str, kept)))
    ]
    _run("prune", args.path, small, *keep)
    loaded = load(str(small), args.data, device=args.device, threads=args.threads)
    stock = in_fairseq(loaded, args)
    found = [System(plan, STOCK, small.stat().st_size, stock, stock)]
    if args.transformers:
        out = _export(args, small, "huggingface")
        translate = in_transformers(out, loaded, args)
        found.append(System(plan, TRANSFORMERS, _size(out), translate, translate))
    return found if args.fairseq_only else [*found, *_by_ctranslate2(args, small, plan)]


def _by_ctranslate2(args: argparse.Namespace, small: Path, plan: PruningPlan) -> list[System]:
    import ctranslate2

    found = []
    for engine, quantization in EXPORTS.items():
        out = _export(args, small, "ctranslate2", "--quantization", quantization)
        threads = {"inter_threads": 1, "intra_threads": args.threads}
        translator = ctranslate2.Translator(
            str(out), device=args.device, compute_type=quantization, **threads
        )
        ways = (in_ctranslate2(translator, args, batch) for batch in (args.batch_size, 1))
        found.append(System(plan, engine, _size(out), *ways))
    return found


def _export(args: argparse.Namespace, small: Path, to: str, *flags: str) -> Path:
    out = small.with_suffix("." + "-".join([to, *flags[1:]]))
    _run("export", small, args.data, out, "--to", to, *flags)
    return out


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def _run(*arguments: object) -> None:
    """A verb of the command; its facts are not this benchmark's results."""
    with contextlib.redirect_stdout(io.StringIO()):
        status = cli.main([str(argument) for argument in arguments])
    if status:
        sys.exit(status)


def rows(
    args: argparse.Namespace, subject: Subject, data: str, found: list[System], all_: Sentences
) -> list[Row]:
    """What there is to say of each system; the first is what the others are compared with."""
    lines = Path(args.reference).read_text(encoding="utf-8").splitlines()
    references = [lines[number] for number in all_.numbers]
    stock = {system.plan: system.found for system in found if system.engine == STOCK}
    names = ("beam", "max_len_b", "remove_bpe", "batch_size", "singles", "rounds", "threads")
    about = {name: getattr(args, name) for name in names} | {"reference": Path(args.reference).name}
    about |= {
        "checkpoint": subject.digest,
        "subset": args.gen_subset,
        "data": data,
        "sentences": len(all_.numbers),
    }
    about["device"] = subject.device
    about["versions"] = {name: version(name) for name in (*VERSIONS, *_exporter(args))}
    return [
        _row(args, subject, system, found[0], stock[system.plan], references, about)
        for system in found
    ]


def _exporter(args: argparse.Namespace) -> tuple[str, ...]:
    libraries = [] if args.fairseq_only else ["ctranslate2"]
    return (*libraries, *(["transformers"] if args.transformers else []))


def _row(
    args: argparse.Namespace,
    subject: Subject,
    system: System,
    first: System,
    stock: Pieces,
    references: list[str],
    about: Row,
) -> Row:
    texts = [post_process(" ".join(pieces), args.remove_bpe) for pieces in system.found]
    waits = [statistics.median(of_sentence) for of_sentence in zip(*system.waits, strict=True)]
    _, alone, _ = low_middle_high = quartiles(waits)
    in_batches = [ours / base for ours, base in zip(system.speeds, first.speeds, strict=True)]
    one_by_one = [
        sum(base) / sum(ours) for ours, base in zip(system.waits, first.waits, strict=True)
    ]
    return {
        **subject.describe(system.plan),
        "curve": system.engine,
        "bytes": system.bytes,
        **score_texts(texts, references, ["bleu"]),
        "sentences": len(texts),
        "same": sum(a == b for a, b in zip(system.found, stock, strict=True)) / len(texts),
        "sentences_per_second": statistics.median(system.speeds),
        "times": quartiles(in_batches),
        "latency_ms": alone,
        "latency_ms_quartiles": low_middle_high[::2],
        "times_alone": quartiles(one_by_one),
        "signature": {"plan": str(system.plan), "engine": system.engine, **about},
    }


def quartiles(values: Sequence[float]) -> list[float]:
    """The lower, the median and the upper."""
    return statistics.quantiles(values, method="inclusive") if len(values) > 1 else [*values] * 3


HEAD = """\
| plan | engine | file, MB | BLEU | same | sentences/s | times | alone, ms | times |
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"""


def line(row: Row) -> str:
    """A row of the table."""
    times, alone = (
        f"{middle:.2f} ({low:.2f}–{high:.2f})"
        for low, middle, high in (row["times"], row["times_alone"])
    )
    cells = [
        row["plan"],
        row["curve"],
        f"{row['bytes'] / 1e6:.1f}",
        f"{row['bleu']:.2f}",
        f"{row['same']:.1%}",
    ]
    cells += [f"{row['sentences_per_second']:.1f}", times, f"{row['latency_ms']:.1f}", alone]
    return f"| {' | '.join(cells)} |"


def machine(args: argparse.Namespace, count: int, before: Sequence[float]) -> str:
    """The machine, its load before and after (one minute's average), and what was translated."""
    device = (
        torch.cuda.get_device_name()
        if args.device.startswith("cuda")
        else f"threads: {args.threads}"
    )
    clock = "CPU time" if on_cpu_time(torch.device(args.device)) else "wall time"
    loads = f"load {before[0]:.2f} before, {os.getloadavg()[0]:.2f} after"
    work = (
        f"{count} sentences, batches of {args.batch_size}, {args.singles} alone, beam {args.beam}"
    )
    engines = ", ".join(f"{name} {version(name)}" for name in ("torch", *_exporter(args)))
    return (
        f"{os.cpu_count()} cores, {device}, {clock}, {engines}, {loads}; {work}, rounds: "
        f"{args.rounds}"
    )


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", metavar="DATA", help="a data set in fairseq's binary form")
    parser.add_argument("--path", metavar="CKPT", required=True, help="a fairseq checkpoint (.pt)")
    parser.add_argument(
        "--reference", metavar="TEXT", required=True, help="the subset's target side as plain text"
    )
    parser.add_argument(
        "--plans", default="all/all all/every:2 every:2/every:2", help="default: %(default)s"
    )
    parser.add_argument("--gen-subset", metavar="SPLIT", default="test", help="default: test")
    parser.add_argument(
        "--remove-bpe", metavar="HOW", help="how pieces become words: sentencepiece, '@@ ', …"
    )
    parser.add_argument("--sentences", type=int, default=0, help="evenly spread (default: 0, all)")
    counts = {
        "singles": 50,
        "beam": 5,
        "max-len-b": 200,
        "batch-size": 64,
        "rounds": 5,
        "threads": 1,
    }
    for name, default in counts.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default: {default}")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--fairseq-only", action="store_true", help="without CTranslate2")
    parser.add_argument("--transformers", action="store_true", help="with transformers, too")
    parser.add_argument("--rows", metavar="FILE", help="add the rows to this file (JSON Lines)")
    parser.add_argument(
        "--json", action="store_true", help="print a JSON line a system, not a table"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure all systems in turn and print a table."""
    args, before = parse(argv), os.getloadavg()
    logging.disable(logging.INFO)
    loaded = load(args.path, args.data, device=args.device, threads=args.threads)
    subject = Subject(loaded, digest=checkpoint.digest(args.path), curve="", rates={})
    all_, singles, data = choose(loaded, args)
    command = ["python", "-m", "benchmarks.inference", *(sys.argv[1:] if argv is None else argv)]
    file = RowFile(args.rows, origin(command)) if args.rows else None
    with tempfile.TemporaryDirectory() as folder:
        plans = dict.fromkeys(
            PruningPlan.parse(text, subject.depths) for text in args.plans.split()
        )
        found = [system for plan in plans for system in systems(args, Path(folder), plan)]
        for system in found:
            system.alone(singles[0])  # warms it up
        for number in track(
            range(args.rounds), "rounds", console=Console(stderr=True), refresh_per_second=1
        ):
            start = number % len(found)
            for system in (*found[start:], *found[:start]):
                system.turn(all_, singles, loaded.device)
    run_on = machine(args, len(all_.numbers), before)
    results = [row | {"run_on": run_on} for row in rows(args, subject, data, found, all_)]
    if file:
        file.add(row for row in results if not file.find(row["signature"]))
    if args.json:
        return print("\n".join(map(json.dumps, results)))
    print(run_on, "", HEAD, *map(line, results), sep="\n")


if __name__ == "__main__":
    main()
