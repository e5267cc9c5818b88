# SPDX-License-Identifier: MIT
"""``fairseq-layerdrop report``: rows of results as tables, figures and a page."""

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

SUMMARY = (
    "draw rows of results: a Markdown table, figures as PNG and SVG, and a page that holds both"
)
EXAMPLE = "fairseq-layerdrop report rows.jsonl results/"


def add_arguments(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "rows",
        metavar="ROWS",
        nargs="+",
        help="rows of results (JSON Lines); each model is a curve",
    )
    parser.add_argument(
        "folder",
        metavar="OUT",
        help="where table.md, report.html and the figures go (quality against depth, latency and "
        "rate; importance; the search's trials: those that the rows have numbers for); made if "
        "need be",
    )
    parser.add_argument(
        "--title", default="", help="the title of the page and the figures (default: none)"
    )


def run(args: Namespace) -> None:
    """Run the verb."""
    from fairseq_layerdrop.reporting.files import write_files
    from fairseq_layerdrop.reporting.intake import check_rows, sort_rows
    from fairseq_layerdrop.reporting.report import make_report
    from fairseq_layerdrop.reporting.rows import read_rows

    folder = Path(args.folder)
    if folder.is_file():
        raise ValueError(f"OUT, named last, must be a folder, got the file {folder}")
    files = {path: read_rows([path]) for path in args.rows}
    for path, found in files.items():
        check_rows(found, path)
    rows = sort_rows([row for found in files.values() for row in found])
    if rows.others:
        print(
            f"left out: rows of kind {', '.join(rows.others)}, which no report shows",
            file=sys.stderr,
        )
    for file in write_files(folder, make_report(rows, title=args.title)):
        print(file)
