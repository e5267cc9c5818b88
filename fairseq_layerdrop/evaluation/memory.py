# SPDX-License-Identifier: MIT
"""How much memory a forward takes beside the weights."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from fairseq_layerdrop.evaluation.loading import Loaded
from fairseq_layerdrop.evaluation.prefix import Kept
from fairseq_layerdrop.modules.subnetwork import restricted


@torch.no_grad()
def peak_of_forward(loaded: Loaded, kept: Kept, sample: Any) -> int:
    """Peak bytes of the tensors that a forward of the restricted model allocates on one batch."""
    with restricted(loaded.model, kept):
        loaded.criterion(loaded.model, sample)  # so that what the first call caches is not counted
        if loaded.device.type == "cuda":
            before = torch.cuda.memory_allocated(loaded.device)
            torch.cuda.reset_peak_memory_stats(loaded.device)
            loaded.criterion(loaded.model, sample)
            return torch.cuda.max_memory_allocated(loaded.device) - before
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            loaded.criterion(loaded.model, sample)
    # The public events say what an operation keeps, not what it holds while it runs.
    tree = profiler.profiler.kineto_results.experimental_event_tree()
    allocations = sorted(_allocations(tree))
    if not allocations:
        return 0
    _, size, total = allocations[0]
    return max(total for _, _, total in allocations) - (total - size)


def _allocations(nodes: Iterable[Any]) -> Iterator[tuple[int, int, int]]:
    """When memory was taken or given back, how much, and how much was held then."""
    for node in nodes:
        kind, facts = node.typed
        if kind == torch._C._profiler._EventType.Allocation:
            yield node.start_time_ns, facts.alloc_size, facts.total_allocated
        yield from _allocations(node.children)
