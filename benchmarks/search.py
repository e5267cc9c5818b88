# SPDX-License-Identifier: MIT
"""How much faster shared prefixes and screening are, and what a sweep adds to scoring.

Four pairs of ways to the same numbers (they must agree within 1e-6), in alternation in one process:

- all sub-networks: one by one (the model restricted, its criterion) against ``score_losses``, where
  plans that begin with the same layers share them; one by one takes ``--sample`` plans, evenly by
  their sizes, and is scaled up;
- the rounds of greedy elimination over all stacks: one by one against ``LossObjective``;
- an exhaustive search at half the depth: on all batches against screened on a fifth of them, the
  same winner;
- a sweep of eight plans against scoring these one by one.

    python -m benchmarks.search [--rounds 5] [--sample 60] [--json]
    python -m benchmarks.search --dim 256 --ffn 1024 --vocabulary 8000 --sentences 4 --sample 30
    --rounds 3 python -m benchmarks.search --path CKPT DATA

There is a batch a round: the first two score one a round, the others all. The *bound* is the ratio
of both ways' multiply-adds (matrix products and attention, counted as they run). Ratios are medians
of the rounds' own, with their quartiles. Without ``--path`` words and weights are random, and the
targets what the whole model says, so that losses tell plans apart. *Held* are the most activations
of a stack that the walk holds at once, the stack's input among them: at most the depth + 2.
"""

import argparse
import itertools
import json
import math
import os
import random
import statistics
import tempfile
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from fairseq.data import Dictionary
from fairseq.tasks import TASK_REGISTRY
from rich.console import Console
from rich.progress import track
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

import fairseq_layerdrop
from benchmarks.training_speed import Variant, configuration, on_cpu_time, timed
from fairseq_layerdrop.evaluation.loading import Batches, Loaded, load
from fairseq_layerdrop.evaluation.losses import score_losses
from fairseq_layerdrop.evaluation.objective import LossObjective
from fairseq_layerdrop.evaluation.subject import Subject
from fairseq_layerdrop.evaluation.sweep import Measures, Results, sweep
from fairseq_layerdrop.evaluation.workers import Workers
from fairseq_layerdrop.modules.subnetwork import restricted, stacks
from fairseq_layerdrop.pruning.plan import PruningPlan
from fairseq_layerdrop.pruning.search import Screened, beam, exhaustive, space
from fairseq_layerdrop.reporting.rows import RowFile

SCREEN = 0.2
Numbers = dict[PruningPlan, float]
"""Bits a token."""


class Pair(NamedTuple):
    """Two ways to the same numbers; each takes the number of the round."""

    name: str
    target: str
    one: Callable[[int], Numbers]
    other: Callable[[int], Numbers]
    scale: float = 1.0
    """So many times the first way's work stands against the other's."""


class Bench:
    """The ways, on one subject and its batches; what they write goes to a folder."""

    def __init__(self, subject: Subject, batches: Batches, folder: Path, sample: int) -> None:
        self.subject, self.loaded, self.batches = subject, subject.loaded, batches
        self.files = (folder / f"{number}.jsonl" for number in itertools.count())
        self.plans = list(space(subject.depths, {}))
        self.sample = evenly(self.plans, subject, sample or len(self.plans))
        self.half = {stack: depth // 2 for stack, depth in subject.depths.items()}
        self.eliminations: list[Sequence[PruningPlan]] = []
        score = self.objective(0)
        beam(lambda plans: self.eliminations.append(plans) or score(plans), subject.depths, {})

    def pairs(self) -> list[Pair]:
        """What is compared."""
        tried, points = (
            list(itertools.chain(*self.eliminations)),
            evenly(self.plans, self.subject, 8),
        )
        best, scale = "at least 0.85 of the bound", len(self.plans) / len(self.sample)
        return [
            Pair(
                f"all {len(self.plans):,}",
                best,
                lambda r: self.each(self.sample, r),
                self.all_shared,
                scale,
            ),
            Pair(
                f"greedy, {len(tried)} plans", best, lambda r: self.each(tried, r), self.eliminate
            ),
            Pair(
                f"screening, {SCREEN:.0%}",
                "at least 2",
                lambda _: self.search(1),
                lambda _: self.search(SCREEN),
            ),
            Pair(
                "sweep, 8 plans",
                "at most 1.05",
                lambda _: self.swept(points),
                lambda _: self.each(points),
            ),
        ]

    def objective(self, number: int | None = None, part: float = 1.0) -> LossObjective:
        """As ``fairseq-layerdrop search`` makes it, on one batch or all, with a new row file."""
        rows = RowFile(next(self.files))
        score = LossObjective(self.subject, self.batches, rows=rows, workers=Workers(), part=part)
        score.samples = score.samples if number is None else self.samples(number)
        return score

    def samples(self, number: int | None) -> list[Any]:
        """One batch, or all."""
        return self.batches.samples if number is None else [self.batches.samples[number]]

    @torch.no_grad()
    def each(self, plans: Sequence[PruningPlan], number: int | None = None) -> Numbers:
        """One by one, on one batch or all."""
        found, samples = {}, self.samples(number)
        for plan in plans:
            with restricted(self.loaded.model, plan.kept):
                logs = [self.loaded.criterion(self.loaded.model, sample)[2] for sample in samples]
            nats = sum(float(log.get("nll_loss", log["loss"])) for log in logs)
            found[plan] = nats / sum(log["ntokens"] for log in logs) / math.log(2)
        return found

    def all_shared(self, number: int) -> Numbers:
        """All plans in one pass over one batch."""
        losses = score_losses(self.loaded, self.samples(number), [plan.kept for plan in self.plans])
        return {plan: found.loss for plan, found in zip(self.plans, losses, strict=True)}

    def eliminate(self, number: int) -> Numbers:
        """The rounds of the elimination."""
        score = self.objective(number)
        return {
            p: loss
            for plans in self.eliminations
            for p, loss in zip(plans, score(plans), strict=True)
        }

    def search(self, share: float) -> Numbers:
        """The best at half the depth."""
        score = self.objective()
        chosen = score if share == 1 else Screened(self.objective(part=share), score)
        return dict(exhaustive(chosen, self.subject.depths, self.half))

    def swept(self, plans: Sequence[PruningPlan]) -> Numbers:
        """The rows of a sweep."""
        rows = sweep(
            self.subject, plans, Measures(self.batches, ["loss"]), Results(str(next(self.files)))
        )
        return {plan: row["loss"] for plan, row in rows.items()}

    def held(self) -> dict[str, int]:
        """The most activations that are alive at once, by stack, while all plans are scored."""
        alive, most = Counter(self.subject.depths.keys()), Counter()  # each stack's input

        def note(stack: str, output: Any) -> None:
            alive[stack] += 1
            weakref.finalize(
                output[0] if isinstance(output, tuple) else output, alive.subtract, [stack]
            )
            most[stack] = max(most[stack], alive[stack])

        hooks = [
            layer.register_forward_hook(lambda *call, stack=stack: note(stack, call[-1]))
            for stack, modules in stacks(self.loaded.model).items()
            for layer in modules[0].layers
        ]
        self.all_shared(0)
        for hook in hooks:
            hook.remove()
        assert all(count <= self.subject.depths[stack] + 2 for stack, count in most.items()), most
        return dict(most)


def evenly(plans: Sequence[PruningPlan], subject: Subject, count: int) -> list[PruningPlan]:
    """N of the plans, evenly spread by size; plans of one size are in random order."""
    ranked = sorted(random.Random(1).sample(plans, len(plans)), key=subject.parameters)
    count = min(count, len(plans))
    return [ranked[(2 * i + 1) * len(ranked) // (2 * count)] for i in range(count)]


@dataclass(frozen=True)
class Row:
    """What is said of a pair: medians over the rounds; of ratios, the quartiles, too."""

    pair: str
    seconds: tuple[float, float]
    ratio: tuple[float, float, float]
    bound: float
    of_bound: float
    target: str

    def __str__(self) -> str:
        low, middle, high = self.ratio
        cells = [
            self.pair,
            *(f"{s:.2f}" for s in self.seconds),
            f"{middle:.2f} ({low:.2f}–{high:.2f})",
        ]
        return (
            f"| {' | '.join([*cells, f'{self.bound:.2f}', f'{self.of_bound:.3f}', self.target])} |"
        )


HEAD = """\
| what | one way, s | other way, s | ratio | bound | ratio / bound | target |
| --- | ---: | ---: | ---: | ---: | ---: | --- |"""


def measure(pair: Pair, rounds: int, device: torch.device) -> Row:
    """Count both ways, which warms them up, then time them in alternation."""
    bound = pair.scale * multiply_adds(lambda: pair.one(0)) / multiply_adds(lambda: pair.other(0))
    progress = track(range(rounds), pair.name, console=Console(stderr=True), refresh_per_second=1)
    times = [turn(pair, number, device) for number in progress]
    one, other = zip(*times, strict=True)
    ratios = [a / b for a, b in times]
    ratio = (
        tuple(statistics.quantiles(ratios, method="inclusive")) if rounds > 1 else (ratios[0],) * 3
    )
    seconds = statistics.median(one), statistics.median(other)
    return Row(pair.name, seconds, ratio, bound, ratio[1] / bound, pair.target)


def multiply_adds(run: Callable[[], object]) -> int:
    """Of all matrix products and attention."""
    on_cpu = (
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    )  # torch counts those of GPUs only
    count = lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v)
    with FlopCounterMode(display=False, custom_mapping={on_cpu: count}) as counter:
        run()
    return counter.get_total_flops() // 2


def turn(pair: Pair, number: int, device: torch.device) -> tuple[float, float]:
    """The seconds of both ways in one round; now one goes first, now the other."""
    found: dict[str, Numbers] = {}
    seconds = {
        way: timed(lambda way=way: found.update({way: getattr(pair, way)(number)}), device)
        for way in (("one", "other") if number % 2 else ("other", "one"))
    }
    for plan, loss in found["one"].items():
        got = found["other"].get(plan, math.nan)
        assert math.isclose(loss, got, rel_tol=1e-6), (
            f"{pair.name}: {plan}: {loss} one way, {got} the other"
        )
    return pair.scale * seconds["one"], seconds["other"]


def synthetic(args: argparse.Namespace) -> tuple[Subject, Batches]:
    """A translation model with random weights, and batches of random words."""
    fairseq_layerdrop.register()
    arch = (
        "--arch",
        "layerdrop_transformer",
        "--encoder-layerdrop",
        "0",
        "--decoder-layerdrop",
        "0",
    )
    cfg = configuration(
        Variant("", 0.0, arch, "", (args.encoder_layers, args.decoder_layers)), args
    )
    words = Dictionary()
    for i in range(args.vocabulary - words.nspecial):
        words.add_symbol(f"w{i}")
    torch.manual_seed(1)
    task, device = TASK_REGISTRY["translation"](cfg.task, words, words), torch.device(args.device)
    model = task.build_model(cfg.model).requires_grad_(False).eval().to(device)
    model.make_generation_fast_(need_attn=False)
    loaded = Loaded(model, task, task.build_criterion(cfg.criterion), device)
    return Subject(loaded, digest="", curve="synthetic", rates={}), Synthetic(loaded, args)


class Synthetic(Batches):
    """Batches of random words."""

    def __init__(self, loaded: Loaded, args: argparse.Namespace) -> None:
        self.subset, self.half, self.sentences = "synthetic", "all", args.rounds * args.sentences
        self.samples = [self._sample(loaded.model, args) for _ in range(args.rounds)]

    @staticmethod
    @torch.no_grad()
    def _sample(model: Any, args: argparse.Namespace) -> dict[str, Any]:
        shape = (args.sentences, args.length)
        source, previous = torch.randint(4, args.vocabulary, (2, *shape), device=args.device)
        lengths = torch.full(shape[:1], args.length, device=args.device)
        inputs = {"src_tokens": source, "src_lengths": lengths, "prev_output_tokens": previous}
        target = model(**inputs)[0].argmax(-1)
        return {
            "nsentences": shape[0],
            "ntokens": target.numel(),
            "net_input": inputs,
            "target": target,
        }


def real(args: argparse.Namespace) -> tuple[Subject, Batches]:
    """A checkpoint, and batches of the validation set, evenly spread."""
    loaded = load(*args.path, device=args.device, threads=args.threads)
    batches = Batches(loaded, "valid", max_tokens=args.sentences * args.length)
    batches.samples = batches.share(args.rounds / len(batches))
    return Subject(loaded, digest="", curve="", rates={}), batches


def machine(args: argparse.Namespace, bench: Bench, load: Sequence[float]) -> str:
    """The machine, its load before and after, the sizes, and what is held."""
    device = (
        torch.cuda.get_device_name()
        if args.device.startswith("cuda")
        else f"threads: {torch.get_num_threads()}"
    )
    clock = "CPU time" if on_cpu_time(torch.device(args.device)) else "wall time"
    loads = f"load {load[0]:.2f} before, {os.getloadavg()[0]:.2f} after"
    layers = " + ".join(map(str, bench.subject.depths.values()))
    decoder = bench.loaded.model.decoder
    sizes = f"{layers} layers, d {decoder.embed_dim}, FFN {decoder.layers[0].fc1.out_features}, "
    sizes += (
        f"{len(bench.loaded.task.target_dictionary)} words, {args.sentences} x "
        f"{args.length} tokens a batch"
    )
    held = ", ".join(f"{stack} {count}" for stack, count in bench.held().items())
    return (
        f"{os.cpu_count()} cores, {device}, {clock}, torch {torch.__version__}, {loads}; "
        f"{sizes}; held: {held}"
    )


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the flags; the defaults take about five minutes on one core."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sizes = {
        "encoder-layers": 6,
        "decoder-layers": 6,
        "dim": 128,
        "ffn": 512,
        "heads": 4,
        "vocabulary": 200,
    }
    more = {"sentences": 16, "length": 24, "rounds": 5, "sample": 60, "threads": 1}
    for name, default in (sizes | more).items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default: {default}")
    parser.add_argument(
        "--path", nargs=2, metavar=("CKPT", "DATA"), help="a checkpoint and its data"
    )
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--json", action="store_true", help="print a JSON line a pair, not a table")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure all pairs and print a table."""
    args, load = parse(argv), os.getloadavg()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(*(real if args.path else synthetic)(args), Path(folder), args.sample)
        rows = [measure(pair, args.rounds, torch.device(args.device)) for pair in bench.pairs()]
    run_on = machine(args, bench, load)
    if args.json:
        return print("\n".join(json.dumps(asdict(row) | {"machine": run_on}) for row in rows))
    print(run_on, "", HEAD, *rows, sep="\n")


if __name__ == "__main__":
    main()
