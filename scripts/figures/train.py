# SPDX-License-Identifier: MIT
"""Run fairseq-train once: killed runs go on, finished ones stay; what it took is a row.

    python scripts/figures/train.py RUN DATA FLAGS

RUN is the folder of the checkpoints; RUN/training.json is there when the run has ended. Other flags
than those that it was begun with are refused.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from fairseq_layerdrop.reporting.origin import origin

DEFAULTS = (
    *(
        "--update-epoch-batch-itr",
        "True",
        "--save-interval-updates",
        "500",
        "--keep-interval-updates",
        "1",
    ),
    *("--log-format", "json", "--log-interval", "50"),
)


def main() -> int:
    """Train, unless it is done."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="the folder of the checkpoints")
    parser.add_argument("data", help="as for fairseq-train")
    parser.add_argument("flags", nargs=argparse.REMAINDER, help="of fairseq-train")
    args = parser.parse_args()
    run, done, log = args.run, args.run / "training.json", args.run / "train.log"
    run.mkdir(parents=True, exist_ok=True)
    flags = [args.data, *DEFAULTS, *args.flags]
    # At the beginning: the checkout may be another at the end.
    made = origin(["fairseq-train", *flags])
    if not begun_with(run, by_name(flags)):
        mend = "remove it, or use another WORK"
        print(f"{run} was trained with other flags; {mend}", file=sys.stderr)
        return 2
    if done.exists():
        return 0
    resumed = log.exists()
    print(f"training {run}: see {log}", file=sys.stderr)
    with log.open("a") as output:
        command = ["fairseq-train", *flags, "--save-dir", str(run)]
        status = subprocess.run(command, stdout=output, stderr=output, check=False).returncode
    text = log.read_text(encoding="utf-8")
    if status or "done training" not in text:
        print("".join(text.splitlines(keepends=True)[-5:]), file=sys.stderr)
        return status or 1
    for file in run.glob("checkpoint_*_*.pt"):  # those between epochs, for a run that is killed
        file.unlink()
    row = {"kind": "training", "run": run.name, **describe(text), **made}
    if not resumed:  # of a process that was killed nobody knows what it took
        row["cpu_seconds"] = cpu_seconds()
    done.write_text(json.dumps(row) + "\n", encoding="utf-8")
    return 0


def by_name(flags: list[str]) -> dict[str, list[str]]:
    """The values of each flag; of one that is there twice the last ones, as fairseq-train does."""
    values: dict[str, list[str]] = {}
    name = "DATA"
    for word in flags:
        if word.startswith("--"):
            name = word
            values[name] = []
        else:
            values.setdefault(name, []).append(word)
    return values


def begun_with(run: Path, flags: dict[str, list[str]]) -> bool:
    """Whether what is trained of a run has these flags; if so, they are noted."""
    noted = run / "flags.json"
    trained = (run / "training.json").exists() or any(run.glob("*.pt"))
    if trained and noted.exists() and json.loads(noted.read_text(encoding="utf-8")) != flags:
        return False
    noted.write_text(json.dumps(flags), encoding="utf-8")
    return True


def cpu_seconds() -> int:
    """The processor's time that the training took, all its processes together."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return round(usage.ru_utime + usage.ru_stime)


def describe(log: str) -> dict[str, Any]:
    """What a training took and what it reached, by its log."""
    epochs, valid = lines(log, "train_num_updates"), lines(log, "valid_num_updates")
    return {
        "updates": int(epochs[-1]["train_num_updates"]),
        "seconds": round(sum(float(epoch["train_train_wall"]) for epoch in epochs)),
        **({"valid_loss": float(valid[-1]["valid_loss"])} if valid else {}),
        "threads": int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)),
    }


def lines(log: str, key: str) -> list[dict[str, Any]]:
    """What the log says at the ends of epochs, of training or validation."""
    return [json.loads(line[line.index("{") :]) for line in log.splitlines() if f'"{key}"' in line]


if __name__ == "__main__":
    sys.exit(main())
