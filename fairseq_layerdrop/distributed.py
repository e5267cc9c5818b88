# SPDX-License-Identifier: MIT
"""What fairseq's launchers need to train in several processes without a GPU.

Stock fairseq starts as many processes as there are GPUs. Without one, ``--distributed-world-size
2`` with an init method starts none and exits 0 (nothing was trained), ``torchrun`` divides by zero,
and torch's data-parallel wrapper is told to use GPU 0. Here, where torch sees no GPU, the same
command lines train:

    fairseq-train … --distributed-world-size 2 --cpu
    torchrun --nproc-per-node 2 $(which fairseq-train) … --cpu

Where there is a GPU nothing of this is changed. Processes that fairseq spawns import ``--user-dir``
themselves.
"""

import os
import socket
from typing import Any

import torch
from fairseq.distributed import (
    DistributedTimeoutWrapper,
    LegacyDistributedDataParallel,
    ModuleProxyWrapper,
    utils,
)
from fairseq.models import distributed_fairseq_model
from torch.nn.parallel import DistributedDataParallel

_WRAPPERS = (
    DistributedDataParallel,
    DistributedTimeoutWrapper,
    LegacyDistributedDataParallel,
    ModuleProxyWrapper,
)

TORCHRUN = {"MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK"}
"""What torchrun tells its processes."""


class CpuDataParallel(DistributedDataParallel):
    """torch's wrapper without the devices that fairseq names."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **{**named, "device_ids": None, "output_device": None})


def patch_launchers() -> None:
    """Patch fairseq's object broadcast, and its launchers where there is no GPU. Idempotent."""
    utils._broadcast_object_slow = _broadcast_object
    if torch.cuda.is_available():
        return
    distributed_fairseq_model.DistributedDataParallel = CpuDataParallel
    utils._infer_torch_distributed_launch_init = _from_torchrun
    utils._infer_single_node_init = _on_this_machine
    utils.call_main = call_main


def _broadcast_object(obj: Any, src_rank: int, group: Any, dist_device: torch.device) -> Any:
    """What one rank has, for all: a checkpoint that is resumed from.

    fairseq's sends it through ``torch.save`` and ``torch.load``, which on torch >= 2.6 refuses what
    rank 0 has made of the options. It comes from a process of this training, which has read the
    file safely.
    """
    held = [obj]
    torch.distributed.broadcast_object_list(held, src=src_rank, group=group, device=dist_device)
    return held[0]


def call_main(cfg: Any, main: Any, **named: Any) -> None:
    """As fairseq's, but every process of the world is started, on this machine.

    Raises:
        ValueError: if a part of the training needs GPUs.
    """
    training = cfg.distributed_training
    if training.ddp_backend in ("fully_sharded", "slowmo") and training.distributed_world_size > 1:
        raise ValueError(
            f"--ddp-backend {training.ddp_backend} needs GPUs and fairscale; take pytorch_ddp"
        )
    _find_the_others(training)
    if training.distributed_init_method is None:
        main(cfg, **named)
        return
    training.distributed_backend = "gloo"
    if training.distributed_no_spawn:
        utils.distributed_main(training.device_id, main, cfg, named)
        return
    named["start_rank"], training.distributed_rank = training.distributed_rank, None
    arguments = (main, cfg, named)
    torch.multiprocessing.spawn(  # type: ignore[attr-defined, no-untyped-call]
        utils.distributed_main, arguments, nprocs=training.distributed_world_size, join=True
    )


def _find_the_others(training: Any) -> None:
    """Set how the processes meet, if there are several and no flag says it."""
    if training.distributed_init_method is not None:
        return
    if os.environ.keys() >= TORCHRUN and int(os.environ["WORLD_SIZE"]) > 1:
        _from_torchrun(training)  # whatever the flag says
    elif training.distributed_world_size > 1:
        utils.infer_init_method(training)
        if training.distributed_init_method is None:
            _on_this_machine(training)
    if training.distributed_world_size < 1:
        raise ValueError(
            "SLURM: fairseq counts a process a GPU, and there is none; ask for several tasks a node"
        )


def _from_torchrun(training: Any) -> None:
    training.distributed_init_method = "env://"
    training.distributed_world_size = int(os.environ["WORLD_SIZE"])
    training.distributed_rank = int(os.environ["RANK"])
    training.device_id = 0
    training.distributed_no_spawn = True


def _on_this_machine(training: Any) -> None:
    if training.distributed_port <= 0:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            training.distributed_port = free.getsockname()[1]
    training.distributed_init_method = f"tcp://localhost:{training.distributed_port}"


def unwrapped(model: Any) -> Any:
    """The model without its data-parallel wrappers, whose forward prepares for a backward."""
    while isinstance(model, _WRAPPERS):
        model = model.module
    return model


def counts_gradients(model: Any) -> bool:
    """Whether a wrapper of the model wants each gradient once a backward, as torch's own does."""
    while isinstance(model, _WRAPPERS):
        if isinstance(model, DistributedDataParallel):
            return True
        model = model.module
    return False
