# SPDX-License-Identifier: MIT
"""One of two processes that learn rates of the same layers: ``agree_script.py RANK FILE OUT``."""

import sys
from pathlib import Path

import torch

from fairseq_layerdrop.modules.layer_drop import LayerDropList
from fairseq_layerdrop.modules.learned import LearnedRates

if __name__ == "__main__":
    rank, file, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{file}", rank=rank, world_size=2
    )
    torch.manual_seed(0)
    gate = LearnedRates(6, 4, target=0.5)
    torch.nn.init.normal_(gate.weight)
    layers = LayerDropList([torch.nn.Linear(4, 4) for _ in range(6)], rates=[0.5] * 6, learned=gate)
    drawn = []
    for update in range(20):
        layers.set_num_updates(update)
        step = layers.draw()
        drawn.append((step.active, step.keep.tolist()))
        x = torch.full((2, 3, 4), float(rank))
        with layers.running(step):
            for layer in layers:
                x = layer(x)
        drawn.append(gate.activation.tolist())
    Path(out).write_text(repr(drawn))
    torch.distributed.barrier()  # a process that leaves early takes the other's connection along
    torch.distributed.destroy_process_group()
