# SPDX-License-Identifier: MIT
"""Rows into a Markdown table and a figure, without torch and without a GPU.

A row needs ``curve`` (the name of the model it belongs to), ``encoder_layers``, ``decoder_layers`` and
``bleu``; what else the table knows is shown where it is there.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fairseq_layerdrop.evaluation.rows import Row

_NEEDED = ("curve", "encoder_layers", "decoder_layers", "bleu")
_COLUMNS = (
    ("model", "curve", "{}"),
    ("layers", "_layers", "{}"),
    ("plan", "plan", "{}"),
    ("parameters", "parameters", "{:,}"),
    ("BLEU", "bleu", "{:.1f}"),
    ("chrF", "chrf", "{:.1f}"),
    ("sentences/s", "sentences_per_second", "{:.1f}"),
)
_MARKS = (("o", "-"), ("s", "--"), ("^", ":"), ("D", "-."))  # told apart without colour


def check_rows(rows: Sequence[Row]) -> None:
    """Refuse rows that cannot be shown, all in one message."""
    if not rows:
        raise ValueError("there are no rows to report")
    lacking = {key for row in rows for key in _NEEDED if key not in row}
    if lacking:
        raise ValueError(f"every row must have {', '.join(_NEEDED)}; some lack {', '.join(sorted(lacking))}")


def markdown(rows: Sequence[Row]) -> str:
    """The table, deepest plan first within each model, and the signatures of its numbers below."""
    shown = [{"_layers": f"{row['encoder_layers']}+{row['decoder_layers']}", **row} for row in _in_order(rows)]
    columns = [column for column in _COLUMNS if any(column[1] in row for row in shown)]
    lines = ["| " + " | ".join(title for title, _, _ in columns) + " |"]
    lines.append("|" + "|".join(" --- " if form == "{}" else " ---: " for _, _, form in columns) + "|")
    for row in shown:
        cells = [form.format(row[key]) if key in row else "" for _, key, form in columns]
        lines.append("| " + " | ".join(cells) + " |")
    signatures = sorted({f"{name}: {text}" for row in rows for name, text in row.get("metrics", {}).items()})
    return "\n".join([*lines, "", *(f"- {signature}" for signature in signatures)]) + "\n"


def draw(rows: Sequence[Row], target: Path, *, title: str = "") -> list[Path]:
    """BLEU against the layers of the decoder, for the rows whose encoder is whole: the paper's Figure 2.

    Returns the files written: ``target`` with the endings ``.png`` and ``.svg``.
    """
    try:
        import matplotlib
    except ImportError:
        raise ValueError("a figure needs matplotlib: pip install 'fairseq-layerdrop[report]'") from None
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "fairseq-layerdrop"  # the same rows give the same file
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.8), layout="constrained")
    deepest = max(row["encoder_layers"] for row in rows)
    for (marker, line), (curve, points) in zip(_MARKS * len(rows), _curves(rows, deepest).items(), strict=False):
        axes.plot(*zip(*points, strict=True), marker=marker, linestyle=line, label=curve)
    axes.set_xlabel("layers kept in the decoder")
    axes.set_ylabel("BLEU")
    axes.invert_xaxis()
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    axes.set_title(title)
    files = [target.with_suffix(ending) for ending in (".png", ".svg")]
    for file in files:
        figure.savefig(file, dpi=160, metadata={"Date": None} if file.suffix == ".svg" else {})
    pyplot.close(figure)
    return files


def _curves(rows: Sequence[Row], encoder_layers: int) -> dict[str, list[tuple[Any, ...]]]:
    curves: dict[str, list[tuple[Any, ...]]] = {}
    for row in _in_order(rows):
        if row["encoder_layers"] == encoder_layers:
            curves.setdefault(row["curve"], []).append((row["decoder_layers"], row["bleu"]))
    return curves


def _in_order(rows: Sequence[Row]) -> list[Row]:
    names = list(dict.fromkeys(row["curve"] for row in rows))
    return sorted(rows, key=lambda r: (names.index(r["curve"]), -r["encoder_layers"], -r["decoder_layers"]))
