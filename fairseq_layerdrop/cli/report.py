# SPDX-License-Identifier: MIT
"""``fairseq-layerdrop report``: rows of results as a table and a figure."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

SUMMARY = "draw rows of results: a Markdown table, and quality against depth as PNG and SVG"
EXAMPLE = "fairseq-layerdrop report rows.jsonl results/"


def add_arguments(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("rows", metavar="ROWS", nargs="+", help="rows of results (JSON Lines); each model is a curve")
    parser.add_argument("folder", metavar="OUT", help="where table.md, figure.png and figure.svg go; made if need be")
    parser.add_argument("--title", default="", help="the figure's title")


def run(args: Namespace) -> None:
    """Run the verb."""
    from fairseq_layerdrop.evaluation.report import check_rows, draw, markdown
    from fairseq_layerdrop.evaluation.rows import read_rows

    rows = read_rows(args.rows)
    check_rows(rows)
    folder = Path(args.folder)
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / "table.md"
    table.write_text(markdown(rows), encoding="utf-8")
    for file in (table, *draw(rows, folder / "figure", title=args.title)):
        print(file)
