# SPDX-License-Identifier: MIT
"""Rows: written one by one, read back, recognised by signature."""

from pathlib import Path

import pytest

from fairseq_layerdrop.evaluation.rows import append_row, has_row, read_rows


def test_rows_come_back_in_order_from_several_files(tmp_path: Path) -> None:
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    for file, bleu in ((one, 1.0), (one, 2.0), (two, 3.0)):
        append_row(file, {"bleu": bleu, "plan": "all/0,2,4 – ü"})
    assert [row["bleu"] for row in read_rows([one, two])] == [1.0, 2.0, 3.0]
    assert read_rows([two])[0]["plan"] == "all/0,2,4 – ü"


@pytest.mark.parametrize("line", ["not json", "[1, 2]", "3"])
def test_a_line_that_is_no_object_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"bleu": 1}\n' + line + "\n")
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 2: a row is a JSON object"):
        read_rows([file])


def test_a_row_is_known_by_its_whole_signature() -> None:
    rows = [{"signature": {"checkpoint": "a", "beam": 5}}]
    assert has_row(rows, {"beam": 5, "checkpoint": "a"})
    assert not has_row(rows, {"beam": 4, "checkpoint": "a"})


def test_a_line_ends_only_where_json_lines_end(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    for _ in range(2):
        append_row(file, {"curve": "a\u2028b\x85c"})
    assert [row["curve"] for row in read_rows([file])] == ["a\u2028b\x85c"] * 2


def test_bytes_that_are_no_text_are_refused_by_the_file_s_name(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'{"a": "\xff"}\n')
    with pytest.raises(ValueError, match=r"rows\.jsonl: rows are JSON Lines in UTF-8, got other bytes at 7"):
        read_rows([file])
