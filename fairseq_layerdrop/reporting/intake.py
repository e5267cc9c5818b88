# SPDX-License-Identifier: MIT
"""The rows of a report: checked and cleaned once, on the way in, and sorted by ``kind``.

- A *plan* row (the default kind) is a sub-network with its scores, speed and size.
- An *importance* row is one layer's importance by one measure.
- A *trial* row is a candidate of a search, with its loss.
- A *family* row is what the models of a curve cost to train together, and their mean scores.
- A *training* row says what the training of a model took; on its own it makes no report.
- A *verdict* row judges the winner of a search; the search prints it, and no report shows it.
- A *test* row compares plan rows, named by their signatures, with one of them; where that is the
  whole model, the plan rows get its p-values.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from fairseq_layerdrop.reporting.rows import Row
from fairseq_layerdrop.reporting.seeds import over_seeds

DEPTH_KEYS = ("encoder_layers", "decoder_layers")
_TEXTS = ("curve", "plan", "stack", "measure", "run", "machine", "commit")
_COUNTS = (
    *(*DEPTH_KEYS, "layer", "parameters", "memory_bytes", "sentences", "seed", "updates"),
    *("trainings", "models"),
)
_NUMBERS = (
    *("loss", "ppl", "bleu", "chrf", "rouge1", "rouge2", "rougeL", "accuracy"),
    *("sentences_per_second", "tokens_per_second", "latency_ms", "p_value", "p_holm"),
    *("rate", "value", "error"),
    *("seconds", "valid_loss", "cost"),
)
_NEEDED = {
    "plan": ("curve",),
    "importance": ("curve", "stack", "layer", "measure", "value"),
    "trial": ("loss",),
    "training": ("run", "updates", "seconds"),
    "family": ("curve", "cost"),
}
_SHOWN = ("plan", "importance", "trial")


class SortedRows(NamedTuple):
    """Rows by kind; of the others only their names are kept."""

    plans: list[Row]
    importance: list[Row]
    trials: list[Row]
    trainings: list[Row]
    families: list[Row]
    others: list[str]


def check_rows(rows: Sequence[Row], source: str) -> None:
    """Refuse rows that cannot be shown.

    Args:
        rows: all rows of one file.
        source: the file's name, for the message.

    Raises:
        ValueError: naming the first line that is wrong, and how many more are.
    """
    wrong = [
        (line, next(_problems(row), None))
        for line, row in enumerate(map(_clean_row, rows), start=1)
    ]
    wrong = [(line, problem) for line, problem in wrong if problem]
    if wrong:
        more = f" ({len(wrong) - 1} more lines are wrong)" if len(wrong) > 1 else ""
        raise ValueError(f"{source}, line {wrong[0][0]}: {wrong[0][1]}{more}")


def sort_rows(rows: Sequence[Row]) -> SortedRows:
    """Checked rows, cleaned, by kind.

    Raises:
        ValueError: if there is nothing to show.
    """
    kinds: dict[str, list[Row]] = {kind: [] for kind in _NEEDED}
    for row in map(_clean_row, with_tests(rows)):
        kinds.setdefault(_kind(row), []).append(row)
    others = [kind for kind in kinds if kind not in (*_NEEDED, "test", "verdict")]
    if not any(kinds[kind] for kind in _SHOWN):
        found = f", only {', '.join(others)}" if others else ""
        raise ValueError(
            f"there are no rows to report: need rows of kind {', '.join(_SHOWN)}, got none{found}"
        )
    trials = [{"curve": "search", **row} for row in kinds["trial"]]
    return SortedRows(
        over_seeds(kinds["plan"]),
        kinds["importance"],
        trials,
        kinds["training"],
        kinds["family"],
        others,
    )


def with_tests(rows: Sequence[Row]) -> list[Row]:
    """The rows, each plan with the p-values of the last test of it against the whole model."""
    p_values: dict[str, Row] = {}
    for row in rows:
        if row.get("kind") == "test" and set(str(row.get("against")).split("/")) == {"all"}:
            for signature in row["signature"]["of"]:
                plan = signature["plan"]
                if plan in row["p_value"]:
                    found = {"p_value": row["p_value"][plan], "p_holm": row["p_holm"][plan]}
                    p_values[json.dumps(signature, sort_keys=True)] = found
    return [
        row | p_values.get(json.dumps(row.get("signature"), sort_keys=True), {}) for row in rows
    ]


def total_depth(row: Row) -> int:
    """The layers of all stacks together."""
    return sum(row.get(stack, 0) for stack in DEPTH_KEYS)


def depth_label(row: Row) -> str:
    """The depth of each stack: ``6+3``, or ``6`` where there is one stack."""
    return "+".join(str(row[stack]) for stack in DEPTH_KEYS if stack in row)


def in_order(rows: Sequence[Row]) -> list[Row]:
    """Curves as they came first; in each the deepest encoder first, then the deepest decoder."""
    names = {name: i for i, name in enumerate(dict.fromkeys(row["curve"] for row in rows))}
    return sorted(
        rows, key=lambda row: (names[row["curve"]], *(-row.get(stack, 0) for stack in DEPTH_KEYS))
    )


def by_curve(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows of each curve, in order."""
    curves: dict[str, list[Row]] = {}
    for row in in_order(rows):
        curves.setdefault(row["curve"], []).append(row)
    return curves


def clean(text: str) -> str:
    """One line of printable text: rows are untrusted, and control characters must reach no file."""
    return "".join(sign if sign.isprintable() else " " for sign in text).strip()


def _clean_row(row: Row) -> Row:
    cleaned: Row = {}
    for key, value in row.items():
        if value is None or key in ("seeds", "spread"):  # null: not measured
            continue
        cleaned[key] = clean(value) if isinstance(value, str) else value
    return cleaned


def _kind(row: Row) -> str:
    return clean(str(row.get("kind", "plan")))


def _problems(row: Row) -> Iterator[str]:
    kind = _kind(row)
    if kind == "test" and not _is_test(row):
        yield (
            "a row of kind test must have p_value and p_holm for each plan, against, and "
            "signature.of"
        )
    if kind not in _NEEDED:
        return
    missing = [key for key in _NEEDED[kind] if key not in row]
    if missing:
        yield (
            f"a row of kind {kind} must have {', '.join(_NEEDED[kind])}; it lacks "
            f"{', '.join(missing)}"
        )
    if kind in ("plan", "trial") and not any(stack in row for stack in DEPTH_KEYS):
        yield f"a row of kind {kind} must have {' or '.join(DEPTH_KEYS)}, or both"
    for key, rule, fits in _RULES:
        if key in row and not fits(row[key]):
            yield f"{key} must be {rule}, got {json.dumps(row[key])[:40]}"


def _is_test(row: Row) -> bool:
    of = row["signature"].get("of") if isinstance(row.get("signature"), dict) else None
    p_values = row.get("p_value")
    corrected = row.get("p_holm")
    return (
        isinstance(of, list)
        and all(
            isinstance(signature, dict) and isinstance(signature.get("plan"), str)
            for signature in of
        )
        and isinstance(p_values, dict)
        and isinstance(corrected, dict)
        and p_values.keys() == corrected.keys()
        and all(map(_is_number, (*p_values.values(), *corrected.values())))
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_number(value: Any) -> bool:
    # Comparing refuses NaN and the infinities as well, which json reads and nothing can draw.
    return (
        isinstance(value, (int, float)) and not isinstance(value, bool) and -1e300 < value < 1e300
    )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and _is_number(value) and value >= 0


def _are_quartiles(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(map(_is_number, value))
        and value[0] <= value[1]
    )


def _are_signatures(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


_RULES: tuple[tuple[str, str, Callable[[Any], bool]], ...] = (
    *((key, "a text that is not empty", _is_text) for key in _TEXTS),
    *((key, "a whole number, 0 or more", _is_count) for key in _COUNTS),
    *((key, "a finite number", _is_number) for key in _NUMBERS),
    ("latency_ms_quartiles", "two numbers, the lower first", _are_quartiles),
    ("metrics", "an object of texts", _are_signatures),
)
