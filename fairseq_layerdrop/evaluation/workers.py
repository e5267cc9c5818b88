# SPDX-License-Identifier: MIT
"""Several processes, started by ``torchrun``, that share the work of one search."""

import os
from typing import Any

import torch.distributed as dist


class Workers:
    """The processes of this run; just this one, if nothing started several."""

    def __init__(self) -> None:
        self.count = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        if self.count > 1 and not dist.is_initialized():
            dist.init_process_group("gloo")  # exchanges small objects, on the CPU

    @property
    def first(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    def gather(self, part: Any) -> list[Any]:
        """What every process gives, in the order of their ranks, to all of them."""
        if self.count == 1:
            return [part]
        parts: list[Any] = [None] * self.count
        dist.all_gather_object(parts, part)
        return parts

    def agree(self, value: Any) -> Any:
        """The first process's value, for all."""
        if self.count == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def close(self) -> None:
        """End together: a process that leaves early takes the others' connections down."""
        if self.count > 1:
            dist.barrier()
            dist.destroy_process_group()
