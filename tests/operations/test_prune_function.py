# SPDX-License-Identifier: MIT
"""``prune`` as a function: what a plan may be, what comes back, and how often a file is opened."""

from pathlib import Path
from typing import Any

import pytest
import torch
from builders import DIM, layer_values, training_checkpoint

import fairseq_layerdrop
from fairseq_layerdrop.checkpoint import digest, load
from fairseq_layerdrop.cli import main
from fairseq_layerdrop.operations.prune import prune
from fairseq_layerdrop.pruning import upgrade
from fairseq_layerdrop.pruning.plan import PruningPlan

SIX = {"encoder": 6, "decoder": 6}


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """A training checkpoint of 6+6 layers."""
    made = training_checkpoint(ours=True)
    for stack in SIX:
        made["cfg"]["model"] |= {f"{stack}_embed_dim": DIM, f"{stack}_attention_heads": 2}
    torch.save(made, tmp_path / "full.pt")
    return tmp_path / "full.pt"


@pytest.mark.parametrize(
    "plan",
    [
        "all/every:2",
        {"decoder": "every:2"},
        {"decoder": [0, 2, 4], "encoder": None},
        PruningPlan.parse("all/every:2", SIX),
    ],
    ids=["text", "specs", "indices", "plan"],
)
def test_a_plan_in_any_form_makes_the_file_of_the_command(
    full: Path, tmp_path: Path, plan: Any
) -> None:
    facts = prune(full, tmp_path / "small.pt", plan)
    assert main(["prune", str(full), str(tmp_path / "other.pt"), "--decoder-keep", "every:2"]) == 0
    assert digest(tmp_path / "small.pt") == digest(tmp_path / "other.pt")
    assert facts["stacks"]["decoder"] == {"kept": [0, 2, 4], "removed": [1, 3, 5]}
    assert facts["bytes"] == [full.stat().st_size, (tmp_path / "small.pt").stat().st_size]


def test_without_a_plan_everything_stays(full: Path, tmp_path: Path) -> None:
    prune(full, tmp_path / "whole.pt")
    assert layer_values(load(tmp_path / "whole.pt")["model"], "decoder") == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"plan": "9/all"}, "full.pt: encoder: layers must lie in 0-5"),
        ({"plan": "all"}, "ENC/DEC"),
        ({"strategy": "even"}, "strategy= goes with target_params="),
        ({"strategy": "middle", "target_params": 5}, "strategy= must be one of even, spread"),
        ({"config_style": "yaml"}, "config_style= must be one of plain, namespace, got 'yaml'"),
        ({"importance": "scores.json"}, "importance= goes with heads_keep="),
        (
            {"plan": PruningPlan.parse("0/0", SIX), "target_params": 500},
            "target_params= nothing to choose",
        ),
        ({"plan": PruningPlan.parse("0/0", {"encoder": 2, "decoder": 6})}, "depths"),
    ],
    ids=str,
)
def test_a_mistake_is_told_in_pythons_words_and_writes_nothing(
    full: Path, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError) as error:
        prune(full, tmp_path / "small.pt", **options)
    assert words in str(error.value)
    assert "--" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["full.pt"]


@pytest.mark.parametrize(
    "options",
    [
        {"plan": "all/every:2"},
        {"plan": {"encoder": "0"}, "target_params": 2000},
        {"heads_keep": "1", "ffn_keep": "0.5"},
    ],
    ids=str,
)
def test_a_state_is_upgraded_once(
    full: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    calls = []

    def count(name: str) -> None:
        function = getattr(upgrade, name)

        def counted(*arguments: Any) -> Any:
            calls.append(name)
            return function(*arguments)

        monkeypatch.setattr(upgrade, name, counted)

    count("_upgrade_roberta")  # where every upgrade of a state begins
    count("tie")
    prune(full, tmp_path / "small.pt", **options)
    assert sorted(calls) == ["_upgrade_roberta", "tie"]


def test_the_old_name_of_sublayers_remove_is_taken_and_not_shown(
    full: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = prune(full, tmp_path / "new.pt", sublayers_remove="encoder:3.ffn")
    assert facts["inside"] == ["sub-layers removed: encoder.layers.3.ffn"]
    flags = ["--drop-sublayers", "encoder:3.ffn"]
    assert main(["prune", str(full), str(tmp_path / "old.pt"), *flags]) == 0
    assert digest(tmp_path / "new.pt") == digest(tmp_path / "old.pt")
    with pytest.raises(SystemExit):
        main(["prune", "--help"])
    assert "--drop-sublayers" not in capsys.readouterr().out


def test_the_package_hands_the_function_on() -> None:
    assert fairseq_layerdrop.prune is prune
    assert {"prune", "load"} <= set(dir(fairseq_layerdrop))
    with pytest.raises(AttributeError, match="no attribute 'shrink'"):
        _ = fairseq_layerdrop.shrink
