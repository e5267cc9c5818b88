# SPDX-License-Identifier: MIT
"""How much training time dropping saves: of the ideal, and against stock LayerDrop.

Trains one small Transformer in many variants, side by side in one process: a few updates of each
variant a round, so that whatever else the machine does hits all alike. An update is fairseq's own
``train_step`` (forward and backward) on a synthetic batch; the optimizer (clipping and fairseq's
Adam) and the clearing of the gradients are timed apart.

    python -m benchmarks.training_speed [--rounds 8] [--updates 6] [--threads 2] [--device cuda]
    [--bf16] [--json]

The ideal is what the parts that really ran would cost by themselves. Four stock models without
dropping, each stack at full and at half depth, give by least squares, anew in each round, the time
of a model without layers and that of an encoder's and a decoder's layer:

    seconds(E, D) = base + E * encoder layer + D * decoder layer

A layer's time is split among its sub-layers in the proportion of the times of a stock layer's
residual blocks run alone (forward and backward). Hooks count the sub-layers that ran in each
update, so that a lucky draw is no gain:

    ideal = base + sum over the kinds of sub-layers of (how many ran) * (time of one)

*Of the ideal* is ideal / measured. *Against stock* is that of stock's LayerDrop at the same rate,
layers or not: how many times as fast the same work is done (stock has no dropping of sub-layers).
Both are medians of the rounds' own ratios, with their quartiles. The rows of the four stock models
say how well the ideal's line fits them. Stock leaves dropped layers without gradients, so its
optimizer passes them by; ours writes zeros (moments decay, and data-parallel copies agree), and its
optimizer always sees every parameter.
"""

import argparse
import ctypes
import json
import os
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any, NamedTuple

import torch
from fairseq import options
from fairseq.data import Dictionary
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.optim import build_optimizer
from fairseq.optim.fp16_optimizer import FP16Optimizer
from fairseq.tasks import TASK_REGISTRY
from rich.console import Console
from rich.progress import track

import fairseq_layerdrop

RATES = (0.0, 0.2, 0.5)
SUBLAYERS = {"encoder": ("self_attn", "fc1"), "decoder": ("self_attn", "encoder_attn", "fc1")}
"""What the hooks count: the modules called once in each sub-layer that runs (``fc1`` stands for the
FFN).
"""

Kind = tuple[str, str]
"""A stack and a sub-layer's name, of :data:`SUBLAYERS`."""


class Variant(NamedTuple):
    """A model to train: its flags, and the stock variant that it is compared with."""

    name: str
    rate: float
    flags: tuple[str, ...]
    stock: str
    depths: tuple[int, int]


def variants(args: argparse.Namespace) -> list[Variant]:
    """The four stock models of the ideal, stock LayerDrop, dropped layers, dropped sub-layers."""
    full = (args.encoder_layers, args.decoder_layers)
    fitted = [
        Variant(f"stock {e}+{d}", 0.0, ("--arch", "transformer"), "", (e, d))
        for e, d in product(*_fitted(full))
    ]
    same = {rate: f"stock LayerDrop, p {rate:g}" if rate else fitted[0].name for rate in RATES}
    stock = [
        Variant(same[p], p, ("--arch", "transformer", *_layers(p)), "", full) for p in RATES if p
    ]
    arch = ("--arch", "layerdrop_transformer")
    layers = [Variant(f"layers, p {p:g}", p, (*arch, *_layers(p)), same[p], full) for p in RATES]
    inside = [
        Variant(
            f"sub-layers, p {p:g}", p, (*arch, *_layers(0), "--sublayerdrop", str(p)), same[p], full
        )
        for p in RATES
    ]
    return [*fitted, *stock, *layers, *inside]


def _fitted(full: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """For each stack its full and its half depth."""
    encoder, decoder = full
    return (encoder, encoder // 2), (decoder, decoder // 2)


def _layers(rate: float) -> tuple[str, ...]:
    return ("--encoder-layerdrop", str(rate), "--decoder-layerdrop", str(rate))


class Update(NamedTuple):
    """The seconds of one update, and how many sub-layers of each kind ran."""

    train: float
    optimizer: float
    clear: float
    ran: Counter[Kind]


Rounds = list[dict[str, list[Update]]]
"""For each round the updates of each variant, by its name."""


class Training:
    """A variant's model in training on one batch, and the sub-layers that it has run."""

    def __init__(self, variant: Variant, args: argparse.Namespace) -> None:
        cfg = configuration(variant, args)
        words = Dictionary()
        for i in range(args.vocabulary - words.nspecial):
            words.add_symbol(f"w{i}")
        torch.manual_seed(1)
        self.training = cfg.distributed_training
        self.device = torch.device(args.device)
        self.task = TASK_REGISTRY["translation"](cfg.task, words, words)
        self.model = self.task.build_model(cfg.model).to(self.device)
        self.criterion = self.task.build_criterion(cfg.criterion)
        self.optimizer = self._half(cfg) if args.bf16 else self._single(cfg)
        self.sample = batch(args)
        self.ran: Counter[Kind] = Counter()
        self.updates = 0
        self._count_sublayers()

    def _single(self, cfg: Any) -> Any:
        return build_optimizer(cfg.optimizer, list(self.model.parameters()))

    def _half(self, cfg: Any) -> Any:
        """The model in bfloat16, with an optimizer of a single-precision copy, as ``--bf16``."""
        cfg.common.bf16 = True
        return FP16Optimizer.build_optimizer(cfg, list(self.model.bfloat16().parameters()))

    def _count_sublayers(self) -> None:
        for stack, kinds in SUBLAYERS.items():
            # Not by a loop over the list: stock's skips layers in any loop.
            for layer, kind in product(getattr(self.model, stack).layers.children(), kinds):
                count = lambda *_, kind=(stack, kind): self.ran.update([kind])
                getattr(layer, kind).register_forward_hook(count)

    def update(self) -> Update:
        """Run one update, with the draw of its number."""
        self.updates += 1
        self.ran.clear()
        step = (self.sample, self.model, self.criterion, self.optimizer, self.updates)
        train = timed(lambda: self.task.train_step(*step), self.device)
        optimizer = timed(self._optimize, self.device)
        return Update(
            train, optimizer, timed(self.optimizer.zero_grad, self.device), self.ran.copy()
        )

    def _optimize(self) -> None:
        self.optimizer.clip_grad_norm(1.0)
        self.optimizer.step()


def keep_memory() -> None:
    """Have the C library keep what is freed, as a GPU's allocator does.

    Or it gives large pieces back and fetches them again in each update, which makes deep models
    dearer than in proportion to their depth, and the ideal's line a curve.
    """
    with suppress(OSError, AttributeError):  # glibc only
        libc = ctypes.CDLL(None)
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
        libc.mallopt(-4, 0)  # M_MMAP_MAX


def run(trainings: dict[str, Training], updates: int) -> dict[str, list[Update]]:
    """So many updates of all, taking turns after each."""
    turns = [
        {name: training.update() for name, training in trainings.items()} for _ in range(updates)
    ]
    return {name: [turn[name] for turn in turns] for name in trainings}


def configuration(variant: Variant, args: argparse.Namespace) -> Any:
    """What ``fairseq-train`` makes of a variant's flags."""
    flags = ["--encoder-layers", str(variant.depths[0]), "--decoder-layers", str(variant.depths[1])]
    for stack in SUBLAYERS:
        flags += [f"--{stack}-embed-dim", str(args.dim), f"--{stack}-ffn-embed-dim", str(args.ffn)]
        flags += [f"--{stack}-attention-heads", str(args.heads)]
    flags += [
        "--optimizer",
        "adam",
        "--lr",
        "0.0001",
        "--criterion",
        "label_smoothed_cross_entropy",
    ]
    flags += ["--label-smoothing", "0.1", "--dropout", "0.1", "--share-all-embeddings"]
    parsed = options.parse_args_and_arch(
        options.get_training_parser(), ["no-data", *flags, *variant.flags]
    )
    return convert_namespace_to_omegaconf(parsed)


def batch(args: argparse.Namespace) -> dict[str, Any]:
    """Random words, all sentences of one length, as fairseq's translation task feeds them."""
    generator = torch.Generator().manual_seed(2)
    shape = (args.sentences, args.length)
    words = [
        torch.randint(4, args.vocabulary, shape, generator=generator).to(args.device)
        for _ in range(3)
    ]
    lengths = torch.full(shape[:1], args.length, device=args.device)
    inputs = dict(
        zip(
            ("src_tokens", "src_lengths", "prev_output_tokens"),
            (words[0], lengths, words[1]),
            strict=True,
        )
    )
    return {
        "nsentences": shape[0],
        "ntokens": words[2].numel(),
        "net_input": inputs,
        "target": words[2],
    }


def timed(run: Callable[[], object], device: torch.device) -> float:
    """The seconds that a call takes, with all that it has started on a GPU."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    clock = time.process_time if on_cpu_time(device) else time.perf_counter
    wait()
    start = clock()
    run()
    wait()
    return clock() - start


def on_cpu_time(device: torch.device) -> bool:
    """On one thread CPU time is what an idle machine takes, and does not count what others do."""
    return device.type == "cpu" and torch.get_num_threads() == 1


def sublayer_shares(training: Training, repeats: int) -> dict[Kind, float]:
    """Each sub-layer's share of its layer's time, by blocks of a stock model in turns."""
    inputs = training.sample["net_input"]["src_tokens"]
    memory = (
        training.model.encoder.embed_tokens(inputs).transpose(0, 1).detach().requires_grad_()
    )  # T x B x C
    runs = {
        (stack, kind): residual_block(getattr(training.model, stack).layers[0], kind, memory)
        for stack, kinds in SUBLAYERS.items()
        for kind in kinds
    }
    rounds = [
        {kind: timed(run, training.device) for kind, run in runs.items()}
        for _ in range(repeats + 2)
    ]
    seconds = {kind: statistics.median(r[kind] for r in rounds[2:]) for kind in runs}
    training.optimizer.zero_grad()
    layers = {
        stack: sum(seconds[stack, kind] for kind in kinds) for stack, kinds in SUBLAYERS.items()
    }
    return {kind: seconds[kind] / layers[kind[0]] for kind in seconds}


def residual_block(layer: Any, kind: str, memory: torch.Tensor) -> Callable[[], None]:
    """A stock sub-layer, forward and backward, from inputs that take gradients."""

    def transform(x: torch.Tensor) -> torch.Tensor:
        if kind == "fc1":
            return layer.fc2(layer.activation_dropout_module(layer.activation_fn(layer.fc1(x))))
        read = memory if kind == "encoder_attn" else x
        return getattr(layer, kind)(query=x, key=read, value=read, need_weights=False)[0]

    norm = layer.final_layer_norm if kind == "fc1" else getattr(layer, f"{kind}_layer_norm")

    def run() -> None:
        layer.zero_grad()
        x = memory.detach().requires_grad_()
        norm(layer.dropout_module(transform(x)) + x).sum().backward()

    return run


class Costs(NamedTuple):
    """Seconds of forward and backward: a model without layers, and a layer of each stack."""

    base: float
    layer: dict[str, float]

    @classmethod
    def fit(cls, seconds: dict[tuple[int, int], float]) -> "Costs":
        """By least squares from the times of models of several depths."""
        rows = torch.tensor([[1.0, *depths] for depths in seconds], dtype=torch.float64)
        times = torch.tensor([*seconds.values()], dtype=torch.float64)
        base, *layers = (
            torch.linalg.lstsq(rows, times[:, None], driver="gelsd").solution[:, 0].tolist()
        )
        return cls(base, dict(zip(SUBLAYERS, layers, strict=True)))

    def ideal(self, ran: Counter[Kind], shares: dict[Kind, float]) -> float:
        """What these sub-layers cost at best."""
        return self.base + sum(n * shares[kind] * self.layer[kind[0]] for kind, n in ran.items())


@dataclass(frozen=True)
class Row:
    """What is said of one variant: medians over the rounds; of ratios, the quartiles, too."""

    variant: str
    rate: float
    layers_ran: tuple[float, float]
    updates_per_second: float
    of_ideal: tuple[float, float, float]
    against_stock: tuple[float, float, float] | None
    forward_backward_ms: float
    optimizer_ms: float
    clear_ms: float

    def __str__(self) -> str:
        ran = " + ".join(f"{n:.2f}" for n in self.layers_ran)
        ratios = [
            "" if r is None else f"{r[1]:.3f} ({r[0]:.3f}–{r[2]:.3f})"
            for r in (self.of_ideal, self.against_stock)
        ]
        share = self.optimizer_ms / (self.forward_backward_ms + self.optimizer_ms + self.clear_ms)
        times = [
            f"{self.forward_backward_ms:.1f}",
            f"{self.optimizer_ms:.1f}",
            f"{share:.0%}",
            f"{self.clear_ms:.2f}",
        ]
        return " | ".join(
            ["", self.variant, ran, f"{self.updates_per_second:.2f}", *ratios, *times, ""]
        ).strip()


HEAD = """\
| variant | layers that ran | updates/s, forward + backward | of the ideal | against stock \
| forward + backward, ms | optimizer, ms | its share | clearing, ms |
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"""


def fit(rounds: Rounds, models: list[Variant]) -> list[Costs]:
    """Each round's costs, by its stock models of several depths."""
    return [
        Costs.fit(
            {v.depths: statistics.median(u.train for u in updates[v.name]) for v in models[:4]}
        )
        for updates in rounds
    ]


def rows(
    rounds: Rounds, costs: list[Costs], models: list[Variant], shares: dict[Kind, float]
) -> list[Row]:
    """Judge each variant, round by round."""
    found = {
        variant.name: [
            statistics.median(cost.ideal(u.ran, shares) / u.train for u in updates[variant.name])
            for cost, updates in zip(costs, rounds, strict=True)
        ]
        for variant in models
    }
    return [
        _row(v, [u for r in rounds for u in r[v.name]], found[v.name], found.get(v.stock))
        for v in models
    ]


def _row(
    variant: Variant, updates: list[Update], of_ideal: list[float], stock: list[float] | None
) -> Row:
    against = stock and [ours / theirs for ours, theirs in zip(of_ideal, stock, strict=True)]
    train, optimizer, clear = (
        1000 * statistics.median(column) for column in list(zip(*updates, strict=True))[:3]
    )
    encoder, decoder = (
        statistics.fmean(u.ran[stack, kind] for u in updates for kind in kinds)
        for stack, kinds in SUBLAYERS.items()
    )
    return Row(
        variant=variant.name,
        rate=variant.rate,
        layers_ran=(encoder, decoder),
        updates_per_second=1000 / train,
        of_ideal=_quartiles(of_ideal),
        against_stock=_quartiles(against) if against else None,
        forward_backward_ms=train,
        optimizer_ms=optimizer,
        clear_ms=clear,
    )


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, method="inclusive")
    return low, middle, high


def formula(costs: list[Costs], shares: dict[Kind, float]) -> str:
    """The ideal in numbers: medians over the rounds."""
    text = f"ideal, ms: {1000 * statistics.median(cost.base for cost in costs):.1f}"
    for stack, kinds in SUBLAYERS.items():
        parts = ", ".join(f"{kind} {shares[stack, kind]:.0%}" for kind in kinds)
        layer = 1000 * statistics.median(cost.layer[stack] for cost in costs)
        text += f" + {layer:.1f} for each {stack} layer ({parts})"
    return text


def machine(args: argparse.Namespace, load: Sequence[float]) -> str:
    """The machine, its load before and after (one minute's average), and the sizes."""
    device = (
        torch.cuda.get_device_name()
        if args.device.startswith("cuda")
        else f"threads: {torch.get_num_threads()}"
    )
    clock = "CPU time" if on_cpu_time(torch.device(args.device)) else "wall time"
    clock += ", bfloat16" if args.bf16 else ""
    sizes = (
        f"{args.encoder_layers}+{args.decoder_layers} layers, d {args.dim}, FFN {args.ffn}, "
        f"{args.heads} heads, "
    )
    sizes += f"{args.vocabulary} words, {args.sentences} x {args.length} tokens"
    loads = f"load {load[0]:.2f} before, {os.getloadavg()[0]:.2f} after"
    runs = f"{args.rounds} rounds of {args.updates} updates"
    return (
        f"{os.cpu_count()} cores, {device}, {clock}, torch {torch.__version__}, {loads}; "
        f"{sizes}; {runs}"
    )


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the flags; the defaults take about three minutes on two cores."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sizes = {
        "encoder-layers": 6,
        "decoder-layers": 6,
        "dim": 256,
        "ffn": 1024,
        "heads": 4,
        "vocabulary": 1000,
    }
    for name, default in sizes.items() | {"sentences": 16, "length": 32}.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default: {default}")
    parser.add_argument("--rounds", type=int, default=8, help="default: 8")
    parser.add_argument(
        "--updates", type=int, default=6, help="of each variant in a round (default: 6)"
    )
    parser.add_argument(
        "--warm-up", type=int, default=4, help="updates of each variant before (default: 4)"
    )
    parser.add_argument(
        "--threads", type=int, default=1, help="default: 1, which other programs disturb least"
    )
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--bf16", action="store_true", help="in bfloat16, as fairseq's --bf16")
    parser.add_argument(
        "--json", action="store_true", help="print a JSON line a variant, not a table"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure all variants in alternation and print a table."""
    args, load = parse(argv), os.getloadavg()
    keep_memory()
    torch.set_num_threads(args.threads)
    fairseq_layerdrop.register()
    models = variants(args)
    trainings = {variant.name: Training(variant, args) for variant in models}
    run(trainings, args.warm_up)
    shares = sublayer_shares(trainings[models[0].name], 5 * args.updates)
    progress = track(
        range(args.rounds), "rounds", console=Console(stderr=True), refresh_per_second=1
    )
    rounds = [run(trainings, args.updates) for _ in progress]
    costs, run_on = fit(rounds, models), machine(args, load)
    found = rows(rounds, costs, models, shares)
    if args.json:
        return print("\n".join(json.dumps(asdict(row) | {"machine": run_on}) for row in found))
    print(run_on, formula(costs, shares), "", HEAD, *found, sep="\n")


if __name__ == "__main__":
    main()
