# SPDX-License-Identifier: MIT
"""Beside ``export``: the benchmark of engines, and the program that translates."""

import json
import runpy
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Run
from fairseq.data import encoders
from fairseq_programs import REPOSITORY, python

from fairseq_layerdrop import cli

pytest.importorskip("ctranslate2")

TRANSLATE = str(REPOSITORY / "scripts" / "translate_ctranslate2.py")


@pytest.mark.slow
def test_the_benchmark_has_a_row_for_each_system_that_report_draws(
    data: Path, trained: Run, tmp_path: Path
) -> None:
    plans, counts = (
        ["all/all", "all/0,2"],
        ["--rounds", "2", "--singles", "2", "--beam", "2", "--max-len-b", "8"],
    )
    flags = [
        "--path",
        trained.last,
        "--reference",
        data.parent / "test.tgt",
        "--plans",
        " ".join(plans),
        *counts,
    ]
    flags += ["--transformers", "--sentences", "7"]
    file = tmp_path / "rows.jsonl"
    table = python("-m", "benchmarks.inference", data, *flags, "--rows", file)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    libraries = ["fairseq", "transformers", "CTranslate2"]
    engines = [*(f"{name} float32" for name in libraries), "CTranslate2 int8"]
    assert [(row["plan"], row["curve"]) for row in rows] == [
        (plan, engine) for plan in plans for engine in engines
    ]
    assert rows[0]["times"] == rows[0]["times_alone"] == [1, 1, 1]
    for row in rows:
        assert row["sentences"] == row["signature"]["sentences"] == 7
        assert row["same"] == 1 if "fairseq" in row["curve"] else 0 < row["same"] <= 1
        assert {"transformers", "ctranslate2"} < {*row["signature"]["versions"]}
    cells = [line.split(" | ") for line in table.splitlines() if line.startswith("| ")]
    assert [line[:2] for line in cells[2:]] == [[f"| {row['plan']}", row["curve"]] for row in rows]
    assert {len(line) for line in cells} == {9}
    assert cli.main(["report", str(file), str(tmp_path / "report")]) == 0
    assert {"table.md", "figure.png", "latency.png"} <= {
        path.name for path in (tmp_path / "report").iterdir()
    }


def test_text_is_translated_line_by_line(
    data: Path, pruned: Callable[..., Path], tmp_path: Path
) -> None:
    import ctranslate2
    import sentencepiece

    model = str(tmp_path / "out")
    assert cli.main(["export", str(pruned()), str(data), model, "--to", "ctranslate2"]) == 0
    # Pieces as the toy data has them: one letter each, without sentencepiece's sign for a blank.
    options = {
        "vocab_size": 20,
        "minloglevel": 2,
        "add_dummy_prefix": False,
        "hard_vocab_limit": False,
    }
    corpus = (
        line.replace(" ", "") for line in (data.parent / "train.src").read_text().splitlines()
    )
    prefix = str(tmp_path / "pieces")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=corpus, model_prefix=prefix, model_type="char", **options
    )
    lines = ["abc", "", "jihgfe"]
    command = [
        sys.executable,
        TRANSLATE,
        model,
        f"{prefix}.model",
        "--beam",
        "1",
        "--batch-size",
        "2",
    ]
    done = subprocess.run(
        command, input="\n".join(lines) + "\n", capture_output=True, text=True, check=True
    )
    found = done.stdout.split("\n")
    assert len(found) == len(lines) + 1
    sources = [[*line] for line in lines]
    expected = ctranslate2.Translator(model).translate_batch(
        sources, beam_size=1, max_decoding_length=200
    )
    assert found[:3] == ["".join(result.hypotheses[0]) for result in expected]


@pytest.mark.parametrize("moses", [True, False])
def test_subword_codes_are_used_as_fairseq_uses_them(tmp_path: Path, moses: bool) -> None:
    pytest.importorskip("subword_nmt")
    (tmp_path / "codes").write_text("#version: 0.2\nt h\nth e</w>\nd o\ndo g</w>\n")
    script = runpy.run_path(TRANSLATE)
    pieces = script["SubwordCodes"](str(tmp_path / "codes"), ["en", "de"] if moses else None)
    options = Namespace(bpe="subword_nmt", bpe_codes=str(tmp_path / "codes"), bpe_separator="@@")
    options.tokenizer, options.source_lang, options.target_lang = "moses", "en", "de"
    options.moses_no_dash_splits = options.moses_no_escape = False
    codes, words = encoders.build_bpe(options), encoders.build_tokenizer(options)
    for line in ('"The dog\'s well-known," she said & left.', "the dog", ""):
        expected = codes.encode(words.encode(line) if moses else line)
        assert pieces.encode(line) == expected.split()
        written = codes.decode(expected)
        assert pieces.decode(expected.split()) == (words.decode(written) if moses else written)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "name either SENTENCEPIECE or --bpe-codes"),
        (["m.model", "--bpe-codes", "codes"], "name either SENTENCEPIECE or --bpe-codes"),
        (["m.model", "--moses", "en", "de"], "--moses goes with --bpe-codes"),
        (["m.model", "--source", "__en__"], "--source must have the word PIECES once"),
        (["--bpe-codes", "no.codes"], "no.codes"),
    ],
)
def test_flags_of_the_translating_program_that_do_not_go_together(
    flags: list[str], words: str
) -> None:
    command = [sys.executable, TRANSLATE, "no", *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode != 0, done.stdout) == (True, "")
    assert words in done.stderr.splitlines()[-1]


def test_a_model_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, TRANSLATE, str(tmp_path / "no"), "no.model"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode != 0, done.stdout, done.stderr.count("\n")) == (True, "", 1)
