# SPDX-License-Identifier: MIT
"""The recipes of scripts/: each step runs after the one before, with real commands."""

import gzip
import importlib.util
import io
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from unittest import mock

import pytest
import sacrebleu.sacrebleu
from fairseq_programs import REPOSITORY
from recipes import PARSED, SCRIPTS, Bench, parse

# Each recipe's steps as a user takes them; DATA is his, WORK the steps'.
STEPS = {
    "multi30k": [
        *(
            "1_prepare DATA WORK",
            "2_train layerdrop WORK",
            "2_train plain WORK",
            "3_prune WORK",
            "4_evaluate WORK OUT",
        ),
        "5_choose WORK OUT",
    ],
    "wmt16_en_de": [
        *(
            "1_prepare DATA WORK",
            "2_train 6_6 WORK",
            "2_train 12_6 WORK",
            "3_average 12_6 WORK",
            "4_prune 12_6 WORK",
        ),
        "5_generate 12_6 WORK",
    ],
    "iwslt14_de_en": ["1_prepare DATA WORK", "2_train WORK", "3_prune WORK", "4_generate WORK"],
    "cnn_dm": [
        *(
            "1_prepare DATA WORK",
            "2_train 6_6 WORK",
            "2_train 6_8 WORK",
            "3_prune 6_8 WORK",
            "4_generate 6_8 WORK",
        ),
    ],
    "wikitext_103": [
        *(
            "1_prepare DATA WORK",
            "2_train 16 WORK",
            "2_train 40 WORK",
            "3_prune 40 WORK",
            "4_evaluate 40 WORK",
        ),
    ],
    "roberta": [
        "1_prepare DATA WORK",
        "2_train base WORK",
        "2_train large WORK",
        "2_train large_48 WORK",
    ],
    "glue": [
        *(
            "1_prepare DATA WORK",
            "2_prune DATA/model.pt WORK",
            "3_finetune MNLI 6 WORK",
            "3_finetune QNLI 3 WORK",
        ),
        *(
            "3_finetune SST-2 12 WORK",
            "3_finetune MRPC 6 WORK",
            "4_score MNLI WORK",
            "4_score MRPC WORK",
        ),
    ],
    "eli5": ["1_prepare DATA WORK", "2_train WORK", "3_prune WORK", "4_generate WORK"],
}
FILES = sorted(
    f"{recipe}/{path.name}" for recipe in STEPS for path in (SCRIPTS / recipe).glob("*.sh")
)
WORDS = "one well-known word\n" * 30


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A folder with all that the recipes download, or take from the user."""
    bench = Bench(tmp_path)
    served, data = tmp_path / "served", tmp_path / "DATA"
    for name in ("encoder.json", "vocab.bpe", "dict.txt"):
        (served / name).write_text("x\n")
    with zipfile.ZipFile(served / "wikitext-103-v1.zip", "w") as archive:
        for split in ("train", "valid", "test"):
            archive.writestr(f"wikitext-103/wiki.{split}.tokens", WORDS)
    sides = ("en", "de")
    wmt = ("train.tok.clean.bpe.32000", "newstest2013.tok.bpe.32000", "newstest2014.tok.bpe.32000")
    write_tar(
        served / "wmt16_en_de.tar.gz", {f"{name}.{side}": WORDS for name in wmt for side in sides}
    )
    talks = ("TED.dev2010", "TEDX.dev2012", "TED.tst2010", "TED.tst2011", "TED.tst2012")
    iwslt = {
        f"train.tags.de-en.{side}": f"<url>u</url>\n<title>t</title>\n{WORDS}" for side in sides
    }
    iwslt |= {
        f"IWSLT14.{talk}.de-en.{side}.xml": '<mt>\n<seg id="1"> a ’b </seg>\n'
        for talk in talks
        for side in sides
    }
    write_tar(served / "de-en.tgz", {f"de-en/{name}": text for name, text in iwslt.items()})

    own = [f"{split}.{side}" for split in ("train", "val", "test") for side in ("source", "target")]
    own += [
        f"{split}.qd_{side}_bpe"
        for split in ("train", "valid", "test")
        for side in ("source", "target")
    ]
    own += ["train.txt", "valid.txt", "model.pt"]
    own += [
        f"{task}/{split}.tsv" for task in ("QNLI", "SST-2", "MRPC") for split in ("train", "dev")
    ]
    own += [f"MNLI/{split}.tsv" for split in ("train", "dev_matched", "dev_mismatched")]
    for name in own:
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        columns = "\t".join(f"column {i}" for i in range(1, 17)) + "\n"
        (data / name).write_text(columns * 3 if name.endswith(".tsv") else WORDS)
    for split in ("train", "valid", "test2016", "test2017", "test2017mscoco"):
        for side in sides:
            (data / f"{split}.{side}.gz").write_bytes(gzip.compress(WORDS.encode()))
    return bench


def write_tar(path: Path, files: dict[str, str]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            about = tarfile.TarInfo(name)
            about.size = len(text.encode())
            archive.addfile(about, io.BytesIO(text.encode()))


def step(bench: Bench, script: str, *arguments: str, **environment: str) -> str:
    """Run a step that must succeed; return what it printed on stdout."""
    done = bench.run(script, *arguments, **environment)
    assert done.returncode == 0, (
        f"{script} {' '.join(arguments)}\n{done.stdout[-1000:]}{done.stderr[-2000:]}"
    )
    return done.stdout


# The steps


def test_every_recipe_is_known_to_these_tests() -> None:
    numbered = {path.parent.name for path in SCRIPTS.glob("*/1_*.sh")}
    assert numbered == set(STEPS)
    assert {
        f"{recipe}/{line.split()[0]}.sh" for recipe, lines in STEPS.items() for line in lines
    } == set(FILES)


@pytest.mark.parametrize("recipe", STEPS)
def test_every_step_finds_what_the_one_before_it_left_and_every_command_parses(
    recipe: str, bench: Bench
) -> None:
    for line in STEPS[recipe]:
        name, *arguments = line.split()
        step(bench, f"{recipe}/{name}.sh", *arguments)
    parsed = [command for command in bench.calls() if command[0] in PARSED]
    assert {command[0] for command in parsed} >= {"fairseq-preprocess", "fairseq-train"}
    for command in parsed:
        parse(command)
    for _, *arguments in bench.calls("sacrebleu"):
        with mock.patch.object(sys, "argv", ["sacrebleu", *arguments]):
            sacrebleu.sacrebleu.parse_args()
    for _, first, *arguments in bench.calls("python"):
        assert importlib.util.find_spec(arguments[0]) if first == "-m" else Path(first).is_file()


@pytest.mark.parametrize("script", FILES)
def test_a_step_is_short_and_without_logic(script: str) -> None:
    lines = (SCRIPTS / script).read_text(encoding="utf-8").splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert "set -euo pipefail" in lines
    assert len(lines) <= 40
    assert not [line for line in lines if re.match(r"\s*(if|case|while|until)\b", line)]


TRAININGS = sorted(
    (recipe, line) for recipe, lines in STEPS.items() for line in lines if "2_train" in line
)


@pytest.mark.parametrize(("recipe", "line"), [pair for pair in TRAININGS if pair[0] != "multi30k"])
def test_the_rate_is_the_user_s_and_so_is_the_last_word(
    recipe: str, line: str, bench: Bench
) -> None:
    (bench.folder / "WORK" / "data-bin").mkdir(parents=True)
    name, *arguments = line.split()
    step(bench, f"{recipe}/{name}.sh", *arguments)
    step(bench, f"{recipe}/{name}.sh", *arguments, "--update-freq", "5", LAYERDROP="0.35")
    paper, own = (vars(parse(command)) for command in bench.calls("fairseq-train"))
    stacks = [key for key in ("encoder_layerdrop", "decoder_layerdrop") if key in paper]
    assert stacks
    assert {paper[key] for key in stacks} == {0.5 if "48" in line else 0.2}
    assert {own[key] for key in stacks} == {0.35}
    assert own["update_freq"] == [5]


@pytest.mark.parametrize("size", ["base", "large", "large_48"])
def test_roberta_s_batch_is_the_paper_s(size: str, bench: Bench) -> None:
    (bench.folder / "WORK" / "data-bin").mkdir(parents=True)
    step(bench, "roberta/2_train.sh", size, "WORK")
    (command,) = bench.calls("fairseq-train")
    flags = parse(command)
    assert 8 * flags.batch_size * flags.update_freq[0] == 8192


def test_glue_splits_the_columns_of_each_task(bench: Bench) -> None:
    step(bench, "glue/1_prepare.sh", "DATA", "WORK")
    text = bench.folder / "WORK" / "text"
    assert (text / "MNLI.train.label").read_text() == "column 12\n" * 2
    assert (text / "MNLI.dev_matched.label").read_text() == "column 16\n" * 2
    assert (text / "QNLI.dev.3").read_text() == "column 3\n" * 2
    assert {
        Path(call[call.index("--destdir") + 1]).name for call in bench.calls("fairseq-preprocess")
    } == {*("input0", "input1", "label")}


def test_iwslt_14_keeps_every_23rd_line_for_validation_and_joins_the_five_test_sets(
    bench: Bench,
) -> None:
    step(bench, "iwslt14_de_en/1_prepare.sh", "DATA", "WORK")
    text = bench.folder / "WORK" / "text"
    lines = {
        name: (text / f"{name}.de").read_text().splitlines() for name in ("train", "valid", "test")
    }
    assert {name: len(found) for name, found in lines.items()} == {
        "train": 30,
        "valid": 1,
        "test": 5,
    }  # 30 and a title
    assert (lines["train"][0], lines["test"][0]) == ("t", "a 'b")


# Scores


def test_compounds_are_split_in_translation_and_reference(bench: Bench) -> None:
    for line in STEPS["wmt16_en_de"]:
        name, *arguments = line.split()
        printed = step(bench, f"wmt16_en_de/{name}.sh", *arguments)
    # One pass, as in fairseq's script: what a match has eaten can begin no other.
    split = "b\na well ##AT##-##AT## known a ##AT##-##AT## b-c\n"
    assert (bench.folder / "WORK/pruned/12_6.decoder-all.sys").read_text() == split
    assert (bench.folder / "WORK/pruned/12_6.decoder-all.ref").read_text() == split
    labels = [
        line
        for line in printed.splitlines()
        if line.startswith("WORK/pruned/12_6.decoder-even-4.pt")
    ]
    assert len(labels) == 2
    assert "compounds split" in labels[0]
    assert "sacreBLEU" in labels[1]


@pytest.mark.parametrize("end", ["", "H-1\t-0.2\tnothing right\n"], ids=["unfinished", "finished"])
def test_rouge_is_of_all_texts(end: str, tmp_path: Path) -> None:
    generated = tmp_path / "model.gen"
    generated.write_text("T-1\tso it goes\nT-0\tthe cat sat\nH-0\t-0.1\tthe cat sat\n" + end)
    command = [sys.executable, str(SCRIPTS / "score_rouge.py"), str(generated)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == (0 if end else 2)
    assert (
        "rouge1 50.00 rouge2 50.00 rougeL 50.00 (2 texts, F1|stemmer:yes" in done.stdout
    ) == bool(end)
    assert (done.stdout + done.stderr).count("\n") == 1


# Downloads


def test_a_download_is_held_to_its_first_checksum(bench: Bench) -> None:
    address, file = "https://example.org/de-en.tgz", bench.folder / "DATA" / "de-en.tgz"
    for _ in range(2):
        step(bench, "fetch.sh", address, str(file))
    assert len(bench.calls("curl")) == 1
    assert (file.parent / "de-en.tgz.sha256").read_text().endswith("  de-en.tgz\n")
    file.write_bytes(b"another")
    done = bench.run("fetch.sh", address, file)
    assert done.returncode == 2
    assert "de-en.tgz is not what was first downloaded" in done.stderr
    file.unlink()  # what the message advises
    step(bench, "fetch.sh", address, str(file))


@pytest.mark.parametrize("name", ["de-en.tgz", "wmt16_en_de.tar.gz", "wikitext-103-v1.zip"])
def test_a_web_page_in_the_place_of_an_archive_is_refused_and_leaves_no_checksum(
    name: str, bench: Bench
) -> None:
    (bench.folder / "served" / name).write_text("<html>Are you sure?</html>")
    done = bench.run("fetch.sh", f"https://example.org/{name}", f"DATA/{name}")
    assert done.returncode == 2
    assert "no archive" in done.stderr
    left = [path.name for path in (bench.folder / "DATA").glob(f"{name}*")]
    assert left == [f"{name}.part"]  # to look at


def test_files_of_the_user_s_are_held_to_the_first_run(bench: Bench) -> None:
    for _ in range(2):
        step(bench, "record.sh", "DATA", "train.txt", "valid.txt")
    (bench.folder / "DATA" / "valid.txt").write_text("changed\n")
    done = bench.run("record.sh", "DATA", "train.txt", "valid.txt")
    assert done.returncode == 2
    assert "not those of the first run" in done.stderr
