# SPDX-License-Identifier: MIT
"""``heal``: cut, compensate, fine-tune by ``fairseq-train`` with a teacher."""

import fcntl
import json
import os
from pathlib import Path
from typing import Any

import pytest
from commands import Command
from fairseq_programs import SHORT, fairseq

from fairseq_layerdrop.checkpoint import digest, load, save
from fairseq_layerdrop.operations import _point
from fairseq_layerdrop.operations._heal_options import HealOptions
from fairseq_layerdrop.operations.heal import heal
from fairseq_layerdrop.operations.prune import prune

POINTS = ["--points", "6+1 6+3", "--max-update", "12"]
FLAGS = ["--", "--train-subset", "valid", "--cpu", "--lr", "1.5e-3"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("heal")


@pytest.fixture(scope="module")
def healed(official: Path, folder: Path) -> dict[str, Any]:
    """Two points, chained."""
    recipe = HealOptions(max_update=12, flags=tuple(FLAGS[1:]))
    data, path = official / "data-bin", official / "checkpoint.pt"
    return heal(path, str(data), folder / "out", "6+1 6+3", recipe)


def test_each_point_is_better_healed_than_compensated_than_cut(healed: dict[str, Any]) -> None:
    assert [model["file"] for model in healed["models"]] == ["6+3.pt", "6+1.pt"]
    for model in healed["models"]:
        loss = model["loss"]
        assert healed["source"]["loss"] < loss["healed"] < loss["compensated"] < loss["cut"]


def test_the_smaller_starts_from_the_larger(healed: dict[str, Any], official: Path) -> None:
    assert [model["cut_from"] for model in healed["models"]] == ["checkpoint.pt", "6+3.pt"]


def test_a_file_is_stock_and_says_where_it_comes_from(
    healed: dict[str, Any], official: Path, folder: Path
) -> None:
    file = folder / "out" / "6+1.pt"
    checkpoint = load(file)
    cfg = checkpoint["cfg"]
    assert (cfg["model"]["_name"], cfg["model"]["decoder_layers"]) == ("transformer", 1)
    assert cfg["criterion"]["_name"] == "label_smoothed_cross_entropy"
    assert cfg["common"]["user_dir"] is None
    assert "distill_teacher" not in cfg["criterion"]
    steps = checkpoint["extra_state"]["layerdrop"]["steps"]
    assert [sorted(step.keys() & {"compensated", "healed"}) for step in steps] == [
        *(["compensated"], ["healed"]),
        *(["compensated"], ["healed"]),
    ]
    assert steps[-1]["healed"]["teacher"] == digest(official / "checkpoint.pt")
    assert steps[0]["source"] == digest(official / "checkpoint.pt")
    flags = ["--path", file, "--gen-subset", "test", "--beam", "2", "--quiet", *SHORT]
    assert "BLEU4" in fairseq("generate", official / "data-bin", *flags)


def test_it_is_trained_as_the_checkpoint_was(healed: dict[str, Any], folder: Path) -> None:
    text = (folder / "out" / "training" / "6+3" / "arguments.json").read_text()
    arguments = json.loads(text)
    for pair in (
        ("--task", "translation"),
        ("--distill-criterion", "label_smoothed_cross_entropy"),
        ("--label-smoothing", "0.1"),
        ("--optimizer", "adam"),
        ("--max-update", "12"),
    ):
        assert arguments[arguments.index(pair[0]) + 1] == pair[1]
    assert arguments[-len(FLAGS) + 1 :] == FLAGS[1:]


@pytest.mark.parametrize("point", ["6+3", "6+1"])
def test_every_point_learns_at_the_whole_models_rate(
    point: str, healed: dict[str, Any], folder: Path, official: Path
) -> None:
    """Not at that of what it is cut from: the second is cut from a healed model."""
    arguments = json.loads((folder / "out" / "training" / point / "arguments.json").read_text())
    (rate,) = load(official / "checkpoint.pt")["cfg"]["optimization"]["lr"]
    assert float(arguments[arguments.index("--lr") + 1]) == rate


def test_what_is_healed_is_not_healed_again(
    healed: dict[str, Any], official: Path, folder: Path, command: Command
) -> None:
    before = (folder / "out" / "6+3.pt").stat().st_mtime_ns
    paths = [official / "data-bin", folder / "out", "--path", official / "checkpoint.pt"]
    status, out, _ = command("heal", *paths, *POINTS, *FLAGS)
    assert status == 0
    assert (folder / "out" / "6+3.pt").stat().st_mtime_ns == before
    assert out.startswith("whole: loss ")
    assert "6+1.pt: cut " in out


def test_what_is_healed_stays_in_the_manifest(
    healed: dict[str, Any], official: Path, folder: Path, command: Command
) -> None:
    paths = [official / "data-bin", folder / "out", "--path", official / "checkpoint.pt"]
    status, _, _ = command("heal", *paths, "--points", "6+1", *POINTS[2:], *FLAGS)
    assert status == 0
    assert json.loads((folder / "out" / "manifest.json").read_text()) == healed


OTHERS = {
    "more updates": ["--points", "6+3", "--max-update", "13"],
    "more updates for another point": ["--points", "6+5", "--max-update", "13"],
    "other layers": ["--points", "all/0,1,2", "--max-update", "12"],
    "scored elsewhere": [*POINTS, "--gen-subset", "test"],
}


@pytest.mark.parametrize("case", OTHERS)
def test_a_family_is_healed_in_one_way(
    case: str, healed: dict[str, Any], official: Path, folder: Path, command: Command
) -> None:
    paths = [official / "data-bin", folder / "out", "--path", official / "checkpoint.pt"]
    status, out, err = command("heal", *paths, *OTHERS[case], *FLAGS)
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert ".pt was healed or scored in another way" in err
    assert json.loads((folder / "out" / "manifest.json").read_text()) == healed


@pytest.mark.parametrize("content", ['{"models": []}', "no JSON", "[1]"])
@pytest.mark.parametrize("name", ["6+3.pt", "manifest.json"])
def test_what_is_not_of_heal_is_not_overwritten(
    name: str, content: str, official: Path, tmp_path: Path, command: Command
) -> None:
    file = tmp_path / name
    for written in {file, file.with_suffix(".json")}:
        written.write_text(content, encoding="utf-8")
    paths = [official / "data-bin", tmp_path, "--path", official / "checkpoint.pt"]
    status, out, err = command("heal", *paths, *POINTS, *FLAGS)
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert f"{file}: not of heal; name another OUT" in err
    assert file.read_text(encoding="utf-8") == content
    assert set(tmp_path.iterdir()) == {file, file.with_suffix(".json")}


@pytest.mark.slow
def test_a_training_that_was_killed_goes_on(
    official: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = HealOptions(max_update=6, teacher=False, flags=tuple(FLAGS[1:]))
    paths = (official / "checkpoint.pt", str(official / "data-bin"), tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(_point, "_write_stock", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            heal(*paths, "6+1", recipe)
    assert not (tmp_path / "out" / "6+1.pt").exists()
    with pytest.raises(ValueError, match=r"6\+1 is of a training with other options"):
        heal(*paths, "all/5", recipe)
    found = heal(*paths, "6+1", recipe)
    log = (tmp_path / "out" / "training" / "6+1" / "train.log").read_text()
    assert "Loaded checkpoint" in log
    assert "distill_loss" not in log
    assert (tmp_path / "out" / found["models"][0]["file"]).exists()


REFUSED = {
    "nothing to remove": (["--points", "6+6"], "got one that keeps all"),
    "no plan": (["--points", " "], "at least one plan"),
    "equal depths": (["--points", "6+1 all/3"], "must differ in their depths"),
    "no updates": (["--points", "6+1", "--max-update", "0"], "at least 1 update, got 0"),
    "no share": (["--points", "6+1", "--share", "0"], "at least 1 update, got 0"),
    "endless": (["--points", "6+1", "--share", "inf"], "--share is a share of the updates"),
    "another length": (
        ["--points", "6+1", "--", "--max-epoch", "2"],
        "--max-epoch is heal's own and cannot be among the flags of fairseq-train; --max-update",
    ),
    "nothing to train on": (
        ["--points", "6+1", "--max-update", "1"],
        "there is no subset train in the data to train on (behind --: --train-subset)",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_one_line(
    case: str, official: Path, tmp_path: Path, command: Command
) -> None:
    flags, message = REFUSED[case]
    paths = [official / "data-bin", tmp_path / "out", "--path", official / "checkpoint.pt"]
    status, out, err = command("heal", *paths, *flags)
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert message in err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_training_that_fails_names_its_log(
    official: Path, tmp_path: Path, command: Command
) -> None:
    paths = [official / "data-bin", tmp_path / "out", "--path", official / "checkpoint.pt"]
    status, _, err = command("heal", *paths, *POINTS, *FLAGS, "--batch-size", "none")
    assert (status, len(err.splitlines())) == (2, 1)
    assert "train.log" in err
    assert not (tmp_path / "out" / "6+3.pt").exists()


def test_a_folder_is_healed_into_by_one_process(
    official: Path, tmp_path: Path, command: Command
) -> None:
    paths = [official / "data-bin", tmp_path, "--path", official / "checkpoint.pt"]
    other = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    status, out, err = command("heal", *paths, *POINTS, *FLAGS)
    os.close(other)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert f"another process is writing {tmp_path}" in err
    assert not list(tmp_path.iterdir())


def test_a_file_that_does_not_say_how_it_was_trained_is_one_line(
    official: Path, tmp_path: Path, command: Command
) -> None:
    checkpoint = load(official / "checkpoint.pt")
    checkpoint["cfg"]["optimizer"] = None
    save(checkpoint, tmp_path / "full.pt")
    flags = ["--path", tmp_path / "full.pt", *POINTS, *FLAGS]
    status, out, err = command("heal", official / "data-bin", tmp_path / "out", *flags)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "with which optimizer it was trained; give fairseq-train its flags yourself" in err
    assert not (tmp_path / "out").exists()


def test_without_updates_in_the_file_they_must_be_named(official: Path, tmp_path: Path) -> None:
    checkpoint = load(official / "checkpoint.pt")
    checkpoint["optimizer_history"][-1]["num_updates"] = 0
    save(checkpoint, tmp_path / "none.pt")
    prune(tmp_path / "none.pt", tmp_path / "whole.pt")
    with pytest.raises(ValueError, match="give max_update="):
        heal(tmp_path / "whole.pt", str(official / "data-bin"), tmp_path / "out", "6+1")
