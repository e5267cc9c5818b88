# SPDX-License-Identifier: MIT
"""Tables, figures and pages are views of the rows, made by the command."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fairseq_layerdrop.cli import main
from fairseq_layerdrop.reporting.intake import sort_rows
from fairseq_layerdrop.reporting.report import make_report, markdown

Row = dict[str, Any]


def row(curve: str, encoder: int, decoder: int, bleu: float, **more: object) -> Row:
    return {
        "curve": curve,
        "encoder_layers": encoder,
        "decoder_layers": decoder,
        "bleu": bleu,
        **more,
    }


def trial(decoder: int, loss: float, **more: object) -> Row:
    return {
        "kind": "trial",
        "plan": f"t{loss}",
        "encoder_layers": 6,
        "decoder_layers": decoder,
        "loss": loss,
        **more,
    }


ROWS = [
    row("LayerDrop", 6, 1, 20.0, metrics={"bleu": "nrefs:1|v:2"}),
    row("LayerDrop", 6, 6, 36.94, parameters=1234567, metrics={"bleu": "nrefs:1|v:2"}),
    row("LayerDrop", 3, 6, 35.0, metrics={"bleu": "nrefs:1|v:2"}),
    row("plain", 6, 6, 37.0, metrics={"bleu": "nrefs:1|v:2"}),
]
IMPORTANCE = {
    "kind": "importance",
    "curve": "a",
    "stack": "encoder",
    "layer": 3,
    "measure": "angular",
    "value": 0.25,
}
EVERY_KIND = [
    *(
        row(
            "a",
            6,
            d,
            30.0 + d,
            rate=0.1,
            latency_ms=10.0 * d,
            latency_ms_quartiles=[9.0 * d, 11.0 * d],
        )
        for d in (3, 6)
    ),
    *(row("b", 6, d, 31.0 + d, rate=0.5, latency_ms=11.0 * d) for d in (3, 6)),
    IMPORTANCE,
    trial(3, 5.0),
]
FIGURES = ("figure", "latency", "importance", "rates", "search")


def written(path: Path, rows: list[Row]) -> str:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return str(path)


def test_trainings_have_a_table_below_and_are_no_report_by_themselves(tmp_path: Path) -> None:
    training = {
        "kind": "training",
        "run": "p0.2-s1",
        "updates": 3060,
        "seconds": 930,
        "valid_loss": 7.9,
        "commit": "abc",
    }
    found = markdown(sort_rows([*ROWS, training])).split("\n\n")[1].splitlines()
    assert found[0] == "| training | updates | minutes | valid loss (bits/token) | commit |"
    assert found[2:] == ["| p0.2-s1 | 3,060 | 15.5 | 7.900 | abc |"]
    with pytest.raises(
        ValueError, match="there are no rows to report: need rows of kind plan, importance, trial"
    ):
        sort_rows([training])
    path = written(tmp_path / "rows.jsonl", [*ROWS, {"kind": "training", "run": "x"}])
    assert main(["report", path, str(tmp_path / "OUT")]) == 2


def test_families_have_a_table_below() -> None:
    family = {"kind": "family", "curve": "a", "cost": 2.04, "trainings": 1, "models": 6, "bleu": 30}
    found = markdown(sort_rows([*ROWS, family])).split("\n\n")[1].splitlines()
    assert found[0] == "| family | models | trainings | cost | BLEU, mean |"
    assert found[2:] == ["| a | 6 | 1 | 2.04 | 30.0 |"]


def body(rows: list[Row]) -> list[list[str]]:
    """The cells of the first table, titles first."""
    table = markdown(sort_rows(rows)).split("\n\n")[0].splitlines()
    cells = [
        [cell.strip() for cell in line.split(" | ")] for line in (line[2:-2] for line in table)
    ]
    return [cells[0], *cells[2:]]


def column(rows: list[Row], title: str) -> list[str]:
    titles, *lines = body(rows)
    return [line[titles.index(title)] for line in lines]


def test_the_table_has_every_row_deepest_first_and_the_signature_once() -> None:
    lines = markdown(sort_rows(ROWS)).splitlines()
    assert column(ROWS, "layers") == ["6+6", "6+1", "3+6", "6+6"]
    assert "| LayerDrop | 6+6 | 1,234,567 | 36.9 |" in lines
    assert lines[-1] == "- bleu: nrefs:1|v:2" and lines.count(lines[-1]) == 1


def test_a_column_is_there_only_where_some_row_has_it() -> None:
    assert body(ROWS)[0] == ["model", "layers", "parameters", "BLEU"]
    assert "chrF" in body([*ROWS, row("c", 1, 1, 1.0, chrf=2.0)])[0]
    assert "chrF" not in body([*ROWS, row("c", 1, 1, 1.0, chrf=None)])[0]


@pytest.mark.parametrize(
    ("more", "title", "text"),
    [
        ({"p_value": 0.01234, "p_holm": 0.05}, "p (Holm)", "0.012 (0.050)"),
        ({"p_value": 0.0001}, "p (Holm)", "<0.001"),
        ({"p_holm": 0.5}, "p (Holm)", "(0.500)"),
        (
            {"latency_ms": 12.34, "latency_ms_quartiles": [11, 13.06]},
            "latency in ms (quartiles)",
            "12.3 (11.0–13.1)",
        ),
        ({"latency_ms": 12.34}, "latency in ms (quartiles)", "12.3"),
        ({"memory_bytes": 1_234_567_890}, "memory (MB)", "1,235"),
        ({"rate": 0.2}, "LayerDrop rate", "0.2"),
        ({"loss": 4.5678, "ppl": 23.7}, "loss (bits/token)", "4.568"),
    ],
)
def test_what_stands_in_a_cell(more: Row, title: str, text: str) -> None:
    assert column([row("a", 6, 6, 30.0, **more)], title) == [text]


def test_a_one_stack_model_has_one_depth() -> None:
    assert column([{"curve": "lm", "decoder_layers": 8, "loss": 4.2}], "layers") == ["8"]


def test_of_the_trials_only_the_best_at_each_depth_is_in_the_table() -> None:
    rows = [trial(3, 5.5), trial(3, 5.0), trial(3, 5.2), trial(6, 4.0), trial(6, 4.1), *ROWS]
    assert [plan for plan in column([*rows, row("a", 1, 1, 0.0, plan="x")], "plan") if plan] == [
        "x",
        "t4.0",
        "t5.0",
    ]


def test_importance_has_a_table_of_its_own() -> None:
    text = markdown(sort_rows([IMPORTANCE, {**IMPORTANCE, "layer": 4, "error": 0.031}]))
    assert (
        "| a | encoder | 3 | angular | 0.25 |  |\n| a | encoder | 4 | angular | 0.25 | 0.031 |"
        in text
    )


def verdicts(rows: list[Row]) -> list[str]:
    return [line for line in markdown(sort_rows(rows)).splitlines() if "Holm-corrected" in line]


def test_the_smallest_depth_that_is_not_significantly_worse_is_named_for_each_curve() -> None:
    tested = [
        row("a", 6, d, 30.0 + d, plan=f"all/even:{d}", p_holm=p)
        for d, p in ((5, 0.9), (4, 0.05), (3, 0.049))
    ]
    rule = "smallest depth not significantly worse than the full model (Holm-corrected, 0.05)"
    assert verdicts([row("a", 6, 6, 36.0), *tested, row("b", 6, 6, 3.0)]) == [
        f"- a: {rule}: all/even:4, 6+4 layers"
    ]
    assert verdicts([row("a", 6, 6, 36.0), tested[-1]]) == [f"- a: {rule}: none of those tested"]


def test_a_stranger_s_text_is_no_markdown() -> None:
    text = markdown(sort_rows([row("<b>|a*\n`[x](y)\u202e", 6, 6, 1.0, metrics={"bleu": "<i>"})]))
    assert "| \\<b>\\|a\\* \\`\\[x\\](y) |" in text and "- bleu: \\<i>" in text


def test_the_command_writes_and_names_every_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [
        written(tmp_path / "one.jsonl", EVERY_KIND[:2]),
        written(tmp_path / "two.jsonl", EVERY_KIND[2:]),
    ]
    assert main(["report", *files, str(tmp_path / "out")]) == 0
    names = [
        "table.md",
        *(f"{name}.{end}" for name in FIGURES for end in ("png", "svg")),
        "report.html",
    ]
    captured = capsys.readouterr()
    assert (
        captured.out.split() == [str(tmp_path / "out" / name) for name in names]
        and not captured.err
    )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(names)
    assert (tmp_path / "out/figure.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_rows_give_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    code = (
        "import json, sys; from pathlib import Path; from fairseq_layerdrop.reporting import "
        "files, intake, report\n"
        "made = report.make_report(intake.sort_rows(json.load(sys.stdin)), title='t')\n"
        "files.write_files(Path(sys.argv[1]), made)"
    )
    for name in ("a", "b"):
        command = [sys.executable, "-c", code, str(tmp_path / name)]
        subprocess.run(command, input=json.dumps(EVERY_KIND), text=True, check=True)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert len(files) == 12
    assert [
        n for n in files if (tmp_path / "a" / n).read_bytes() != (tmp_path / "b" / n).read_bytes()
    ] == []


def test_neither_torch_nor_fairseq_is_needed(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules.update(torch=None, fairseq=None, omegaconf=None)\n"
        "from fairseq_layerdrop.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [
        sys.executable,
        "-c",
        code,
        "report",
        written(tmp_path / "rows.jsonl", EVERY_KIND),
        str(tmp_path / "out"),
    ]
    assert subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode == 0


def test_rows_of_other_kinds_are_left_out_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"kind": "zoo"}, *ROWS, {"kind": "prophecy"}, {"kind": "zoo"}]
    assert main(["report", written(tmp_path / "rows.jsonl", rows), str(tmp_path / "out")]) == 0
    assert (
        capsys.readouterr().err == "left out: rows of kind zoo, prophecy, which no report shows\n"
    )
    assert make_report(sort_rows(rows)) == make_report(sort_rows(ROWS))


PLAN = '{"curve": "a", "decoder_layers": 3, '


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "there are no rows"),
        ('{"kind": "zoo"}\n', "only zoo"),
        ("nonsense\n", "line 1: a row is a JSON object"),
        (
            '{"curve": "a", "bleu": 3}\n',
            "line 1: a row of kind plan must have encoder_layers or decoder_layers",
        ),
        ('{"decoder_layers": 3}\n', "it lacks curve"),
        (
            PLAN + '"bleu": 1}\n' + PLAN + '"bleu": "high"}\n',
            'line 2: bleu must be a finite number, got "high"',
        ),
        (
            PLAN + '"bleu": NaN}\n' + PLAN + '"loss": Infinity}\n',
            "line 1: bleu must be a finite number, got NaN (1 more",
        ),
        (PLAN + '"bleu": true}\n', "bleu must be"),
        ('{"curve": "a", "decoder_layers": 2.5}\n', "decoder_layers must be a whole number"),
        (
            '{"curve": "a", "decoder_layers": -1}\n',
            "decoder_layers must be a whole number, 0 or more, got -1",
        ),
        ('{"curve": "\\u0000", "decoder_layers": 1}\n', "curve must be a text that is not empty"),
        (
            PLAN + '"latency_ms_quartiles": [2, 1]}\n',
            "latency_ms_quartiles must be two numbers, the lower first",
        ),
        (PLAN + '"metrics": {"bleu": 1}}\n', "metrics must be"),
        ('{"kind": "importance", "curve": "a"}\n', "it lacks stack, layer, measure, value"),
        ('{"kind": "trial", "decoder_layers": 3}\n', "it lacks loss"),
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


def test_a_file_is_no_folder_to_write_into(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [written(tmp_path / name, ROWS) for name in ("one.jsonl", "two.jsonl")]
    assert main(["report", *files]) == 2
    assert f"OUT, named last, must be a folder, got the file {files[1]}" in capsys.readouterr().err


def test_without_matplotlib_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["report", written(tmp_path / "rows.jsonl", ROWS), str(tmp_path / "out")]) == 2
    assert "pip install 'fairseq-layerdrop[report]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
