# SPDX-License-Identifier: MIT
"""Tables and figures are views of the rows, made by the command."""

import json
from pathlib import Path

import pytest

from fairseq_layerdrop.cli import main
from fairseq_layerdrop.evaluation.report import draw, markdown


def row(curve: str, encoder: int, decoder: int, bleu: float, **more: object) -> dict[str, object]:
    return {"curve": curve, "encoder_layers": encoder, "decoder_layers": decoder, "bleu": bleu, **more}


ROWS = [
    row("LayerDrop", 6, 1, 20.0, metrics={"bleu": "nrefs:1|v:2"}),
    row("LayerDrop", 6, 6, 36.94, parameters=1234567, metrics={"bleu": "nrefs:1|v:2"}),
    row("LayerDrop", 3, 6, 35.0, metrics={"bleu": "nrefs:1|v:2"}),
    row("plain", 6, 6, 37.0, metrics={"bleu": "nrefs:1|v:2"}),
]


def test_the_table_has_every_row_deepest_first_and_the_signature_once() -> None:
    lines = markdown(ROWS).splitlines()
    assert [line.split("|")[2].strip() for line in lines[2:6]] == ["6+6", "6+1", "3+6", "6+6"]
    assert "| LayerDrop | 6+6 | 1,234,567 | 36.9 |" in lines
    assert lines[-1] == "- bleu: nrefs:1|v:2" and lines.count(lines[-1]) == 1


def test_the_command_writes_table_and_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(r) + "\n" for r in ROWS))
    assert main(["report", str(rows), str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.split() == [
        str(tmp_path / "out" / name) for name in ("table.md", "figure.png", "figure.svg")
    ]
    assert (tmp_path / "out/figure.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "out/figure.svg").read_text().count("LayerDrop") >= 1


def test_the_same_rows_give_the_same_picture(tmp_path: Path) -> None:
    one, two = (draw(ROWS, tmp_path / name)[1].read_bytes() for name in ("a", "b"))
    assert one == two


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "there are no rows"),
        ('{"curve": "a", "bleu": 3}\n', "some lack decoder_layers, encoder_layers"),
        ("nonsense\n", "line 1: a row is a JSON object"),
    ],
)
def test_rows_that_cannot_be_shown_are_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, message: str
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(content)
    assert main(["report", str(rows), str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
