# SPDX-License-Identifier: MIT
"""How long does it take to prune a large training checkpoint, and how much memory?

Makes a checkpoint of a 12+6 Transformer-big (fp32 weights and Adam's state, 3.4 GB), keeps every
other layer, and measures side by side, in alternation: (a) what a user of stock fairseq does today,
torch.load, prune_state_dict and torch.save, once as it is and once dropping Adam's state by hand;
(b) `fairseq-layerdrop prune` with its check, which compares tensors; (c) a plain copy of (b)'s
output; (d) `prune --check load`, for which fairseq builds both models. (b), (c) and (d) end when
the file is on the disk, (a) when torch.save returns; so the table has the seconds until the disk
has written everything, too. Each runs in a process of its own, after the disk has written what the
one before left to it; imports do not count.

    python -m benchmarks.prune_checkpoint [--folder FOLDER] [--rounds 3]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

DIM, FFN, VOCABULARY, HEADS = 1024, 4096, 32768, 16
DEPTHS = {"encoder": 12, "decoder": 6}
KEPT = {"encoder": "0,2,4,6,8,10", "decoder": "0,2,4"}


def make_checkpoint(path: Path, dim: int = DIM, ffn: int = FFN, words: int = VOCABULARY) -> None:
    """Write random weights under the keys, and in the layout, of fairseq's trainer."""
    import torch

    def linear(name: str, out: int, inner: int) -> dict[str, torch.Tensor]:
        return {f"{name}.weight": torch.randn(out, inner), f"{name}.bias": torch.randn(out)}

    def attention(name: str) -> dict[str, torch.Tensor]:
        parts = [linear(f"{name}.{part}_proj", dim, dim) for part in ("k", "v", "q", "out")]
        return {key: value for part in parts for key, value in part.items()} | norm(
            f"{name}_layer_norm"
        )

    def norm(name: str) -> dict[str, torch.Tensor]:
        return {f"{name}.weight": torch.randn(dim), f"{name}.bias": torch.randn(dim)}

    embedding = torch.randn(words, dim)
    model = {f"{stack}.embed_tokens.weight": embedding for stack in DEPTHS} | {
        "decoder.output_projection.weight": embedding
    }
    for stack, depth in DEPTHS.items():
        for layer in (f"{stack}.layers.{i}" for i in range(depth)):
            model |= (
                attention(f"{layer}.self_attn")
                | linear(f"{layer}.fc1", ffn, dim)
                | linear(f"{layer}.fc2", dim, ffn)
            )
            model |= norm(f"{layer}.final_layer_norm")
            if stack == "decoder":
                model |= attention(f"{layer}.encoder_attn")
    unique = list({value.data_ptr(): value for value in model.values()}.values())
    moments = {
        i: {"step": 1, "exp_avg": p.clone(), "exp_avg_sq": p.clone()} for i, p in enumerate(unique)
    }
    torch.save(
        {
            "args": None,
            "cfg": config(dim, ffn),
            "model": model,
            "optimizer_history": [{"lr_scheduler_state": {"best": None}, "num_updates": 1}],
            "extra_state": {"train_iterator": {"epoch": 1}},
            "last_optimizer_state": {"state": moments, "param_groups": []},
        },
        path,
    )


def config(dim: int, ffn: int) -> dict[str, dict[str, object]]:
    """What fairseq needs to build the model; its dictionaries are made up."""
    model: dict[str, object] = {"_name": "transformer", "share_all_embeddings": True}
    for stack, depth in DEPTHS.items():
        sizes = {"embed_dim": dim, "ffn_embed_dim": ffn, "attention_heads": HEADS, "layers": depth}
        model |= {f"{stack}_{name}": size for name, size in sizes.items()}
    task = {"_name": "translation", "data": "none", "source_lang": "en", "target_lang": "de"}
    return {"model": model, "task": task}


def stock(full: Path, small: Path, *, drop_optimizer: bool = False) -> Callable[[], object]:
    """(a) Load everything, prune with fairseq's own function, save."""
    import torch
    from fairseq.checkpoint_utils import prune_state_dict

    def run() -> None:
        checkpoint = torch.load(full, map_location="cpu", weights_only=True)
        keep = {f"{stack}_layers_to_keep": layers for stack, layers in KEPT.items()}
        checkpoint["model"] = prune_state_dict(
            checkpoint["model"], Namespace(arch="transformer", **keep)
        )
        if drop_optimizer:
            del checkpoint["last_optimizer_state"]
        torch.save(checkpoint, small)

    return run


def ours(full: Path, small: Path, *, check: str = "auto") -> Callable[[], object]:
    """(b, d) The command, from its arguments to its last line, the check after writing included."""
    import torch  # noqa: F401  (imports do not count)

    import fairseq_layerdrop.cli
    import fairseq_layerdrop.operations.prune

    if check == "load":
        import fairseq_layerdrop.evaluation.load_check

        fairseq_layerdrop.register()
    flags = [item for stack, layers in KEPT.items() for item in (f"--{stack}-keep", layers)]
    flags += ["--check", check, "--force"]

    def run() -> None:
        if status := fairseq_layerdrop.cli.main(["prune", str(full), str(small), *flags]):
            raise SystemExit(status)

    return run


def copy(source: Path, target: Path) -> Callable[[], object]:
    """(c) Read the output file and write it elsewhere, to the disk."""

    def run() -> None:
        with source.open("rb") as one, target.open("wb") as other:
            while block := one.read(1 << 24):
                other.write(block)
            other.flush()
            os.fsync(other.fileno())

    return run


PRUNE, LOAD = "fairseq-layerdrop prune", "fairseq-layerdrop prune --check load"
WAYS: dict[str, Callable[[Path, Path], Callable[[], object]]] = {
    "stock": stock,
    "stock, dropping Adam's state": partial(stock, drop_optimizer=True),
    PRUNE: ours,
    "copy of the output": copy,
    LOAD: partial(ours, check="load"),
}


def measure(way: str, source: Path, target: Path) -> dict[str, Any]:
    """Run one way in a fresh process: its seconds, peak anonymous memory in MB, and check."""
    command = [sys.executable, __file__, "--way", way, str(source), str(target)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    *told, numbers = printed.splitlines()
    checks = [line.removeprefix("check: ") for line in told if line.startswith("check: ")]
    return json.loads(numbers) | {"check": "".join(checks)}


def run_one(way: str, source: Path, target: Path) -> None:
    """The child's side of :func:`measure`."""
    run = WAYS[way](source, target)
    os.sync()
    peak, done = [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            peak[0] = max(peak[0], anonymous_mb())

    thread = threading.Thread(target=watch, daemon=True)  # a way that fails ends the process
    thread.start()
    start = time.perf_counter()
    run()
    seconds = time.perf_counter() - start
    done.set()
    thread.join()
    os.sync()
    on_disk = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "on_disk": on_disk, "mb": peak[0]}))


def anonymous_mb() -> float:
    """This process's resident memory that is no file's."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1024


def main(argv: Sequence[str] | None = None) -> None:
    """Measure all ways in alternation and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, help="where 5 GB have room (default: the system's)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dim", type=int, default=DIM)
    parser.add_argument("--ffn", type=int, default=FFN)
    parser.add_argument("--vocabulary", type=int, default=VOCABULARY)
    parser.add_argument(
        "--way", nargs=3, metavar=("WAY", "SOURCE", "TARGET"), help=argparse.SUPPRESS
    )
    args = parser.parse_args(argv)
    if args.way:
        return run_one(args.way[0], Path(args.way[1]), Path(args.way[2]))
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        full, small, other = (Path(folder) / f"{name}.pt" for name in ("full", "small", "other"))
        print("making the checkpoint …", file=sys.stderr)
        make_checkpoint(full, args.dim, args.ffn, args.vocabulary)
        paths = dict.fromkeys(WAYS, (full, other))
        paths |= {PRUNE: (full, small), "copy of the output": (small, other)}
        rounds = [{way: measure(way, *paths[way]) for way in WAYS} for _ in range(args.rounds)]
        report(rounds, full, small)


def report(rounds: list[dict[str, dict[str, Any]]], full: Path, small: Path) -> None:
    """Medians over the rounds; a ratio is the median of the rounds' own ratios."""

    def median(way: str, what: str) -> float:
        return statistics.median(r[way][what] for r in rounds)

    def ratio(way: str, other: str, what: str = "seconds") -> str:
        return f"{statistics.median(r[way][what] / r[other][what] for r in rounds):.1f}"

    print(
        f"{full.stat().st_size / 1e9:.2f} GB -> {small.stat().st_size / 1e9:.2f} GB, "
        f"{len(rounds)} rounds, medians"
    )
    print("| way | seconds | times prune | until on the disk | times prune | memory | check |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | --- |")
    for way in WAYS:
        print(
            f"| {way} | {median(way, 'seconds'):.2f} | {ratio(way, PRUNE)} | "
            f"{median(way, 'on_disk'):.2f} | {ratio(way, PRUNE, 'on_disk')} | "
            f"{median(way, 'mb'):,.0f} MB | {rounds[0][way]['check']} |"
        )
    print(f"prune takes {ratio(PRUNE, 'copy of the output')} copies of its output")


if __name__ == "__main__":
    main()
