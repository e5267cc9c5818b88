# SPDX-License-Identifier: MIT
"""``zoo``: the stock checkpoints are the sub-networks that were measured; the manifest."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fairseq_programs import generate, hypotheses, prune

from fairseq_layerdrop import cli
from fairseq_layerdrop.checkpoint import digest, load
from fairseq_layerdrop.evaluation import zoo as zoo_module

POINTS = ["--points", "6+6 6+3 3+3 0,1,5/0,2,4", "--metrics", "loss,bleu", "--beam", "2"]
FILES = ["6+6.pt", "6+3.pt", "3+3.pt", "3+3.0,1,5_0,2,4.pt"]
Run = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def zoo(official: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zoo of four models."""
    folder = tmp_path_factory.mktemp("zoo") / "models"
    assert make(official, folder) == 0
    return folder


def make(official: Path, folder: Path, *flags: str) -> int:
    every = [
        str(official / "data-bin"),
        str(folder),
        "--path",
        str(official / "checkpoint.pt"),
        "--gen-subset",
        "test",
    ]
    return cli.main(["zoo", *every, *(flags or POINTS)])


def test_the_manifest_says_what_each_file_is(official: Path, zoo: Path) -> None:
    manifest = json.loads((zoo / "manifest.json").read_text())
    assert manifest["source"]["digest"] == digest(official / "checkpoint.pt")
    assert (manifest["data"]["subset"], manifest["data"]["sentences"]) == ("test", 100)
    assert [model["file"] for model in manifest["models"]] == FILES
    assert [model["plan"] for model in manifest["models"]] == [
        "all/all",
        "all/0,2,4",
        "0,2,4/0,2,4",
        "0,1,5/0,2,4",
    ]
    for model in manifest["models"]:
        file = zoo / model["file"]
        assert (model["digest"], model["bytes"]) == (digest(file), file.stat().st_size)
        low, high = model["loss_interval"]
        assert low < model["loss"] < high
        low, high = model["bleu_interval"]
        assert low <= model["bleu"] + 0.5 and model["bleu"] - 0.5 <= high
        assert not {"texts", "units", "sizes"} & model.keys()


def test_the_command_of_the_manifest_writes_the_same_model(
    zoo: Path, tmp_path: Path, official: Path
) -> None:
    model = json.loads((zoo / "manifest.json").read_text())["models"][3]
    assert model["command"].endswith("--encoder-keep 0,1,5 --decoder-keep 0,2,4")
    again = load(
        prune(official / "checkpoint.pt", tmp_path / "a.pt", *model["command"].split()[-4:])
    )["model"]
    written = load(zoo / model["file"])["model"]
    assert written.keys() == again.keys() and all(
        torch.equal(written[key], again[key]) for key in again
    )


def test_stock_fairseq_translates_with_a_model_of_the_zoo_as_was_measured(
    official: Path, zoo: Path
) -> None:
    units = [json.loads(line) for line in (zoo / "rows.units.jsonl").read_text().splitlines()]
    (texts,) = [row["texts"] for row in units if row["signature"]["plan"] == "all/0,2,4"]
    stock = generate(official / "data-bin", zoo / "6+3.pt", "--beam", "2")
    assert [text for _, (_, text, _) in sorted(stock.items())] == texts
    assert hypotheses("") == {}


def test_a_second_run_writes_and_measures_nothing_again(
    official: Path, zoo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in zoo.glob("*.pt")}
    rows = (zoo / "rows.jsonl").read_bytes()
    assert make(official, zoo) == 0
    assert {
        path: (path.stat().st_mtime_ns, path.read_bytes()) for path in zoo.glob("*.pt")
    } == before
    assert (zoo / "rows.jsonl").read_bytes() == rows


def test_a_point_can_be_added_later(official: Path, zoo: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    shutil.copytree(zoo, folder)
    before = json.loads((folder / "manifest.json").read_text())
    (folder / "3+3.pt").unlink()
    data, path = (
        f"{official / 'data-bin'}/",
        str(official / "." / "data-bin" / ".." / "checkpoint.pt"),
    )
    flags = ["--path", path, "--gen-subset", "test", "--points", "6+1 6+3", *POINTS[2:]]
    assert cli.main(["zoo", data, str(folder), *flags]) == 0
    after = json.loads((folder / "manifest.json").read_text())
    stayed = [model for model in before["models"] if model["file"] in ("6+6.pt", FILES[3])]
    assert [model["file"] for model in after["models"][:2]] == ["6+1.pt", "6+3.pt"]
    assert after["models"][2:] == stayed
    assert make(official, folder, "--points", "6+1", "--gen-subset", "valid") == 0
    elsewhere = json.loads((folder / "manifest.json").read_text())
    assert [model["file"] for model in elsewhere["models"]] == ["6+1.pt"]


@pytest.mark.parametrize("content", ['{"models": [], "recipe": {}}', "no JSON", "[1]"])
def test_the_manifest_of_another_is_left_alone(
    content: str, official: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "manifest.json").write_text(content)
    assert make(official, tmp_path, "--points", "6+3") == 2
    assert f"{tmp_path / 'manifest.json'}: not of zoo" in capsys.readouterr().err
    assert (tmp_path / "manifest.json").read_text() == content
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_no_point_is_no_zoo(
    official: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make(official, tmp_path / "z", "--points", " ") == 2
    assert "--points must name at least one plan" in capsys.readouterr().err
    assert not (tmp_path / "z").exists()


def test_another_model_of_the_same_name_is_left_alone(
    official: Path, zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = prune(official / "checkpoint.pt", tmp_path / "6+3.pt", "--decoder-keep", "3,4,5")
    content = other.read_bytes()
    capsys.readouterr()
    assert make(official, tmp_path, "--points", "6+3") == 2
    assert f"{other} is another model" in capsys.readouterr().err
    assert other.read_bytes() == content
    assert not (tmp_path / "manifest.json").exists()
    torch.save({"model": {}}, other)
    assert make(official, tmp_path, "--points", "6+3") == 2
    assert f"{other} is another model" in capsys.readouterr().err


def test_a_file_that_is_not_what_was_measured_is_an_error(
    official: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    honest = zoo_module.load

    def spoilt(*arguments: str, **named: str) -> object:
        loaded = honest(*arguments, **named)
        loaded.model.decoder.layers[0].fc1.bias += 0.1
        return loaded

    monkeypatch.setattr(zoo_module, "load", spoilt)
    assert make(official, tmp_path / "z", "--points", "6+3") == 2
    assert "every loss must be that of the sub-network in memory" in capsys.readouterr().err
    assert not (tmp_path / "z" / "manifest.json").exists()
