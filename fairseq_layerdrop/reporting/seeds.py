# SPDX-License-Identifier: MIT
"""Models that differ in the seed of their training alone, as one: means, and how far the seeds lie
apart.
"""

import json
from collections.abc import Sequence
from statistics import mean, stdev

from fairseq_layerdrop.reporting.rows import Row

SCORES = ("loss", "ppl", "bleu", "chrf", "rouge1", "rouge2", "rougeL", "accuracy")
_DATA = ("subset", "half", "data", "metrics")
_SAME = ("curve", "plan", "encoder_layers", "decoder_layers", "parameters", "sentences")


def over_seeds(rows: Sequence[Row]) -> list[Row]:
    """Plan rows, those that differ in the training's seed alone put together in the first one's
    place.

    Such a row has the mean of each score, ``seeds``, their number, and in ``spread`` the standard
    deviation of each score over the seeds (n - 1 in the denominator). Speeds and p-values are of
    single models, and left out of it.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(_key(row), []).append(row)
    return [
        row
        for members in groups.values()
        for row in (_merged(members) if _are_seeds(members) else members)
    ]


def _key(row: Row) -> str:
    signature = row.get("signature")
    data = [signature.get(key) for key in _DATA] if isinstance(signature, dict) else None
    return json.dumps([*(row.get(key) for key in _SAME), data])


def _are_seeds(rows: Sequence[Row]) -> bool:
    seeds = [row.get("seed") for row in rows]
    return len(rows) > 1 and None not in seeds and len(set(seeds)) == len(seeds)


def _merged(rows: Sequence[Row]) -> list[Row]:
    scores = {key: [row[key] for row in rows] for key in SCORES if all(key in row for row in rows)}
    kept = {key: rows[0][key] for key in (*_SAME, "metrics") if key in rows[0]}
    means = {key: mean(values) for key, values in scores.items()}
    return [
        {
            **kept,
            **means,
            "seeds": len(rows),
            "spread": {key: stdev(values) for key, values in scores.items()},
        }
    ]
