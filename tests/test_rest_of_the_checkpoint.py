# SPDX-License-Identifier: MIT
"""What a checkpoint holds beside the model: the EMA's weights, Adam's moments."""

from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq import checkpoint_utils, utils
from fairseq_programs import STYLE, USER_DIR, prune, train, weights

import fairseq_layerdrop
from fairseq_layerdrop.checkpoint import load

fairseq_layerdrop.register()

KEPT = {"encoder": (0, 2), "decoder": (1, 3)}
KEEP = [
    flag
    for stack, layers in KEPT.items()
    for flag in (f"--{stack}-keep", ",".join(map(str, layers)))
]
DECAY = 0.9
EMA = ["--store-ema", "--ema-decay", str(DECAY)]
WHOLE = ["--batch-size", "60", "--reset-dataloader", "--dropout", "0", "--max-update", "7"]
DEPTHS = ["--encoder-layers", "2", "--decoder-layers", "2"]


@pytest.fixture(scope="module")
def full(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 4+4 model after six updates with LayerDrop and an EMA."""
    folder = tmp_path_factory.mktemp("full")
    model = ["--user-dir", USER_DIR, "--arch", "layerdrop_transformer", *STYLE]
    train(
        data,
        folder,
        *model,
        "--encoder-layers",
        "4",
        "--decoder-layers",
        "4",
        *EMA,
        "--max-update",
        "6",
    )
    return folder / "checkpoint_last.pt"


def origin(key: str) -> str:
    """The full model's key of what a pruned model has under a key."""
    parts = key.split(".")
    if parts[1] == "layers":
        parts[2] = str(KEPT[parts[0]][int(parts[2])])
    return ".".join(parts)


def test_the_ema_of_a_layer_is_that_of_the_layer_it_came_from(full: Path, tmp_path: Path) -> None:
    small = load(prune(full, tmp_path / "small.pt", *KEEP))
    before, after = (checkpoint["extra_state"]["ema"] for checkpoint in (load(full), small))
    for key, tensor in after.items():
        assert torch.equal(tensor, before[origin(key)])
    assert after.keys() >= {f"{stack}.layers.{i}.fc1.weight" for stack in KEPT for i in (0, 1)}
    layer = "encoder.layers.1.fc1.weight"
    assert not torch.equal(after[layer], before[layer])
    assert not torch.equal(after[layer], small["model"][layer])


def test_training_goes_on_from_the_pruned_ema(full: Path, data: Path, tmp_path: Path) -> None:
    """Stock fairseq restores the EMA by name: it moves a tenth of the way to still weights."""
    small = prune(full, tmp_path / "small.pt", *KEEP)
    still = [
        "--restore-file",
        small,
        "--lr",
        "0",
        *WHOLE[:-1],
        "1",
        *EMA,
    ]  # no optimizer state: updates count anew
    train(data, tmp_path / "on", "--arch", "transformer", *STYLE, *DEPTHS, *still)
    after = load(tmp_path / "on" / "checkpoint_last.pt")["extra_state"]["ema"]
    before, model = load(full)["extra_state"]["ema"], load(full)["model"]
    for key, tensor in after.items():
        if ".layers." in key:  # the embeddings, tied under three keys, it moves three times
            expected = DECAY * before[origin(key)] + (1 - DECAY) * model[origin(key)]
            assert torch.allclose(tensor, expected, atol=1e-6), key


def adam(weight: Any, gradient: Any, moments: dict[str, Any], *, lr: float) -> Any:
    """One step of Adam (Kingma & Ba 2015, algorithm 1), from the moments of the steps before."""
    step = moments["step"] + 1
    first = 0.9 * moments["exp_avg"] + 0.1 * gradient
    second = 0.999 * moments["exp_avg_sq"] + 0.001 * gradient**2
    # fairseq divides the second moment's correction out of the step, and so adds epsilon before it.
    size = lr * (1 - 0.999**step) ** 0.5 / (1 - 0.9**step)
    return weight - size * first / (second.sqrt() + 1e-8)


def gradients(checkpoint: Path) -> dict[str, Any]:
    """The gradients of the whole training set, clipped to norm 1 as the training does."""
    (model,), cfg, task = checkpoint_utils.load_model_ensemble_and_task([str(checkpoint)])
    task.load_dataset("train")
    dataset = task.dataset("train")
    sample = dataset.collater([dataset[i] for i in range(len(dataset))])
    loss, size, _ = task.build_criterion(cfg.criterion)(
        model.eval(), sample
    )  # the run has no dropout
    (loss / size).backward()
    utils.clip_grad_norm_(model.parameters(), 1.0)
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def test_training_goes_on_with_the_moments_of_the_layers_that_stay(
    full: Path, data: Path, tmp_path: Path
) -> None:
    """By ``--restore-file``, without any reset of the optimizer."""
    small = prune(full, tmp_path / "small.pt", *KEEP, "--keep-optimizer")
    flags = ["--arch", "transformer", *STYLE, *DEPTHS, "--restore-file", small, *WHOLE]
    train(data, tmp_path / "on", *flags)
    after, before = weights(tmp_path / "on" / "checkpoint_last.pt"), weights(small)
    (model,), _, _ = checkpoint_utils.load_model_ensemble_and_task([str(full)])
    numbers = {name: i for i, (name, _) in enumerate(model.named_parameters())}
    moments = load(full)["last_optimizer_state"]["state"]
    for name, gradient in gradients(small).items():
        expected = adam(before[name], gradient, moments[numbers[origin(name)]], lr=0.01)
        assert not torch.equal(expected, before[name]), name
        # Of this bias the gradient is zero, but for rounding, which Adam makes steps of.
        atol = 1e-3 if name.endswith("k_proj.bias") else 1e-6
        assert torch.allclose(after[name], expected, rtol=0, atol=atol), name


def test_without_the_moments_the_step_is_another(full: Path, data: Path, tmp_path: Path) -> None:
    """So that the test before would notice if they were lost."""
    flags = ["--arch", "transformer", *STYLE, *DEPTHS, *WHOLE]
    runs = []
    for name, kept in (("with", ["--keep-optimizer"]), ("without", [])):
        small = prune(full, tmp_path / f"{name}.pt", *KEEP, *kept)
        train(data, tmp_path / name, *flags, "--restore-file", small)
        runs.append(weights(tmp_path / name / "checkpoint_last.pt"))
    assert any((runs[0][key] - runs[1][key]).abs().max() > 1e-3 for key in runs[0])
