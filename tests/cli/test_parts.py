# SPDX-License-Identifier: MIT
"""Files that hold part of a model: every verb refuses them before it writes anything."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import training_checkpoint
from commands import Command

from fairseq_layerdrop.checkpoint import CheckpointError, load

NAMES = [
    "checkpoint_last-shard0.pt",
    "model_part3.pt",
    "checkpoint1-model_part-1.pt",
    "checkpoint_best-rank-2.pt",
]
VERBS = {
    "inspect": ["{file}"],
    "prune": ["{file}", "{out}"],
    "average": ["{file}", "{out}"],
    "export": ["{file}", "{folder}", "{out}", "--to", "ctranslate2"],
    "importance": ["{folder}", "{out}", "--path", "{file}"],
    "search": [
        "{folder}",
        "{out}",
        "--path",
        "{file}",
        "--encoder-depth",
        "2",
        "--decoder-depth",
        "2",
    ],
    "sweep": ["{folder}", "{out}", "--path", "{file}", "--points", "2+2", "--metrics", "loss"],
    "zoo": ["{folder}", "{out}", "--path", "{file}", "--points", "2+2"],
}


def write(path: Path, **changes: Any) -> Path:
    """A training checkpoint with these entries."""
    torch.save({**training_checkpoint(2, 2), **changes}, path)
    return path


def with_option(section: str, **options: Any) -> dict[str, Any]:
    """A configuration in which a section has these options."""
    cfg = training_checkpoint(2, 2)["cfg"]
    return {**cfg, section: {**cfg[section], **options}}


def assert_refused(outcome: tuple[int, str, str], *words: str) -> None:
    """Exit 2, nothing on stdout, one line on stderr with these words."""
    status, out, err = outcome
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert [word for word in words if word not in err] == []


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_refuses_a_part_and_writes_nothing(
    verb: str, command: Command, tmp_path: Path
) -> None:
    file = write(tmp_path / "checkpoint_last-shard0.pt")
    (tmp_path / "dict.src.txt").touch()
    before = sorted(tmp_path.iterdir())
    arguments = [
        part.format(file=file, folder=tmp_path, out=tmp_path / "out") for part in VERBS[verb]
    ]
    assert_refused(command(verb, *arguments), str(file), "-shard0", "whole")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", NAMES)
def test_a_part_is_known_by_its_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"one part of a model .*another name"):
        load(write(tmp_path / name))


@pytest.mark.parametrize(
    "name", ["checkpoint_last.pt", "my_part.pt", "shard0.pt", "checkpoint-shard.pt", "parts_2.pt"]
)
def test_other_names_are_whole_models(name: str, tmp_path: Path) -> None:
    assert load(write(tmp_path / name))["model"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"fsdp_metadata": {}, "model": {"encoder.flat_param_0": torch.ones(4)}},
            "--use-sharded-state",
        ),
        ({"cfg": with_option("common", model_parallel_size=8)}, "--model-parallel-size 8"),
        ({"cfg": with_option("model", base_layers=2)}, "--base-layers 2"),
        (
            {"cfg": None, "args": Namespace(model_parallel_size=2, base_layers=0)},
            "--model-parallel-size 2",
        ),
    ],
    ids=["shard", "model parallel", "experts", "before 2021"],
)
def test_a_part_under_another_name_is_known_by_what_it_says(
    changes: dict[str, Any], says: str, command: Command, tmp_path: Path
) -> None:
    file = write(tmp_path / "renamed.pt", **changes)
    assert_refused(command("prune", file, tmp_path / "out.pt"), str(file), says, "whole")
    assert not (tmp_path / "out.pt").exists()


def test_a_whole_file_of_fully_sharded_training_is_read(tmp_path: Path) -> None:
    cfg = with_option("common", model_parallel_size=1)
    assert load(
        write(tmp_path / "checkpoint_last.pt", cfg=cfg, fsdp_metadata={"is_sharded": False})
    )["model"]


def test_a_model_of_which_only_parts_are_there_is_said_to_be_in_parts(
    command: Command, tmp_path: Path
) -> None:
    for name in ("checkpoint_last-shard0.pt", "checkpoint_last-shard1.pt", "other-shard0.pt"):
        write(tmp_path / name)
    parts = "(checkpoint_last-shard0.pt, checkpoint_last-shard1.pt)"
    assert_refused(
        command("inspect", tmp_path / "checkpoint_last.pt"), "there is no file", parts, "whole"
    )


def test_no_output_is_named_as_a_part(command: Command, tmp_path: Path) -> None:
    out = tmp_path / "small_part1.pt"
    assert_refused(
        command("prune", write(tmp_path / "full.pt"), out), str(out), "_part1", "another name"
    )
    assert not out.exists()
