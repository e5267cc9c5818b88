# SPDX-License-Identifier: MIT
"""Rows: written as they come, read back, recognised by signature; other files untouched."""

from pathlib import Path

import pytest

from fairseq_layerdrop.reporting.rows import RowFile, read_rows


def row(bleu: float, **signature: object) -> dict[str, object]:
    return {"bleu": bleu, "plan": "all/0,2,4 – ü", "signature": signature}


def test_rows_come_back_in_order_from_several_files(tmp_path: Path) -> None:
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    for file, bleus in ((one, (1.0, 2.0)), (two, (3.0,))):
        RowFile(file).add(row(bleu) for bleu in bleus)
    assert [each["bleu"] for each in read_rows([one, two])] == [1.0, 2.0, 3.0]
    assert read_rows([two])[0]["plan"] == "all/0,2,4 – ü"


@pytest.mark.parametrize("line", ["not json", "[1, 2]", "3"])
def test_a_line_that_is_no_object_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"bleu": 1}\n' + line + "\n")
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 2: a row is a JSON object"):
        read_rows([file])


def test_a_row_is_known_by_its_whole_signature(tmp_path: Path) -> None:
    rows = RowFile(tmp_path / "rows.jsonl")
    rows.add([row(1.0, checkpoint="a", beam=5)])
    rows.close()
    again = RowFile(tmp_path / "rows.jsonl")
    for known in (rows, again):
        assert known.find({"beam": 5, "checkpoint": "a"}) == row(1.0, checkpoint="a", beam=5)
        assert known.find({"beam": 4, "checkpoint": "a"}) is None
        assert known.find({"checkpoint": "a"}) is None


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_what_a_killed_run_left_of_a_row_is_cut_off(tmp_path: Path, cut: int) -> None:
    file = tmp_path / "rows.jsonl"
    RowFile(file).add([row(1.0, n=1), row(2.0, n=2)])
    first, second = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(first + second[:-cut])
    rows = RowFile(file)
    kept = [1.0, 2.0] if cut == 1 else [1.0]  # only the end of the line was lost
    assert [each["bleu"] for each in rows.rows] == kept
    rows.add([row(3.0, n=3)])
    assert [each["bleu"] for each in read_rows([file])] == [*kept, 3.0]


@pytest.mark.parametrize(
    "content", [b"\x80\x02}q", b"# notes\n- one\n", b"PK\x03\x04\n\n\xff", b"text", b"[1]"]
)
def test_a_file_of_something_else_is_refused_and_left_as_it_is(
    tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "other"
    file.write_bytes(content)
    with pytest.raises(ValueError, match="other"):
        RowFile(file)
    assert file.read_bytes() == content


def test_two_writers_of_one_file_are_refused_until_the_first_is_done(tmp_path: Path) -> None:
    with (
        RowFile(tmp_path / "rows.jsonl") as first,
        pytest.raises(ValueError, match="another process is adding rows"),
    ):
        RowFile(tmp_path / "rows.jsonl")
    RowFile(tmp_path / "rows.jsonl")
    assert first.rows == []


def test_a_line_ends_only_where_json_lines_end(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    RowFile(file).add([{"curve": "a\u2028b\x85c"}] * 2)
    assert [row["curve"] for row in read_rows([file])] == ["a\u2028b\x85c"] * 2


def test_bytes_that_are_no_text_are_refused_by_the_file_s_name(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'{"a": "\xff"}\n')
    with pytest.raises(
        ValueError, match=r"rows\.jsonl: rows are JSON Lines in UTF-8, got other bytes at 7"
    ):
        read_rows([file])
