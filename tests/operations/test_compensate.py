# SPDX-License-Identifier: MIT
"""``prune --compensate``: the file that it writes is what was measured, and stock."""

import gc
import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import Command
from fairseq_programs import fairseq

from fairseq_layerdrop.checkpoint import load as read
from fairseq_layerdrop.evaluation.loading import Batches, load
from fairseq_layerdrop.evaluation.losses import score_losses
from fairseq_layerdrop.evaluation.search import CANDIDATES
from fairseq_layerdrop.modules.subnetwork import depths

EVERY_BLOCK = ["--tokens-per-sample", "64", "--required-batch-size-multiple", "1"]


def loss_on_test(file: Path, data: Path) -> float:
    """Bits a token on the subset test, loaded as fairseq loads it."""
    loaded = load(str(file), str(data))
    kept = {stack: range(depth) for stack, depth in depths(loaded.model).items()}
    (losses,) = score_losses(loaded, Batches(loaded, "test").samples, [kept])
    return losses.loss


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compensated")


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Without garbage collection: what a command leaves open, the next one meets."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize(
    ("fixture", "keep", "changed"),
    [
        ("translation-0.12.2", ["--decoder-keep", "0,3"], "decoder.layers.1.fc2.weight"),
        ("lm-0.12.2", ["--decoder-keep", "0,4"], "decoder.layers.0.fc2.weight"),
    ],
)
def test_the_file_gives_back_half_of_what_pruning_takes(
    fixtures: Path, folder: Path, command: Command, fixture: str, keep: list[str], changed: str
) -> None:
    source, data = fixtures / fixture / "checkpoint.pt", fixtures / fixture / "data-bin"
    cut, mended = folder / f"{fixture}.cut.pt", folder / f"{fixture}.pt"
    assert command("prune", source, cut, *keep)[0] == 0
    status, out, err = command("prune", source, mended, *keep, "--compensate", data, "--json")
    assert (status, json.loads(out)["output"]) == (0, str(mended)), err
    losses = [loss_on_test(file, data) for file in (source, cut, mended)]
    assert losses[2] - losses[0] < (losses[1] - losses[0]) / 2
    plain, new = read(cut), read(mended)
    assert plain["cfg"] == new["cfg"]
    differing = {
        key for key, tensor in plain["model"].items() if not tensor.equal(new["model"][key])
    }
    assert changed in differing
    assert all(".fc2." in key for key in differing)
    about = new["extra_state"]["layerdrop"]["steps"][-1]["compensated"]
    assert about == json.loads(out)["compensated"]
    assert about["subset"] == "valid"
    assert about["loss"]["compensated"] < about["loss"]["cut"]


def test_stock_fairseq_reads_the_file(fixtures: Path, folder: Path, command: Command) -> None:
    data, file = fixtures / "lm-0.12.2" / "data-bin", folder / "stock.pt"
    source = fixtures / "lm-0.12.2" / "checkpoint.pt"
    flags = ["--decoder-keep", "0,4", "--compensate", data]
    assert command("prune", source, file, *flags)[0] == 0
    printed = fairseq(
        "eval_lm", data, "--path", file, "--gen-subset", "test", "--batch-size", "8", *EVERY_BLOCK
    )
    assert f"Loss (base 2): {loss_on_test(file, data):.4f}" in printed


def test_what_became_of_each_gap_is_printed(official: Path, folder: Path, command: Command) -> None:
    source, data = official / "checkpoint.pt", official / "data-bin"
    keep = ["--encoder-keep", "1-5", "--decoder-keep", "0-3"]
    flags = [*keep, "--compensate", data, "--compensate-tokens", "900", "--dry-run"]
    status, out, _ = command("prune", source, folder / "dry.pt", *flags)
    assert status == 0
    assert "decoder layers 4-5: α = " in out
    assert "the first layers of the encoder go, with no layer before them" in out
    assert "held-out loss: " in out
    assert not (folder / "dry.pt").exists()


REFUSED: dict[str, tuple[list[str], str]] = {
    "a plan that keeps all": ([], "--compensate is for a plan that removes layers"),
    "heads, too": (
        ["--decoder-keep", "0", "--heads-keep", "1"],
        "--compensate is for whole layers",
    ),
    "no tokens": (["--decoder-keep", "0", "--compensate-tokens", "0"], "must be at least 1, got 0"),
    "no such split": (["--decoder-keep", "0", "--compensate-subset", "x"], "there is no subset x"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_one_line(
    official: Path, tmp_path: Path, command: Command, case: str
) -> None:
    flags, message = REFUSED[case]
    source, data = official / "checkpoint.pt", official / "data-bin"
    status, out, err = command("prune", source, tmp_path / "x.pt", "--compensate", data, *flags)
    assert (status, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_data_of_another_model_are_one_line(
    official: Path, fixtures: Path, tmp_path: Path, command: Command
) -> None:
    for data in (tmp_path / "nowhere", fixtures / "lm-0.12.2" / "data-bin"):
        flags = ["--decoder-keep", "0", "--compensate", data]
        status, _, err = command("prune", official / "checkpoint.pt", tmp_path / "x.pt", *flags)
        assert (status, len(err.splitlines())) == (2, 1)
        assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("uncollected")
def test_a_zoo_is_compensated_as_prune_does_it(
    official: Path, tmp_path: Path, command: Command
) -> None:
    data, source = official / "data-bin", official / "checkpoint.pt"
    flags = ["--path", source, "--points", "6+6 6+2", "--gen-subset", "test", "--json"]
    assert command("zoo", data, tmp_path / "zoo", *flags, "--compensate")[0] == 0
    models = json.loads((tmp_path / "zoo" / "manifest.json").read_text())["models"]
    assert ["compensated" in model for model in models] == [False, True]
    assert "--compensate" in models[1]["command"].split()
    keep = ["--decoder-keep", "0,3", "--compensate", data]
    assert command("prune", source, tmp_path / "one.pt", *keep)[0] == 0
    one, other = (read(tmp_path / file)["model"] for file in ("one.pt", "zoo/6+2.pt"))
    assert all(tensor.equal(other[key]) for key, tensor in one.items())
    plain = ["--path", source, "--points", "6+2", "--json"]
    assert command("sweep", data, tmp_path / "rows.jsonl", *plain)[0] == 0
    status, _, _ = command("sweep", data, tmp_path / "rows.jsonl", *plain, "--compensate")
    assert status == 0
    cut = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in cut if row["kind"] == "plan" and row["plan"] == "all/0,3"]
    assert len(losses) == 2
    assert losses[1] < losses[0]
    assert models[1]["loss"] == pytest.approx(losses[1], abs=1e-6)


@pytest.mark.usefixtures("uncollected")
def test_a_search_compensates_the_best_and_prints_how_to_prune_the_winner(
    fixtures: Path, tmp_path: Path, command: Command
) -> None:
    source, data = fixtures / "lm-0.12.2" / "checkpoint.pt", fixtures / "lm-0.12.2" / "data-bin"
    flags = ["--path", source, "--decoder-depth", "3", "--test-subset", "test", "--compensate"]
    status, out, err = command("search", data, tmp_path / "rows.jsonl", *flags, "--json")
    assert status == 0, err
    facts = json.loads(out)
    losses = facts["compensated"]
    assert len(losses) == CANDIDATES
    assert facts["winner"] == min(losses, key=losses.__getitem__)
    plain = facts["path"][-1]
    assert losses[plain["plan"]] < plain["loss"]
    (_, judged) = facts["judged"]
    (row,) = [row for row in judged["rows"] if row["plan"] == facts["winner"]]
    assert command("prune", source, tmp_path / "small.pt", *shlex.split(facts["flags"]))[0] == 0
    assert loss_on_test(tmp_path / "small.pt", data) == pytest.approx(row["loss"], abs=1e-6)
    before = (tmp_path / "rows.jsonl").read_bytes()
    assert command("search", data, tmp_path / "rows.jsonl", *flags, "--json")[1] == out
    assert (tmp_path / "rows.jsonl").read_bytes() == before, "a second run adds nothing"
