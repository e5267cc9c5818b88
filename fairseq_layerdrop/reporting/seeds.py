# SPDX-License-Identifier: MIT
"""Models that differ only in their training seed, as one row: means and standard deviations."""

import json
from collections.abc import Sequence
from statistics import mean, stdev

from fairseq_layerdrop.reporting.rows import Row

SCORES = ("loss", "ppl", "bleu", "chrf", "rouge1", "rouge2", "rougeL", "accuracy")
_DATA = ("subset", "half", "data", "metrics")
_SAME = ("curve", "plan", "encoder_layers", "decoder_layers", "parameters", "sentences")


def over_seeds(rows: Sequence[Row]) -> list[Row]:
    """Plan rows, with those that differ only in the training seed merged into the first of them.

    Such a row has the mean of each score, the number of ``seeds``, and in ``spread`` the standard
    deviation of each score over the seeds (n - 1 in the denominator). It has no speeds and no
    p-values: those belong to single models.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(_key(row), []).append(row)
    found: list[Row] = []
    for members in groups.values():
        found += [_merged(members)] if _are_seeds(members) else members
    return found


def _key(row: Row) -> str:
    signature = row.get("signature")
    data = [signature.get(key) for key in _DATA] if isinstance(signature, dict) else None
    return json.dumps([*(row.get(key) for key in _SAME), data])


def _are_seeds(rows: Sequence[Row]) -> bool:
    seeds = [row.get("seed") for row in rows]
    return len(rows) > 1 and None not in seeds and len(set(seeds)) == len(seeds)


def _merged(rows: Sequence[Row]) -> Row:
    common = [key for key in SCORES if all(key in row for row in rows)]
    scores = {key: [row[key] for row in rows] for key in common}
    kept = {key: rows[0][key] for key in (*_SAME, "metrics") if key in rows[0]}
    means = {key: mean(values) for key, values in scores.items()}
    spread = {key: stdev(values) for key, values in scores.items()}
    return {**kept, **means, "seeds": len(rows), "spread": spread}
