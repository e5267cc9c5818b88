# SPDX-License-Identifier: MIT
"""Tiny models in files: untrained, with layers known to be useful or not."""

import json
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from fairseq.tasks import TASK_REGISTRY
from fairseq_programs import config
from omegaconf import OmegaConf

from fairseq_layerdrop.checkpoint import digest, load, save
from fairseq_layerdrop.evaluation import loading
from fairseq_layerdrop.evaluation.subject import Subject
from fairseq_layerdrop.modules.subnetwork import stacks


def subject(checkpoint: Path, data: Path, **rates: Any) -> Subject:
    """A checkpoint, ready to be evaluated."""
    rates = rates or {"encoder": 0.2, "decoder": 0.2}
    return Subject(
        loading.load(str(checkpoint), str(data)),
        digest=digest(checkpoint),
        curve="tiny",
        rates=rates,
    )


def plant(source: Path, target: Path, useful: Mapping[str, Collection[int]]) -> Path:
    """A pre-norm checkpoint in which only these layers add anything."""
    state = load(source)
    for key, tensor in list(state["model"].items()):
        stack, layers, number, *rest = [*key.split("."), "", "", ""][:7]
        writes = {"out_proj", "fc2"} & set(rest)
        if layers == "layers" and writes and int(number) not in useful.get(stack, range(99)):
            state["model"][key] = torch.zeros_like(tensor)
    save(state, target)
    return target


def write_language_model(data: Path, folder: Path) -> Path:
    """A language model of four layers with random weights, in a file as the trainer writes it."""
    sizes = [
        "--decoder-embed-dim",
        "32",
        "--decoder-ffn-embed-dim",
        "32",
        "--decoder-attention-heads",
        "2",
    ]
    sizes += ["--decoder-input-dim", "32", "--decoder-output-dim", "32", "--decoder-layers", "4"]
    flags = [
        "--task",
        "language_modeling",
        "--arch",
        "transformer_lm",
        *sizes,
        "--tokens-per-sample",
        "16",
    ]
    return write_model(data, folder / "lm.pt", *flags)


def write_model(data: Path, target: Path, *flags: str, scale: float = 3) -> Path:
    """The model of these flags as it was drawn, in a file as fairseq's trainer writes it.

    Its weights are scaled, so that its layers differ.
    """
    cfg = config(*flags)
    cfg.task.data = str(data)
    torch.manual_seed(4)
    model = TASK_REGISTRY[cfg.task._name].setup_task(cfg.task).build_model(cfg.model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
    history = {
        "optimizer_name": "Adam",
        "criterion_name": "x",
        "lr_scheduler_state": {"best": None},
        "num_updates": 0,
    }
    checkpoint = {
        "cfg": OmegaConf.to_container(cfg, enum_to_str=True),
        "args": None,
        "model": model.state_dict(),
    }
    extra = {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}}
    torch.save({**checkpoint, "optimizer_history": [history], "extra_state": extra}, target)
    return target


def rows(path: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """The rows of a file, of one kind."""
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return [row for row in found if kind is None or row["kind"] == kind]


def comparable(path: Path) -> dict[str, dict[str, Any]]:
    """The rows by signature, without what depends on the machine's mood or names the file."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows(path):
        key = json.dumps(row.pop("signature"), sort_keys=True)
        assert key not in found, f"a row is there twice: {key}"
        found[key] = {name: value for name, value in row.items() if name not in APART}
    return found


APART = (
    "seconds",
    "command",
    "sentences_per_second",
    "tokens_per_second",
    "latency_ms",
    "latency_ms_quartiles",
)


def count_calls(model: Any) -> list[tuple[str, int]]:
    """A list that grows with each call of a layer."""
    calls: list[tuple[str, int]] = []
    for stack, modules in stacks(model).items():
        for module in modules:
            for i, layer in enumerate(module.layers):
                layer.register_forward_hook(lambda *_, stack=stack, i=i: calls.append((stack, i)))
    return calls


def poison(loaded: loading.Loaded, stack: str, layer: int) -> None:
    """Make a layer give numbers that are none."""
    with torch.no_grad():
        for parameter in stacks(loaded.model)[stack][0].layers[layer].fc2.parameters():
            parameter.fill_(float("nan"))


def copy_data(source: Path, target: Path) -> Path:
    """A data set that a test may change."""
    shutil.copytree(source, target)
    for path in [target, *target.iterdir()]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    return target
