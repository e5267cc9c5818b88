# SPDX-License-Identifier: MIT
"""The ends of the ranges: all layers dropped, half precision, sentences without a word."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import Command
from conftest import Run
from fairseq_programs import (
    LANGUAGES,
    STYLE,
    USER_DIR,
    fairseq,
    generate,
    logged,
    prune,
    train,
    weights,
)
from families import FAMILIES, OPTIMIZER, Family

from fairseq_layerdrop.checkpoint import load, save

OURS = {family.name: family for family in FAMILIES if family.ours}


# Every layer dropped


@pytest.mark.parametrize(
    ("name", "least"), [*((name, "0") for name in OURS), ("layerdrop_transformer", "1")]
)
def test_a_rate_of_one_trains_with_the_least_number_of_layers(
    name: str, least: str, data: Path, text_data: Path, tmp_path: Path
) -> None:
    family: Family = OURS[name]
    rates = [*("--encoder-layerdrop", "1.0") * ("--encoder-layerdrop" in family.model)]
    rates += [*("--decoder-layerdrop", "1.0") * ("--decoder-layerdrop" in family.model)]
    output = fairseq(
        "train",
        data if family.data == "pairs" else text_data,
        *("--user-dir", USER_DIR),
        *family.task,
        *family.model,
        *rates,
        *("--layerdrop-min-layers", least, "--max-update", "2"),
        *OPTIMIZER,
        "--no-save",
        *(
            "--disable-validation",
            "--no-progress-bar",
            "--log-format",
            "json",
            "--log-interval",
            "1",
        ),
    )
    steps = logged(output, "train_inner")
    assert len(steps) == 2
    for step in steps:
        kept = {name: float(value) for name, value in step.items() if name.endswith("_keep")}
        assert kept and set(kept.values()) == {int(least) / 4}
        assert float(step["loss"]) < 20 and float(step["gnorm"]) > 0


# Half precision


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_prune_and_zoo_keep_the_types_of_the_tensors(
    dtype: torch.dtype, trained: Run, data: Path, tmp_path: Path, command: Command
) -> None:
    """Also where they differ: the embeddings are in single precision here."""
    full = load(trained.last)
    types = {key: torch.float32 if "embed" in key else dtype for key in full["model"]}
    full["model"] = {key: tensor.to(types[key]) for key, tensor in full["model"].items()}
    save(full, tmp_path / "half.pt")
    half = weights(tmp_path / "half.pt")
    small = weights(prune(tmp_path / "half.pt", tmp_path / "small.pt", "--decoder-keep", "0,2"))
    assert {small[key].dtype for key in small if "embed" not in key} == {dtype}
    assert torch.equal(small["decoder.layers.1.fc1.weight"], half["decoder.layers.2.fc1.weight"])
    words = ["--path", tmp_path / "half.pt", "--points", "2+2", "--threads", "1"]
    assert command("zoo", data, tmp_path / "zoo", *words)[0] == 0
    for key, tensor in weights(tmp_path / "zoo" / "2+2.pt").items():
        assert tensor.dtype == types[key]
    status, _, error = command("average", tmp_path / "half.pt", trained.last, tmp_path / "mean.pt")
    assert status == 0, error
    mean, whole = weights(tmp_path / "mean.pt"), weights(trained.last)
    key = "decoder.layers.2.fc1.weight"
    assert mean[key].dtype == torch.float32
    assert torch.equal(mean[key], (half[key].float() + whole[key]) / 2), (
        "the sum is not rounded to half precision"
    )


# Sentences of one word, and of none


def with_gaps(folder: Path) -> Path:
    """The toy data with some empty sources and targets, an empty pair, and a single word."""
    for split in ("train", "valid", "test"):
        for language, empty in (("src", (1, 3)), ("tgt", (2, 3))):
            lines = (folder / f"{split}.{language}").read_text().splitlines()
            lines = [
                "" if i in empty else line.split()[0] if i == 4 else line
                for i, line in enumerate(lines)
            ]
            (folder / f"{split}.{language}").write_text("".join(f"{line}\n" for line in lines))
    prefixes = [
        item for split in ("train", "valid", "test") for item in (f"--{split}pref", folder / split)
    ]
    fairseq("preprocess", *LANGUAGES, "--joined-dictionary", "--destdir", folder / "bin", *prefixes)
    prefixes = [
        item
        for split in ("train", "valid", "test")
        for item in (f"--{split}pref", folder / f"{split}.src")
    ]
    fairseq("preprocess", "--only-source", "--destdir", folder / "text", *prefixes)
    return folder


@pytest.fixture(scope="module")
def gaps(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gaps")
    for path in data.parent.glob("*.???"):
        shutil.copy(path, folder)
    return with_gaps(folder)


@pytest.fixture(scope="module")
def of_gaps(gaps: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that was trained and validated on them."""
    folder = tmp_path_factory.mktemp("of_gaps")
    flags = [
        "--user-dir",
        USER_DIR,
        "--task",
        "layerdrop_translation",
        "--arch",
        "layerdrop_transformer",
        *STYLE,
    ]
    flags += [
        "--encoder-layers",
        "4",
        "--decoder-layers",
        "4",
        "--encoder-layerdrop",
        "0.5",
        "--decoder-layerdrop",
    ]
    output = train(
        gaps / "bin", folder, *flags, "0.5", "--max-update", "12", "--valid-plans", "2+2"
    )
    losses = [float(step["loss"]) for step in logged(output, "train_inner")]
    assert len(losses) == 12 and all(loss < 20 for loss in losses)
    assert float(logged(output, "valid")[-1]["valid_loss_2-2"]) < 20
    return folder / "checkpoint_last.pt"


def test_empty_sentences_are_translated_with_the_layers_that_stay(
    gaps: Path, of_gaps: Path
) -> None:
    flags = [
        "--user-dir",
        USER_DIR,
        "--task",
        "layerdrop_translation",
        "--encoder-keep",
        "0,2",
        "--max-len-b",
        "9",
    ]
    found = generate(gaps / "bin", of_gaps, *flags)
    assert sorted(found) == list(range(11))
    assert all(torch.tensor(scores).isfinite().all() for _, _, scores in found.values())


@pytest.mark.parametrize(
    ("verb", "flags"),
    [
        (
            "sweep",
            ["--points", "2+2", "--metrics", "loss,bleu,chrf", "--beam", "1", "--max-len-b", "9"],
        ),
        ("search", ["--encoder-depth", "2", "--decoder-depth", "3"]),
        ("importance", []),
        ("zoo", ["--points", "2+2"]),
    ],
)
def test_empty_sentences_are_scored(
    verb: str, flags: list[str], gaps: Path, of_gaps: Path, tmp_path: Path, command: Command
) -> None:
    status, _, error = command(
        verb, gaps / "bin", tmp_path / "out", "--path", of_gaps, "--threads", "1", *flags
    )
    assert status == 0, error
    file = tmp_path / "out"
    rows = [
        json.loads(line)
        for line in (file / "rows.jsonl" if file.is_dir() else file).read_text().splitlines()
    ]
    assert rows and "NaN" not in json.dumps(rows)
    if verb in ("sweep", "zoo"):
        assert {row["sentences"] for row in rows if "sentences" in row} == {
            11 if verb == "sweep" else 14
        }


def test_empty_lines_are_no_hindrance_to_a_language_model(
    gaps: Path, tmp_path: Path, command: Command
) -> None:
    family = OURS["layerdrop_transformer_lm"]
    words = [
        "--user-dir",
        USER_DIR,
        *family.task,
        *family.model,
        *OPTIMIZER,
        "--max-update",
        "4",
        "--save-dir",
    ]
    fairseq("train", gaps / "text", *words, tmp_path, "--no-progress-bar")
    status, _, error = command(
        "sweep",
        gaps / "text",
        tmp_path / "rows.jsonl",
        "--path",
        tmp_path / "checkpoint_last.pt",
        *("--points", "even:2", "--metrics", "loss", "--threads", "1"),
    )
    assert status == 0, error
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [0 < row["loss"] < 20 for row in rows if row["kind"] == "plan"] == [True, True]


def test_one_sentence_has_importance_and_no_standard_error_and_is_reported(
    gaps: Path, of_gaps: Path, tmp_path: Path, command: Command
) -> None:
    """NaN in a row would be no JSON, and ``report`` would refuse it."""
    for language in ("src", "tgt"):
        (tmp_path / f"test.{language}").write_text("\n")
    dictionaries = [
        "--srcdict",
        gaps / "bin" / "dict.src.txt",
        "--tgtdict",
        gaps / "bin" / "dict.tgt.txt",
    ]
    fairseq(
        "preprocess",
        *LANGUAGES,
        *dictionaries,
        "--testpref",
        tmp_path / "test",
        "--destdir",
        tmp_path / "bin",
    )
    words = ["--path", of_gaps, "--gen-subset", "test", "--threads", "1"]
    status, said, error = command("importance", tmp_path / "bin", tmp_path / "rows.jsonl", *words)
    assert status == 0, error
    assert "nan" not in said
    rows: list[dict[str, Any]] = [
        json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()
    ]
    assert {row["error"] for row in rows if row["measure"] == "leave-one-out"} == {None}
    assert command("report", tmp_path / "rows.jsonl", tmp_path / "report")[0] == 0
