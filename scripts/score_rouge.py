# SPDX-License-Identifier: MIT
"""Print ROUGE-1, -2 and -L (F1, by rouge-score) of ``fairseq-generate``'s output.

python scripts/score_rouge.py GEN
"""

import re
import sys
from pathlib import Path

from fairseq_layerdrop.evaluation.texts import score_texts


def main(path: str) -> None:
    """Hypotheses against the targets beside them; a missing hypothesis is an error."""
    output = Path(path).read_text(encoding="utf-8")
    targets = dict(re.findall(r"^T-(\d+)\t(.*)$", output, re.MULTILINE))
    hypotheses = dict(re.findall(r"^H-(\d+)\t\S+\t(.*)$", output, re.MULTILINE))
    numbers = sorted(targets, key=int)
    if not numbers or targets.keys() != hypotheses.keys():
        raise ValueError(
            f"{path}: {len(targets)} targets and {len(hypotheses)} hypotheses; let "
            "fairseq-generate end"
        )
    scores = score_texts([hypotheses[i] for i in numbers], [targets[i] for i in numbers], ["rouge"])
    signature = scores.pop("metrics")["rouge"]
    print(
        path,
        *(f"{name} {score:.2f}" for name, score in scores.items()),
        f"({len(numbers)} texts, {signature})",
    )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        main(sys.argv[1])
    except (ValueError, OSError) as error:
        print(f"score_rouge: {error}", file=sys.stderr)
        sys.exit(2)
