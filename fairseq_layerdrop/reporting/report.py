# SPDX-License-Identifier: MIT
"""A report: rows to Markdown, figures and a page, without torch or a GPU."""

import re

from fairseq_layerdrop.reporting.figures import draw
from fairseq_layerdrop.reporting.intake import SortedRows, clean
from fairseq_layerdrop.reporting.page import page
from fairseq_layerdrop.reporting.tables import Table, notes, tables


def make_report(rows: SortedRows, *, title: str = "") -> dict[str, bytes]:
    """The files of a report by name. The same rows give the same bytes."""
    title = clean(title)
    drawings = draw(rows, title=title)
    files = {"table.md": markdown(rows).encode()}
    for drawing in drawings:
        files |= {f"{drawing.name}.png": drawing.png, f"{drawing.name}.svg": drawing.svg}
    return {**files, "report.html": page(tables(rows), notes(rows), drawings, title=title).encode()}


def markdown(rows: SortedRows) -> str:
    """The tables, deepest plan first within each model, and below them the notes."""
    parts = [_markdown_table(table) for table in tables(rows)]
    if under := [f"- {_escaped(note)}" for note in notes(rows)]:
        parts.append("\n".join(under))
    return "\n\n".join(parts) + "\n"


def _markdown_table(table: Table) -> str:
    lines = ["| " + " | ".join(title for title, _ in table.titles) + " |"]
    lines.append(
        "|" + "|".join(" ---: " if is_number else " --- " for _, is_number in table.titles) + "|"
    )
    for cells in table.lines:
        texts = (_escaped(cell.text).replace("|", "\\|") for cell in cells)
        lines.append("| " + " | ".join(texts) + " |")
    return "\n".join(lines)


def _escaped(text: str) -> str:
    """Text that no reader of Markdown takes for emphasis, a link, an image or HTML."""
    return re.sub(r"([\\`*\[\]]|<(?=[A-Za-z/!?])|&(?=[#\w]))", r"\\\1", text)
