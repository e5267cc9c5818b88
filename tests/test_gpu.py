# SPDX-License-Identifier: MIT
"""Training in half precision on CUDA devices: ``pytest -m gpu``."""

from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq_programs import (
    LANGUAGES,
    STYLE,
    USER_DIR,
    fairseq,
    generate,
    logged,
    prune,
    python,
    weights,
)

pytestmark = pytest.mark.gpu

HALF_PRECISION = [["--fp16"], ["--memory-efficient-fp16"], ["--bf16"]]
UPDATES = 8
KEPT = ("encoder_keep", "decoder_keep")
TRAINING = [
    *LANGUAGES,
    *(
        "--user-dir",
        str(USER_DIR),
        "--task",
        "layerdrop_translation",
        "--arch",
        "layerdrop_transformer",
        *STYLE,
    ),
    *(
        "--encoder-layers",
        "4",
        "--decoder-layers",
        "4",
        "--layerdrop-min-layers",
        "0",
        "--batch-size",
        "5",
    ),
    *(
        "--optimizer",
        "adam",
        "--lr",
        "0.001",
        "--clip-norm",
        "1.0",
        "--lr-scheduler",
        "fixed",
        "--dropout",
        "0",
    ),
    *(
        "--max-update",
        str(UPDATES),
        "--no-progress-bar",
        "--log-format",
        "json",
        "--log-interval",
        "1",
    ),
    *("--disable-validation", "--num-workers", "0", "--fp16-init-scale", "4"),
]


def rates(rate: str) -> list[str]:
    return ["--encoder-layerdrop", rate, "--decoder-layerdrop", rate]


def need(devices: int) -> None:
    if torch.cuda.device_count() < devices:
        pytest.skip(f"needs {devices} CUDA devices, got {torch.cuda.device_count()}")


def assert_trained(output: str) -> list[dict[str, Any]]:
    """All updates were done; fp16 repeats those whose gradients overflowed."""
    assert output.count("| done training in ") == 1
    steps = logged(output, "train_inner")
    assert [int(step["num_updates"]) for step in steps] == list(range(1, UPDATES + 1))
    assert all(0 < float(step["loss"]) < 12 for step in steps)
    return steps


@pytest.mark.parametrize("flags", HALF_PRECISION, ids=lambda flags: flags[0])
@pytest.mark.parametrize("rate", ["0", "0.5", "0.99"])
def test_half_precision_trains_and_what_is_pruned_translates(
    flags: list[str], rate: str, data: Path, tmp_path: Path
) -> None:
    need(1)
    steps = assert_trained(
        fairseq("train", data, *TRAINING, *rates(rate), *flags, "--save-dir", tmp_path)
    )
    kept = {float(step[name]) for step in steps for name in KEPT if name in step}
    assert (max(kept, default=1.0) < 1.0 or len(kept) > 1) == (rate != "0")
    small = prune(
        tmp_path / "checkpoint_last.pt", tmp_path / "small.pt", "--decoder-keep", "every:2"
    )
    assert all(tensor.isfinite().all() for tensor in weights(small).values())
    assert len(generate(data, small, "--max-len-a", "0", "--max-len-b", "12")) == 11


@pytest.mark.parametrize("flags", [[], *HALF_PRECISION], ids=lambda flags: (flags or ["single"])[0])
@pytest.mark.parametrize("backend", ["pytorch_ddp", "legacy_ddp"])
@pytest.mark.parametrize("rate", ["0", "0.5", "0.99"])
def test_two_devices_train_on_default_flags(
    flags: list[str], backend: str, rate: str, data: Path, tmp_path: Path
) -> None:
    """In processes of their own, which fairseq's launcher starts one a device."""
    need(2)
    world = ["--distributed-world-size", "2", "--ddp-backend", backend]
    arguments = [str(data), *TRAINING, *rates(rate), *flags, *world, "--save-dir", str(tmp_path)]
    assert_trained(python("-m", "fairseq_cli.train", *arguments))


@pytest.mark.parametrize("rate", ["0.5", "0.99"])
def test_a_gpu_drops_the_layers_that_a_cpu_drops(rate: str, data: Path, tmp_path: Path) -> None:
    """Draws come from a CPU generator, so that a seed means the same on any device."""
    need(1)
    flags = [*TRAINING, *rates(rate), "--no-save"]
    on_cpu, on_gpu = (
        logged(fairseq("train", data, *flags, *where), "train_inner") for where in (["--cpu"], [])
    )
    for one, other in zip(on_cpu, on_gpu, strict=True):
        assert [one[name] for name in KEPT if name in one] == [
            other[name] for name in KEPT if name in other
        ]
        assert float(one["loss"]) == pytest.approx(float(other["loss"]), abs=0.02)
