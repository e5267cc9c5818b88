# SPDX-License-Identifier: MIT
"""Rows of training speed from figure7_speed.sh's logs: medians after the first 10 updates.

python scripts/figures/words_per_second.py FOLDER
"""

import json
import re
import statistics
import sys
from pathlib import Path

WARM_UP = 10
ORIGIN = ("command", "version", "commit", "machine", "threads")


def main() -> None:
    """Print a row for each system and rate."""
    speeds: dict[tuple[str, float], list[float]] = {}
    origin = {}
    for run in sorted(Path(sys.argv[1]).iterdir()):
        system, rate, _ = re.fullmatch(r"(.+?)\.([\d.]+)\.(\d+)", run.name).groups()
        log = (run / "train.log").read_text(encoding="utf-8")
        for line in re.findall(r"train_inner \| (\{.*\})", log):
            facts = json.loads(line)
            if int(facts["num_updates"]) > WARM_UP:
                speeds.setdefault((system, float(rate)), []).append(float(facts["wps"]))
        facts = json.loads((run / "training.json").read_text(encoding="utf-8"))
        origin[system, float(rate)] = {key: facts[key] for key in facts if key in ORIGIN}
    for (system, rate), found in sorted(speeds.items()):
        row = {
            "curve": system,
            "rate": rate,
            "decoder_layers": 16,
            "tokens_per_second": statistics.median(found),
        }
        print(json.dumps({**row, "windows": len(found), **origin[system, rate]}))


if __name__ == "__main__":
    main()
