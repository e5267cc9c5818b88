# SPDX-License-Identifier: MIT
"""A report as one self-contained page, which fetches nothing."""

import re
from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from html import escape

from fairseq_layerdrop.reporting.figures import Drawing
from fairseq_layerdrop.reporting.tables import Cell, Table

_NAME = "fairseq-layerdrop report"
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
body { color: #111; background: #fff }
.wide { overflow-x: auto }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .6rem; border-bottom: 1px solid #ccc; text-align: left; white-space: nowrap }
td.number, th.number { text-align: right }
th button { font: inherit; font-weight: bold; color: inherit; background: none; border: 0; padding: 0; cursor: pointer }
th button::after { content: " ↕"; color: #767676 }
th[aria-sort=ascending] button::after { content: " ↑"; color: inherit }
th[aria-sort=descending] button::after { content: " ↓"; color: inherit }
:focus-visible { outline: 3px solid #06c; outline-offset: 2px }
tbody tr:hover { background: #f3f3f3 }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(28rem, 100%), 1fr)); gap: 2rem }
figure { margin: 0 }
figure svg { max-width: 100%; height: auto }
li { overflow-wrap: anywhere }
"""
# A click on a header sorts its table, ascending, then descending; empty cells stay at the end.
# The sort is stable, so that one can sort by one column and then by another.
_SCRIPT = """
"use strict";
const compare = (a, b, numbers) => numbers ? a - b : a.localeCompare(b, "en", { numeric: true });
for (const table of document.querySelectorAll("table")) {
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, column) => header.firstElementChild.addEventListener("click", () => {
    const up = header.getAttribute("aria-sort") !== "ascending";
    const numbers = "numbers" in header.dataset;
    const value = (row) => row.cells[column].dataset.value;
    const rows = [...table.tBodies[0].rows];
    const empty = rows.filter((row) => value(row) === undefined);
    const full = rows.filter((row) => value(row) !== undefined);
    full.sort((a, b) => (up ? 1 : -1) * compare(value(a), value(b), numbers));
    table.tBodies[0].append(...full, ...empty);
    for (const other of headers) other.setAttribute("aria-sort", "none");
    header.setAttribute("aria-sort", up ? "ascending" : "descending");
  }));
}
"""


def page(
    tables: Sequence[Table], notes: Sequence[str], drawings: Sequence[Drawing], *, title: str = ""
) -> str:
    """The page: sortable tables, notes, and the figures inlined."""
    heading = escape(title or _NAME)
    # The policy allows only our script, by its hash, and no fetching, whatever the rows hold.
    script = b64encode(sha256(_SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{script}'"
    items = "".join(f"<li>{escape(note)}</li>\n" for note in notes)
    parts = [
        *("<!doctype html>", '<html lang="en">', '<meta charset="utf-8">'),
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        *(f"<title>{heading}</title>", f"<style>{_STYLE}</style>", "<main>", f"<h1>{heading}</h1>"),
        *('<div class="figures">', *map(_figure, drawings), "</div>"),
        *map(_table, tables),
        f"<ul>\n{items}</ul>" if notes else "",
        *("</main>", f"<script>{_SCRIPT}</script>"),
    ]
    return "\n".join(filter(None, parts)) + "\n"


def _table(table: Table) -> str:
    headers = "".join(_header(title, is_number) for title, is_number in table.titles)
    numbers = [is_number for _, is_number in table.titles]
    lines = ("".join(map(_cell, cells, numbers)) for cells in table.lines)
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    # Focusable, so that keyboard users can scroll a wide table.
    return (
        '<div class="wide" role="region" aria-label="results" tabindex="0"><table>\n'
        f"<thead><tr>{headers}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def _header(title: str, is_number: bool) -> str:
    kind = ' class="number" data-numbers' if is_number else ""
    return f'<th scope="col" aria-sort="none"{kind}><button type="button">{escape(title)}</button></th>'


def _cell(cell: Cell, is_number: bool) -> str:
    kind = ' class="number"' if is_number else ""
    value = "" if cell.value is None else f' data-value="{escape(str(cell.value))}"'
    return f"<td{kind}{value}>{escape(cell.text)}</td>"


def _figure(drawing: Drawing) -> str:
    caption = escape(drawing.caption)
    svg = _inlined(drawing.svg.decode(), drawing.name)
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{caption}" ', 1)
    return f"<figure>\n{svg}\n<figcaption>{caption}</figcaption>\n</figure>"


def _inlined(svg: str, name: str) -> str:
    """An SVG to inline: no XML prologue, no metadata, and identifiers unique within the page."""
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg ") :], flags=re.DOTALL)
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg).strip()
