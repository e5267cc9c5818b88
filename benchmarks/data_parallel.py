# SPDX-License-Identifier: MIT
"""What each way of data-parallel training costs, and what gradients of zero cost.

Two processes over gloo train small Transformers, all variants in turn after each update, so that
whatever else the machine does hits all alike. An update is fairseq's own ``train_step`` (forward
and backward, with the sharing of gradients), clipping and Adam, on a synthetic batch; it takes as
long as the slower process does.

    python -m benchmarks.data_parallel [--rounds 8] [--updates 4] [--json]

*Of the default* is a variant's time over that of ``pytorch_ddp`` at p = 0: the median of the
rounds, with quartiles.

*Of the ideal* is, where layers drop, the time over that of a model that has only the layers that
ran, by the line through a full model and one of half its depth, both measured in the same round. A
dropped layer is not computed, but its gradients of zero are shared and optimized as any others,
which the ideal's are not.
"""

import argparse
import json
import os
import socket
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from fairseq.models import DistributedFairseqModel

import fairseq_layerdrop
from benchmarks.training_speed import Training, Variant, keep_memory

RANKS = 2
RATES = (0.0, 0.5)
WAYS = {
    "pytorch_ddp": (),
    "pytorch_ddp, --find-unused-parameters": ("--find-unused-parameters",),
    "pytorch_ddp, --checkpoint-activations": ("--checkpoint-activations",),
    "legacy_ddp": ("--ddp-backend", "legacy_ddp"),
    "legacy_ddp, --find-unused-parameters": (
        "--ddp-backend",
        "legacy_ddp",
        "--find-unused-parameters",
    ),
    "legacy_ddp, --checkpoint-activations": (
        "--ddp-backend",
        "legacy_ddp",
        "--checkpoint-activations",
    ),
}
DEFAULT, HALF = "pytorch_ddp, p 0", "pytorch_ddp, half the layers"


def variants(args: argparse.Namespace) -> list[Variant]:
    """Each way at each rate, and by the default way a model of half the depth."""
    full = (args.encoder_layers, args.decoder_layers)

    def variant(name: str, rate: float, flags: tuple[str, ...], depths: tuple[int, int]) -> Variant:
        rates = ("--encoder-layerdrop", str(rate), "--decoder-layerdrop", str(rate))
        return Variant(name, rate, ("--arch", "layerdrop_transformer", *rates, *flags), "", depths)

    half = variant(HALF, 0.0, (), (full[0] // 2, full[1] // 2))
    return [
        *(variant(f"{way}, p {p:g}", p, flags, full) for way, flags in WAYS.items() for p in RATES),
        half,
    ]


class Parallel(Training):
    """A variant's model in training as one of several copies."""

    def __init__(self, variant: Variant, args: argparse.Namespace) -> None:
        super().__init__(variant, args)
        self.model = DistributedFairseqModel(self.training, self.model, None, self.device)

    def timed_update(self) -> tuple[float, int]:
        """The seconds of an update, and how many layers ran in its forward."""
        self.updates += 1
        self.ran.clear()
        torch.distributed.barrier()
        start = time.perf_counter()
        self.task.train_step(self.sample, self.model, self.criterion, self.optimizer, self.updates)
        self.optimizer.all_reduce_grads(self.model)
        self._optimize()
        self.optimizer.zero_grad()
        return time.perf_counter() - start, sum(
            n for (_, kind), n in self.ran.items() if kind == "fc1"
        )


Seconds = list[dict[str, float]]
"""For each round the median seconds of an update, by the variant's name."""


def measure(args: argparse.Namespace) -> tuple[Seconds, list[float]]:
    """The times of each round, and the mean share of layers that ran at the higher rate."""
    models = variants(args)
    trainings = {variant.name: Parallel(variant, args) for variant in models}
    for _ in range(args.warm_up):
        for training in trainings.values():
            training.timed_update()
    rounds, shares, depth = [], [], args.encoder_layers + args.decoder_layers
    for _ in range(args.rounds):
        turns = [
            {name: training.timed_update() for name, training in trainings.items()}
            for _ in range(args.updates)
        ]
        rounds.append({name: _slowest([turn[name][0] for turn in turns]) for name in trainings})
        shares.append(
            statistics.fmean(turn[f"pytorch_ddp, p {RATES[-1]:g}"][1] / depth for turn in turns)
        )
    return rounds, shares


def _slowest(seconds: list[float]) -> float:
    """The mean over the updates, of each the time of the slowest process."""
    slowest = torch.tensor(seconds)
    torch.distributed.all_reduce(slowest, torch.distributed.ReduceOp.MAX)
    return float(slowest.mean())


@dataclass(frozen=True)
class Row:
    """What is said of one variant: medians over the rounds; of ratios, the quartiles, too."""

    variant: str
    ms: float
    of_default: list[float]
    of_ideal: list[float] | None

    def __str__(self) -> str:
        ratios = [
            "" if r is None else f"{r[1]:.2f} ({r[0]:.2f}–{r[2]:.2f})"
            for r in (self.of_default, self.of_ideal)
        ]
        return " | ".join(["", self.variant, f"{self.ms:.1f}", *ratios, ""]).strip()


def rows(rounds: Seconds, shares: list[float]) -> list[Row]:
    """Judge each variant, round by round."""
    ideals = [
        r[HALF] + (2 * share - 1) * (r[DEFAULT] - r[HALF])
        for r, share in zip(rounds, shares, strict=True)
    ]
    return [_row(name, rounds, ideals) for name in rounds[0]]


def _row(name: str, rounds: Seconds, ideals: list[float]) -> Row:
    times = [r[name] for r in rounds]
    of_default = _quartiles([t / r[DEFAULT] for t, r in zip(times, rounds, strict=True)])
    drops = name.endswith(f"p {RATES[-1]:g}")
    of_ideal = (
        _quartiles([t / ideal for t, ideal in zip(times, ideals, strict=True)]) if drops else None
    )
    return Row(name, 1000 * statistics.median(times), of_default, of_ideal)


def _quartiles(values: Sequence[float]) -> list[float]:
    return (
        statistics.quantiles(values, method="inclusive") if len(values) > 1 else [*values] * 3
    )  # of one round alone


def work(rank: int, port: int, args: argparse.Namespace) -> None:
    """Train in one process of several; the first one prints."""
    keep_memory()
    torch.set_num_threads(1)
    fairseq_layerdrop.register()
    where = f"tcp://localhost:{port}"
    torch.distributed.init_process_group("gloo", init_method=where, rank=rank, world_size=RANKS)
    load = os.getloadavg()[0]
    rounds, shares = measure(args)
    if rank == 0:
        machine = (
            f"{os.cpu_count()} cores, {RANKS} processes, torch {torch.__version__}, load "
            f"{load:.1f} before; "
        )
        machine += (
            f"{args.encoder_layers}+{args.decoder_layers} layers, d {args.dim}, FFN {args.ffn}, "
        )
        machine += (
            f"{args.sentences} x {args.length} tokens a process; {args.rounds} rounds of "
            f"{args.updates} updates; "
        )
        machine += f"{statistics.fmean(shares):.0%} of the layers ran at p {RATES[-1]:g}"
        found = rows(rounds, shares)
        if args.json:
            print("\n".join(json.dumps(asdict(row) | {"machine": machine}) for row in found))
        else:
            head = (
                "| variant | ms an update | of the default | of the ideal |\n| --- | ---: | "
                "---: | ---: |"
            )
            print(machine, "", head, *found, sep="\n")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the flags; the defaults take 76 s of CPU time in all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sizes = {
        "encoder-layers": 4,
        "decoder-layers": 4,
        "dim": 128,
        "ffn": 512,
        "heads": 4,
        "vocabulary": 1000,
    }
    for name, default in (
        sizes | {"sentences": 8, "length": 16, "rounds": 8, "updates": 4}
    ).items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default: {default}")
    parser.add_argument(
        "--warm-up", type=int, default=2, help="updates of each variant before (default: 2)"
    )
    parser.add_argument(
        "--json", action="store_true", help="print a JSON line a variant, not a table"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure all variants in alternation and print a table."""
    args = parse(argv)
    args.device = "cpu"
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(work, (port, args), nprocs=RANKS)


if __name__ == "__main__":
    main()
