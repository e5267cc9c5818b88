# SPDX-License-Identifier: MIT
"""``fairseq-train`` in N processes as torchrun starts them, forked to save the imports.

    ranks.py N SECONDS FOLDER ARGUMENTS…

FOLDER gets from each rank, beside what the training itself prints and saves, ``RANK.jsonl`` (a line
for every draw: the layers that ran and the learned rates) and ``RANK.pt`` (the model's tensors at
the end). The exit status is that of the first process that failed; the others are then killed, as
they all are after SECONDS (124). One process is started without anything of torchrun's.
"""

import json
import os
import runpy
import signal
import socket
import sys
import time
from typing import Any

import torch
from fairseq.dataclass import utils
from fairseq.trainer import Trainer

HUNG = "ranks.py: killed after its limit"


def fork(size: int, seconds: float) -> int:
    """Return the rank in each child; in this process wait for them, let none live on, and exit."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    running = {}
    for rank in range(size):
        child = os.fork()
        if child == 0:
            if size > 1:
                torchruns = {
                    "MASTER_ADDR": "localhost",
                    "MASTER_PORT": port,
                    "WORLD_SIZE": size,
                    "RANK": rank,
                }
                os.environ.update({name: str(value) for name, value in torchruns.items()})
            return rank
        running[child] = rank
    end, failed = time.monotonic() + seconds, 0
    while running:
        child, status = os.waitpid(-1, os.WNOHANG)
        if child:
            del running[child]
            failed = failed or os.waitstatus_to_exitcode(status)
        if running and (failed or time.monotonic() > end):
            if not failed:
                failed = 124
                print(HUNG, flush=True)
            time.sleep(1)  # a rank that was left alone has this long to say why
            for other in running:
                os.kill(other, signal.SIGKILL)
                os.waitpid(other, 0)
            break
        time.sleep(0.02)
    sys.exit(failed & 0xFF)


def watch(layers: Any, trainer: Any, notes: list[Any]) -> None:
    """Note what a list of layers draws in training."""
    draw = layers.draw

    def noted() -> Any:
        drawn = draw()
        if layers.training:
            keep = None if drawn.keep is None else drawn.keep.tolist()
            note = {
                "update": trainer.get_num_updates(),
                "stack": layers.stack,
                "active": drawn.active,
                "keep": keep,
            }
            notes.append(note)
        return drawn

    layers.draw = noted


def main() -> None:
    """Become ``fairseq-train``, fork once the flags are read, and write down what happened."""
    size, seconds, folder, *arguments = sys.argv[1:]
    ranks: list[int] = []
    trainers: list[Any] = []
    notes: list[Any] = []
    convert, step = utils.convert_namespace_to_omegaconf, Trainer.train_step

    def converted(flags: Any) -> Any:
        cfg = convert(flags)
        ranks.append(fork(int(size), float(seconds)))
        return cfg

    def watched(trainer: Any, *others: Any, **named: Any) -> Any:
        if not trainers:
            trainers.append(trainer)
            for layers in trainer.model.modules():
                if hasattr(layers, "draw"):
                    watch(layers, trainer, notes)
        return step(trainer, *others, **named)

    utils.convert_namespace_to_omegaconf, Trainer.train_step = converted, watched
    sys.argv = ["fairseq-train", *arguments]
    runpy.run_module("fairseq_cli.train", run_name="__main__", alter_sys=True)
    with open(os.path.join(folder, f"{ranks[0]}.jsonl"), "w") as file:
        file.writelines(json.dumps(note) + "\n" for note in notes)
    torch.save(trainers[0].model.state_dict(), os.path.join(folder, f"{ranks[0]}.pt"))


if __name__ == "__main__":
    main()
