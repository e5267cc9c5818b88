# SPDX-License-Identifier: MIT
"""What is published in results/ is what its rows say, and a figure's rows say what made them."""

import json
from pathlib import Path

import pytest

from fairseq_layerdrop.reporting.intake import check_rows, sort_rows
from fairseq_layerdrop.reporting.report import markdown

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
FIGURES = {script.stem for script in (ROOT / "scripts/figures").glob("*.sh")}
SEVERAL = {"multi30k/choosing": ("rows.jsonl", "trials.jsonl", "importance.jsonl")}
REPORTS = sorted(str(path.parent.relative_to(RESULTS)) for path in RESULTS.rglob("table.md"))


@pytest.mark.parametrize("folder", REPORTS)
def test_the_table_is_what_the_rows_say(folder: str) -> None:
    rows = []
    for name in SEVERAL.get(folder, ("rows.jsonl",)):
        rows += [
            json.loads(line)
            for line in (RESULTS / folder / name).read_text(encoding="utf-8").splitlines()
        ]
    check_rows(rows, folder)
    assert markdown(sort_rows(rows)) == (RESULTS / folder / "table.md").read_text(encoding="utf-8")
    # Of the others a page beside them says it.
    if {folder.split("/")[0], folder.replace("/", "_")} & FIGURES:
        assert [row for row in rows if not {"command", "commit", "machine"} <= row.keys()] == []
