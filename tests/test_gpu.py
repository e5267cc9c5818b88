# SPDX-License-Identifier: MIT
"""The package on a CUDA device: ``pytest -m gpu``.

What can be tried in half precision without one runs on the CPU, in the same tests.
"""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import Command
from conftest import Run
from fairseq_programs import (
    LANGUAGES,
    SHORT,
    STYLE,
    USER_DIR,
    batch,
    build_model,
    fairseq,
    gradients,
    hypotheses,
    logged,
    prune,
    python,
    weights,
)

UPDATES = 8
KEPT = ("encoder_keep", "decoder_keep")
MODEL = ["--arch", "layerdrop_transformer", *STYLE, "--encoder-layers", "4"]
MODEL += ["--decoder-layers", "4", "--layerdrop-min-layers", "0", "--dropout", "0"]
TRAINING = [*LANGUAGES, "--user-dir", str(USER_DIR), "--task", "layerdrop_translation", *MODEL]
TRAINING += ["--batch-size", "5", "--max-update", str(UPDATES), "--num-workers", "0"]
TRAINING += [
    "--optimizer",
    "adam",
    "--lr",
    "0.001",
    "--clip-norm",
    "1.0",
    "--lr-scheduler",
    "fixed",
]
TRAINING += ["--no-progress-bar", "--log-format", "json", "--log-interval", "1"]
TRAINING += ["--disable-validation", "--fp16-init-scale", "4"]

CPU = ["--cpu"]
GPU: list[str] = []
EVERYWHERE = ("--memory-efficient-fp16", "--amp")
"""Half precision that fairseq has on a CPU, too (autocast there changes nothing)."""
ON_CARDS = ("--fp16", "--bf16", "--memory-efficient-bf16")
HALF_PRECISION = [
    *(pytest.param(flag, "0.5", CPU, id=f"{flag} cpu") for flag in EVERYWHERE),
    *(
        pytest.param(flag, rate, GPU, id=f"{flag} {rate} gpu", marks=pytest.mark.gpu)
        for flag in (*ON_CARDS, *EVERYWHERE)
        for rate in ("0.5", "0.99")
    ),
]


@pytest.fixture(autouse=True)
def _devices(request: pytest.FixtureRequest) -> None:
    """A test on the card is skipped where there is none."""
    if request.node.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


def rates(rate: str) -> list[str]:
    return ["--encoder-layerdrop", rate, "--decoder-layerdrop", rate]


def assert_trained(output: str) -> list[dict[str, Any]]:
    """All updates were done, once; those of fp16 whose gradients overflowed were repeated."""
    assert output.count("| done training in ") == 1
    steps = logged(output, "train_inner")
    assert [int(step["num_updates"]) for step in steps] == list(range(1, UPDATES + 1))
    assert all(0 < float(step["loss"]) < 12 for step in steps)
    return steps


# Training


@pytest.fixture(scope="module")
def single(data: Path) -> Callable[[str], list[dict[str, Any]]]:
    """``single("0.5")``: the steps on a CPU in single precision at this rate, trained once."""

    @functools.cache
    def run(rate: str) -> list[dict[str, Any]]:
        return assert_trained(fairseq("train", data, *TRAINING, *rates(rate), *CPU, "--no-save"))

    return run


def assert_same_steps(
    found: list[dict[str, Any]], expected: list[dict[str, Any]], *, within: float
) -> None:
    """The same layers ran, and the losses are the same but for a part of them."""
    for one, other in zip(found, expected, strict=True):
        assert [one.get(name) for name in KEPT] == [other.get(name) for name in KEPT]
        assert float(one["loss"]) == pytest.approx(float(other["loss"]), rel=within)


@pytest.mark.parametrize(("flag", "rate", "where"), HALF_PRECISION)
def test_half_precision_trains_as_single_and_what_is_pruned_translates(
    flag: str, rate: str, where: list[str], single: Any, data: Path, tmp_path: Path
) -> None:
    flags = [*TRAINING, *rates(rate), flag, *where, "--save-dir", tmp_path]
    assert_same_steps(assert_trained(fairseq("train", data, *flags)), single(rate), within=0.02)
    small = prune(tmp_path / "checkpoint_last.pt", tmp_path / "small.pt", "--decoder-keep", "0,2")
    assert all(tensor.isfinite().all() for tensor in weights(small).values())
    flags = ["--gen-subset", "test", "--required-batch-size-multiple", "1", *SHORT, *where]
    assert len(hypotheses(fairseq("generate", data, "--path", small, *flags))) == 11


@pytest.mark.gpu
@pytest.mark.parametrize("rate", ["0", "0.5", "0.99"])
def test_a_card_trains_as_a_cpu_in_single_precision(rate: str, single: Any, data: Path) -> None:
    """Draws come from a generator on the CPU, so the layers are the same."""
    flags = [*TRAINING, *rates(rate), "--no-save"]
    assert_same_steps(assert_trained(fairseq("train", data, *flags)), single(rate), within=1e-3)


PROCESSES = [
    *(
        pytest.param(processes, "--memory-efficient-fp16", CPU, marks=pytest.mark.slow)
        for processes in (1, 2)
    ),
    *(
        pytest.param(processes, flag, GPU, marks=pytest.mark.gpu)
        for processes in (1, 2)
        for flag in ("--memory-efficient-fp16", "--fp16", "--bf16")
    ),
]


@pytest.mark.parametrize(("processes", "flag", "where"), PROCESSES)
@pytest.mark.parametrize("backend", ["pytorch_ddp", "legacy_ddp"])
def test_data_parallel_processes_train_in_half_precision(
    processes: int, flag: str, where: list[str], backend: str, data: Path
) -> None:
    """Two on one card share their gradients over gloo, for NCCL takes a card a process."""
    shared = ["--distributed-backend", "gloo", "--ddp-backend", backend]
    world = ["--distributed-world-size", str(processes), "--batch-size", str(10 // processes)]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    arguments = [data, *TRAINING, *rates("0.5"), *where, *shared, *world, flag, "--no-save"]
    steps = assert_trained(python(*launcher, "-m", "fairseq_cli.train", *arguments))
    assert len({step[name] for step in steps for name in KEPT if name in step}) > 1


# The models by themselves

TYPES = [
    pytest.param("cpu", torch.bfloat16, id="bfloat16 cpu"),
    pytest.param("cpu", torch.float16, id="float16 cpu"),
    *(
        pytest.param("cuda", dtype, id=f"{dtype} gpu", marks=pytest.mark.gpu)
        for dtype in (torch.float32, torch.bfloat16, torch.float16)
    ),
]
BOUNDS = {torch.float32: 1e-4, torch.float16: 0.05, torch.bfloat16: 0.2}
"""Of the error of all gradients together, in parts of them: a few hundred roundings."""
INSIDE = ["--sublayerdrop", "0.3", "--headdrop", "0.3", "--ffndrop", "0.3", "--weightdrop", "0.1"]


def moved(sample: dict[str, Any], device: str) -> dict[str, Any]:
    inputs = {name: tensor.to(device) for name, tensor in sample["net_input"].items()}
    return {**sample, "net_input": inputs, "target": sample["target"].to(device)}


@pytest.mark.parametrize(("device", "dtype"), TYPES)
@pytest.mark.parametrize("more", [rates("0.5"), INSIDE], ids=["layers", "inside"])
def test_gradients_are_those_of_single_precision_within_the_type_s_bounds(
    more: list[str], device: str, dtype: torch.dtype
) -> None:
    model = build_model(*MODEL, *more).train()
    model.set_num_updates(3)
    expected = gradients(model)
    model.to(device, dtype).set_num_updates(4)
    model.set_num_updates(3)  # the same draw again
    found = gradients(model, moved(batch(), device))
    error, size = 0.0, 0.0
    for name, gradient in expected.items():
        assert (found[name] == 0).all() or (gradient != 0).any(), f"{name} is of what was dropped"
        error += float((found[name].cpu().float() - gradient).square().sum())
        size += float(gradient.square().sum())
    assert error**0.5 < BOUNDS[dtype] * size**0.5


# Evaluation on the card


def trials(file: Path, kind: str) -> dict[str, float]:
    """The losses of the rows of a kind, by their plans."""
    found = [json.loads(line) for line in file.read_text().splitlines()]
    return {row["plan"]: row["loss"] for row in found if row.get("kind") == kind}


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("verb", "kind", "flags"),
    [
        ("search", "trial", ["--method", "exhaustive", "--decoder-depth", "2"]),
        ("sweep", "plan", ["--points", "4+4 4+2 all/first:1", "--metrics", "loss,bleu,latency"]),
    ],
)
def test_search_and_sweep_on_the_card_find_the_losses_of_the_cpu(
    verb: str,
    kind: str,
    flags: list[str],
    trained: Run,
    data: Path,
    tmp_path: Path,
    command: Command,
) -> None:
    found = []
    for device in ("cpu", "cuda"):
        rows = tmp_path / f"{device}.jsonl"
        shared = ["--path", trained.last, "--device", device, *flags]
        assert command(verb, data, rows, *shared)[0] == 0
        found.append(trials(rows, kind))
    cpu, gpu = found
    assert len(cpu) > 2
    assert gpu == pytest.approx(cpu, abs=1e-3)
