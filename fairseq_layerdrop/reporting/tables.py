# SPDX-License-Identifier: MIT
"""Rows as tables, for Markdown and the page alike: each cell's text, and its value for sorting."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from fairseq_layerdrop.reporting.intake import (
    SortedRows,
    by_curve,
    depth_label,
    in_order,
    total_depth,
)
from fairseq_layerdrop.reporting.quality import SIGNIFICANT, best_trials, smallest_not_worse
from fairseq_layerdrop.reporting.rows import Row


class Cell(NamedTuple):
    """A cell's text, and the value that it sorts by; an empty cell has none."""

    text: str
    value: str | float | None


class Table(NamedTuple):
    """Titles, each with whether its column holds numbers, and the lines."""

    titles: list[tuple[str, bool]]
    lines: list[list[Cell]]


class _Column(NamedTuple):
    title: str
    key: str  # the column is there if some row has this, and sorted by it
    show: Callable[[Row], str]
    is_number: bool = True


def _number(title: str, key: str, form: str) -> _Column:
    def show(row: Row) -> str:
        apart = row.get("spread", {}).get(key)
        return form.format(row[key]) + ("" if apart is None else f" ± {form.format(apart)}")

    return _Column(title, key, show)


def _text(title: str, key: str) -> _Column:
    return _Column(title, key, lambda row: row[key], is_number=False)


def tables(rows: SortedRows) -> list[Table]:
    """The tables of sub-networks, layer importance, trainings and families that have rows.

    Of a search's trials only the best at each depth is in the table.
    """
    trials = [{**row, "curve": f"{row['curve']} (best trials)"} for row in best_trials(rows.trials)]
    shown = [_with_derived(row) for row in (*in_order(rows.plans), *trials)]
    found = (
        _table(shown, _COLUMNS),
        _table(rows.importance, _IMPORTANCE),
        _table(rows.trainings, _TRAININGS),
        _table(rows.families, _FAMILIES),
    )
    return [table for table in found if table.lines]


def notes(rows: SortedRows) -> list[str]:
    """The notes under a table: what the tests found, and how the scores were computed."""
    sizes = sorted({row["sentences"] for row in rows.plans if "sentences" in row})
    scored = [f"sentences scored: {', '.join(f'{size:,}' for size in sizes)}"] if sizes else []
    metrics: set[str] = set()
    for row in rows.plans:
        metrics |= {f"{name}: {text}" for name, text in row.get("metrics", {}).items()}
    several = any("seeds" in row for row in rows.plans)
    apart = ["±: one standard deviation over the seeds of the training"] if several else []
    return [*_verdicts(rows.plans), *apart, *scored, *sorted(metrics)]


def _verdicts(plans: Sequence[Row]) -> list[str]:
    sentences = []
    for curve, rows in by_curve(plans).items():
        if any("p_holm" in row for row in rows):
            found = "none of those tested"
            if row := smallest_not_worse(rows):
                found = f"{row.get('plan', 'plan unnamed')}, {depth_label(row)} layers"
            rule = f"(Holm-corrected, {SIGNIFICANT})"
            sentences.append(
                f"{curve}: smallest depth not significantly worse than the full model {rule}: "
                f"{found}"
            )
    return sentences


def _table(rows: Sequence[Row], columns: Sequence[_Column]) -> Table:
    there = [column for column in columns if any(column.key in row for row in rows)]
    lines = [[_cell(row, column) for column in there] for row in rows]
    return Table([(column.title, column.is_number) for column in there], lines)


def _cell(row: Row, column: _Column) -> Cell:
    return Cell(column.show(row), row[column.key]) if column.key in row else Cell("", None)


def _with_derived(row: Row) -> Row:
    derived = {**row, "_depth": total_depth(row)}
    for key in ("p_value", "p_holm"):  # sorted by the corrected one, where there is one
        if key in row:
            derived["_p"] = row[key]
    return derived


def _p_and_holm(row: Row) -> str:
    shown = []
    if "p_value" in row:
        shown.append(_probability(row["p_value"]))
    if "p_holm" in row:
        shown.append(f"({_probability(row['p_holm'])})")
    return " ".join(shown)


def _probability(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _latency(row: Row) -> str:
    quartiles = [f"{ms:.1f}" for ms in row.get("latency_ms_quartiles", [])]
    return f"{row['latency_ms']:.1f}" + (f" ({'–'.join(quartiles)})" if quartiles else "")


_COLUMNS = (
    _text("model", "curve"),
    _Column("layers", "_depth", depth_label),
    _text("plan", "plan"),
    _number("LayerDrop rate", "rate", "{:g}"),
    _number("parameters", "parameters", "{:,}"),
    _number("seeds", "seeds", "{}"),
    _number("BLEU", "bleu", "{:.1f}"),
    _number("chrF", "chrf", "{:.1f}"),
    _number("ROUGE-1", "rouge1", "{:.2f}"),
    _number("ROUGE-2", "rouge2", "{:.2f}"),
    _number("ROUGE-L", "rougeL", "{:.2f}"),
    _number("accuracy (%)", "accuracy", "{:.1f}"),
    _number("loss (bits/token)", "loss", "{:.3f}"),
    _number("perplexity", "ppl", "{:.2f}"),
    _Column("p (Holm)", "_p", _p_and_holm),
    _number("sentences/s", "sentences_per_second", "{:.1f}"),
    _number("tokens/s", "tokens_per_second", "{:,.0f}"),
    _Column("latency in ms (quartiles)", "latency_ms", _latency),
    _Column("memory (MB)", "memory_bytes", lambda row: f"{row['memory_bytes'] / 1e6:,.0f}"),
)
_IMPORTANCE = (
    _text("model", "curve"),
    _text("stack", "stack"),
    _number("layer", "layer", "{}"),
    _text("measure", "measure"),
    _number("importance", "value", "{:.4g}"),
    _number("standard error", "error", "{:.2g}"),
)
_TRAININGS = (
    _text("training", "run"),
    _number("updates", "updates", "{:,}"),
    _Column("minutes", "seconds", lambda row: f"{row['seconds'] / 60:.1f}"),
    _number("valid loss (bits/token)", "valid_loss", "{:.3f}"),
    _text("machine", "machine"),
    _text("commit", "commit"),
)
_FAMILIES = (
    _text("family", "curve"),
    _number("models", "models", "{}"),
    _number("trainings", "trainings", "{}"),
    _number("cost", "cost", "{:.2f}"),
    _number("BLEU, mean", "bleu", "{:.1f}"),
    _number("ROUGE-L, mean", "rougeL", "{:.2f}"),
    _number("accuracy, mean (%)", "accuracy", "{:.1f}"),
    _number("loss, mean (bits/token)", "loss", "{:.3f}"),
    _text("machine", "machine"),
    _text("commit", "commit"),
)
