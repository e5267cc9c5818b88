# SPDX-License-Identifier: MIT
"""What a family of models costs to train, and what it is worth: a row of kind ``family``.

    python scripts/figures/family_cost.py ROWS CURVE RUN [RUN ...] --unit RUN [--whole CURVE]

ROWS has the rows of the trainings named, of which the family is made, and those of the models of
CURVE. The cost is in trainings of the model ``--unit``: the updates of all runs, each times what an
update costs. That is measured here, side by side in one process, for the rows' own times are of
busy machines: a few updates of each run a round, as ``fairseq-train`` does them.
"""

import argparse
import json
import shlex
import sys
import time
from itertools import cycle, islice
from pathlib import Path
from statistics import mean, median

from fairseq import options, tasks
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.trainer import Trainer
from rich.progress import track

import fairseq_layerdrop
from fairseq_layerdrop.reporting.intake import depth_label, total_depth
from fairseq_layerdrop.reporting.origin import origin
from fairseq_layerdrop.reporting.rows import Row, RowFile
from fairseq_layerdrop.reporting.seeds import SCORES

ROUNDS = 9
UPDATES = 5
"""Of each run in a round; the first round warms up and does not count."""


def main() -> int:
    """Measure, and add the row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", help="JSON Lines; the new row is added")
    parser.add_argument("curve", help="the models of the family, one a depth")
    parser.add_argument("runs", nargs="+", help="the trainings that they are made by")
    parser.add_argument("--unit", required=True, help="the training that costs 1")
    parser.add_argument("--whole", help="the curve of the deepest model, where CURVE has none")
    args = parser.parse_args()
    fairseq_layerdrop.register()
    rows = [json.loads(line) for line in Path(args.rows).read_text(encoding="utf-8").splitlines()]
    trainings = {row["run"]: row for row in rows if row.get("kind") == "training"}
    names = list(dict.fromkeys([args.unit, *args.runs]))
    shares = update_costs({name: trainings[name]["command"] for name in names}, args.unit)
    cost = {name: trainings[name]["updates"] * shares[name] for name in names}
    models = models_of(rows, args.curve)
    if args.whole:
        models.insert(0, max(models_of(rows, args.whole), key=total_depth))
    row = {
        "kind": "family",
        "curve": args.curve,
        "trainings": len(args.runs),
        "cost": round(sum(cost[run] for run in args.runs) / cost[args.unit], 3),
        "models": len(models),
        "depths": [depth_label(model) for model in models],
        "update_costs": shares,
        **means(models),
        "signature": {"curve": args.curve, "runs": args.runs, "unit": args.unit},
    }
    RowFile(args.rows, origin(["python", *sys.argv])).add([row])
    return 0


def models_of(rows: list[Row], curve: str) -> list[Row]:
    """The plan rows of a curve, of one seed: the first that it has."""
    members = [row for row in rows if row.get("kind") == "plan" and row["curve"] == curve]
    return [row for row in members if row["seed"] == members[0]["seed"]]


def means(models: list[Row]) -> dict[str, float]:
    """Each score's mean over the models that have it, all of them or none."""
    there = [key for key in SCORES if all(key in row for row in models)]
    return {key: mean(row[key] for row in models) for key in there}


def update_costs(commands: dict[str, str], unit: str) -> dict[str, float]:
    """What an update of each training costs, in updates of one of them, by the trainings' names.

    The processor's seconds, each compared with that of the same round.
    """
    trainers = {name: Training(shlex.split(command)[1:]) for name, command in commands.items()}
    rounds = []
    for _ in track(range(ROUNDS), "updates of each training", transient=True):
        rounds.append({name: training.update(UPDATES) for name, training in trainers.items()})
    warm = rounds[1:]
    return {name: round(median(one[name] / one[unit] for one in warm), 3) for name in commands}


class Training:
    """A training as fairseq-train would begin it; the same batches for all of the same data."""

    def __init__(self, flags: list[str]) -> None:
        parser = options.get_training_parser()
        cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(parser, flags))
        cfg.common.cpu = True
        task = tasks.setup_task(cfg.task)
        task.load_dataset("train")
        model = task.build_model(cfg.model)
        criterion = task.build_criterion(cfg.criterion)
        self.trainer = Trainer(cfg, task, model, criterion)
        batches = self.trainer.get_train_iterator(1).next_epoch_itr(shuffle=True)
        self.batches = cycle([[batch] for batch in islice(batches, ROUNDS * UPDATES)])

    def update(self, count: int) -> float:
        """The processor's seconds of the next updates."""
        start = time.process_time()
        for _ in range(count):
            self.trainer.train_step(next(self.batches))
        return time.process_time() - start


if __name__ == "__main__":
    sys.exit(main())
