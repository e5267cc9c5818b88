# SPDX-License-Identifier: MIT
"""The command: facts on stdout, one line on stderr for a mistake, and nothing written then."""

import argparse
import json
import math
import os
import shlex
import subprocess
import sys
import zipfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from builders import DIM, FFN, family_checkpoint, layer_values, share, training_checkpoint
from commands import Command, Done, assert_one_line

import fairseq_layerdrop
from fairseq_layerdrop.checkpoint import digest, load
from fairseq_layerdrop.cli import VERBS

PROGRAM = [sys.executable, "-m", "fairseq_layerdrop.cli"]


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """A training checkpoint of 6+6 layers."""
    torch.save(training_checkpoint(ours=True), tmp_path / "full.pt")
    return tmp_path / "full.pt"


def layers(path: Path) -> dict[str, list[int]]:
    model = load(path)["model"]
    return {stack: layer_values(model, stack) for stack in ("encoder", "decoder")}


def test_user_dir_is_the_package(command: Command) -> None:
    done = command("user-dir")
    folder = Path(done.out.strip())
    assert (done.status, done.err) == (0, "")
    assert folder == Path(fairseq_layerdrop.__file__).parent
    assert (folder / "models").is_dir()


def test_the_version(command: Command) -> None:
    assert command("--version") == (0, fairseq_layerdrop.__version__ + "\n", "")


def test_inspect_prints_the_facts(command: Command, full: Path) -> None:
    status, text, err = command("inspect", full)
    assert (status, err) == (0, "")
    for fact in (
        "layerdrop_transformer",
        "1200",
        "6 layers",
        "0.2",
        "0.3",
        "zip",
        "optimizer state",
        digest(full),
    ):
        assert fact in text
    assert f"{full.stat().st_size:,} bytes" in text


def test_inspect_as_json(command: Command, full: Path) -> None:
    status, text, err = command("inspect", full, "--json")
    facts = json.loads(text)
    assert (status, err) == (0, "")
    assert {stack: about["depth"] for stack, about in facts["stacks"].items()} == {
        "encoder": 6,
        "decoder": 6,
    }
    assert (facts["file"], facts["bytes"], facts["format"]) == (
        str(full),
        full.stat().st_size,
        "zip",
    )
    assert facts["digest"] == digest(full)


def test_inspect_tells_where_a_pruned_file_comes_from(
    command: Command, full: Path, out: Path
) -> None:
    command("prune", full, out, "--decoder-keep", "1,4")
    text = command("inspect", out).out
    assert "layers 1,4 of the original" in text
    assert f"from {digest(full)}" in text


def test_prune_writes_the_layers_that_were_named(command: Command, full: Path, out: Path) -> None:
    assert (
        command("prune", full, out, "--encoder-keep", "0-2,5", "--decoder-keep", "every:2").status
        == 0
    )
    assert layers(out) == {"encoder": [0, 1, 2, 5], "decoder": [0, 2, 4]}
    assert os.listdir(out.parent) == [out.name]


def test_prune_leaves_a_stack_whole_that_was_not_named(
    command: Command, full: Path, out: Path
) -> None:
    assert command("prune", full, out, "--decoder-keep", "3").status == 0
    assert layers(out) == {"encoder": [0, 1, 2, 3, 4, 5], "decoder": [3]}


def test_prune_says_what_it_did(command: Command, full: Path, out: Path) -> None:
    status, text, err = command("prune", full, out, "--decoder-keep", "0,2")
    sizes = [full.stat().st_size, out.stat().st_size]
    parameters = [
        json.loads(command("inspect", path, "--json").out)["parameters"]["total"]
        for path in (full, out)
    ]
    assert (status, err) == (0, "")
    assert "encoder: kept 0,1,2,3,4,5; nothing removed" in text
    assert "decoder: kept 0,2; removed 1,3,4,5" in text
    assert "parameters: {:,} -> {:,}".format(*parameters) in text
    assert "bytes: {:,} -> {:,}".format(*sizes) in text
    (train_on,) = (
        line for line in text.splitlines() if line.startswith("to train on: --arch transformer ")
    )
    assert "--encoder-layers 6" in train_on and "--decoder-layers 2" in train_on
    assert train_on.endswith(f" --finetune-from-model {out}")


def test_the_printed_flags_make_the_same_model_again(
    command: Command, full: Path, out: Path
) -> None:
    text = command("prune", full, out, "--encoder-keep", "spread:3", "--decoder-keep", "last:2").out
    flags = next(line for line in text.splitlines() if "--encoder-keep" in line).partition(": ")[2]
    again = out.with_name("again.pt")
    assert command("prune", full, again, *shlex.split(flags)).status == 0
    one, two = load(out)["model"], load(again)["model"]
    assert list(one) == list(two)
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_the_flags_to_train_on_can_be_pasted_whatever_the_file_is_called(
    command: Command, full: Path, out: Path
) -> None:
    target = out.with_name("small & deep.pt")
    text = command("prune", full, target, "--decoder-keep", "0").out
    flags = next(line for line in text.splitlines() if "--finetune-from-model" in line).partition(
        ": "
    )[2]
    assert shlex.split(flags)[-2:] == ["--finetune-from-model", str(target)]


def test_the_same_command_writes_the_same_file(command: Command, full: Path, out: Path) -> None:
    again = out.with_name("again.pt")
    for target in (out, again):
        command("prune", full, target, "--decoder-keep", "0,2")
    assert digest(out) == digest(again)


def test_a_pruned_file_needs_no_plugin_and_no_unsafe_switch(
    command: Command, full: Path, out: Path
) -> None:
    command("prune", full, out, "--decoder-keep", "0,2")
    checkpoint = torch.load(out, weights_only=True)
    assert checkpoint["cfg"]["model"]["_name"] == "transformer"
    assert checkpoint["cfg"]["common"]["user_dir"] is None
    assert "last_optimizer_state" not in checkpoint


@pytest.mark.parametrize("place", ["metrics", "best", "history"])
def test_numbers_of_numpy_do_not_end_up_in_a_pruned_file(
    command: Command, full: Path, out: Path, place: str
) -> None:
    checkpoint = training_checkpoint()
    places = {
        "metrics": checkpoint["extra_state"]["metrics"],
        "best": checkpoint["extra_state"],
        "history": checkpoint["optimizer_history"][-1]["lr_scheduler_state"],
    }
    places[place]["best"] = numpy.float64(30.1)
    torch.save(checkpoint, full)
    assert command("prune", full, out).err == ""
    torch.load(out, weights_only=True)


def test_a_dry_run_says_the_same_and_writes_nothing(
    command: Command, full: Path, out: Path
) -> None:
    dry = command("prune", full, out, "--decoder-keep", "0,2", "--dry-run")
    assert (dry.status, dry.err, os.listdir(out.parent)) == (0, "", [])
    wet = command("prune", full, out, "--decoder-keep", "0,2")
    said = [
        line for line in wet.out.splitlines() if not line.startswith(("bytes", "check", "written"))
    ]
    assert dry.out.splitlines()[:-1] == said
    assert "nothing written" in dry.out


def test_a_dry_run_leaves_an_existing_output_alone(command: Command, full: Path, out: Path) -> None:
    out.write_bytes(b"old")
    assert command("prune", full, out, "--dry-run").status == 0
    assert out.read_bytes() == b"old"


def test_what_was_written_wrong_is_not_kept(
    command: Command, full: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save_with_a_flaw(
        checkpoint: dict[str, Any], file: Any, write: Callable[..., None] = torch.save
    ) -> None:
        flaw = {"encoder.layers.1.fc1.bias": torch.full((FFN,), 3.0)}
        write(checkpoint | {"model": checkpoint["model"] | flaw}, file)

    monkeypatch.setattr(torch, "save", save_with_a_flaw)
    done = command("prune", full, out, "--encoder-keep", "0,2")
    assert_one_line(done, "encoder.layers.1.fc1.bias")
    assert os.listdir(out.parent) == []


def test_force_replaces_an_output(command: Command, full: Path, out: Path) -> None:
    out.write_bytes(b"old")
    assert command("prune", full, out, "--decoder-keep", "0", "--force").status == 0
    assert layers(out)["decoder"] == [0]


@pytest.mark.parametrize("options", [[], ["--dry-run"]], ids=str)
def test_prune_as_json(command: Command, full: Path, out: Path, options: list[str]) -> None:
    status, text, err = command("prune", full, out, "--decoder-keep", "0,2", "--json", *options)
    facts = json.loads(text)
    assert (status, err) == (0, "")
    assert facts["stacks"]["decoder"] == {"kept": [0, 2], "removed": [1, 3, 4, 5]}
    assert facts["output"] == (None if options else str(out))
    assert facts["parameters"][0] > facts["parameters"][1]


@pytest.mark.parametrize(("style", "kind"), [("plain", dict), ("namespace", Namespace)])
def test_the_style_of_the_configuration(
    command: Command, full: Path, out: Path, style: str, kind: type
) -> None:
    assert command("prune", full, out, "--config-style", style).status == 0
    assert type(load(out)["cfg"]["model"]) is kind


def test_a_model_of_one_stack(command: Command, full: Path, out: Path) -> None:
    torch.save(training_checkpoint(0, 8), full)
    status, text, _ = command("prune", full, out, "--decoder-keep", "even:4")
    assert (status, layer_values(load(out)["model"], "decoder")) == (0, [0, 2, 4, 6])
    assert "encoder" not in text


# A number of parameters


def parameters(command: Command, path: Path) -> int:
    return json.loads(command("inspect", path, "--json").out)["parameters"]["total"]


def test_a_target_is_the_largest_model_that_fits(command: Command, full: Path, out: Path) -> None:
    for target, depths in ((4000, (6, 6)), (2300, (5, 5)), (800, (2, 1))):
        status, text, err = command("prune", full, out, "--target-params", target, "--force")
        kept = layers(out)
        assert (status, err) == (0, "")
        assert tuple(map(len, kept.values())) == depths
        size, whole = parameters(command, out), parameters(command, full)
        assert size <= target
        assert f"parameters: {whole:,} -> {size:,}" in text
        assert [f"{stack}: kept {','.join(map(str, kept[stack]))};" in text for stack in kept] == [
            True,
            True,
        ]


@pytest.mark.parametrize("target", ["2.3k", "2300", "2_300", "2,300", ".0023M"])
def test_a_target_is_written_as_one_likes(
    command: Command, full: Path, out: Path, target: str
) -> None:
    assert command("prune", full, out, "--target-params", target).status == 0
    assert layers(out) == {"encoder": [0, 1, 2, 3, 4], "decoder": [0, 1, 2, 3, 4]}


@pytest.mark.parametrize(
    ("strategy", "kept"),
    [
        (None, [0, 1, 3, 4]),
        ("even", [0, 1, 3, 4]),
        ("spread", [0, 2, 3, 5]),
        ("first", [0, 1, 2, 3]),
        ("last", [2, 3, 4, 5]),
    ],
)
def test_the_strategy_turns_the_depths_into_layers(
    command: Command, full: Path, out: Path, strategy: str | None, kept: list[int]
) -> None:
    flags = ["--strategy", strategy] if strategy else []
    assert command("prune", full, out, "--target-params", "1.9k", *flags).status == 0
    assert layers(out) == {"encoder": kept, "decoder": kept}


def test_a_stack_that_is_named_stays_as_named_whatever_the_target(
    command: Command, full: Path, out: Path
) -> None:
    assert command("prune", full, out, "--target-params", "1k", "--encoder-keep", "1,5").status == 0
    assert layers(out) == {"encoder": [1, 5], "decoder": [0, 3]}
    assert parameters(command, out) <= 1000
    assert (
        command(
            "prune", full, out, "--encoder-keep", "1,5", "--decoder-keep", "even:3", "--force"
        ).status
        == 0
    )
    assert parameters(command, out) > 1000


def test_a_dry_run_of_a_target_says_the_same_and_writes_nothing(
    command: Command, full: Path, out: Path
) -> None:
    dry = command("prune", full, out, "--target-params", "2k", "--dry-run")
    assert (dry.status, dry.err, os.listdir(out.parent)) == (0, "", [])
    wet = command("prune", full, out, "--target-params", "2k")
    assert dry.out.splitlines()[:-1] == [
        s for s in wet.out.splitlines() if not s.startswith(("bytes", "check", "written"))
    ]


def test_a_target_as_json(command: Command, full: Path, out: Path) -> None:
    facts = json.loads(
        command("prune", full, out, "--target-params", "2.3k", "--strategy", "last", "--json").out
    )
    assert facts["stacks"]["decoder"] == {"kept": [1, 2, 3, 4, 5], "removed": [0]}
    assert facts["parameters"] == [parameters(command, full), parameters(command, out)]
    again = out.with_name("again.pt")
    assert command("prune", full, again, *shlex.split(facts["flags"])).status == 0
    assert layers(again) == layers(out)


def test_the_smallest_that_can_be_made_is_told(command: Command, full: Path, out: Path) -> None:
    done = command("prune", full, out, "--target-params", "100")
    command("prune", full, out, "--encoder-keep", "0", "--decoder-keep", "0")
    smallest = f"has {parameters(command, out):,} parameters, got a target of 100"
    assert_one_line(done, smallest)
    assert f"prune: {full}: " in done.err


# Dictionaries

DICTIONARIES = ["dict.de.txt", "dict.en.txt", "input0/dict.txt", "label/dict.txt"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data set's folder, with dictionaries and other files."""
    folder = tmp_path / "data"
    for name in (*DICTIONARIES, "train.bin", "dict.en.bin", "deep/er/dict.txt", "input0/train.bin"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{name} 1\n")
    return folder


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_dictionaries_are_copied_to_the_same_places_beside_the_output(
    command: Command, full: Path, out: Path, data: Path
) -> None:
    before = snapshot(data)
    status, text, err = command("prune", full, out, "--copy-dicts", data)
    assert (status, err) == (0, "")
    assert files(out.parent) == [*DICTIONARIES, "small.pt"]
    assert [(out.parent / name).read_bytes() for name in DICTIONARIES] == [
        (data / name).read_bytes() for name in DICTIONARIES
    ]
    assert [
        line.removeprefix("copied: ") for line in text.splitlines() if line.startswith("copied")
    ] == [str(out.parent / name) for name in DICTIONARIES]
    assert snapshot(data) == before


def test_copied_dictionaries_as_json(command: Command, full: Path, out: Path, data: Path) -> None:
    facts = json.loads(command("prune", full, out, "--copy-dicts", data, "--json").out)
    assert facts["dictionaries"] == [str(out.parent / name) for name in DICTIONARIES]


def test_a_dictionary_that_is_there_already_is_fine(
    command: Command, full: Path, out: Path, data: Path
) -> None:
    there = out.parent / DICTIONARIES[1]
    there.write_bytes((data / DICTIONARIES[1]).read_bytes())
    os.utime(there, (1, 1))
    done = command("prune", full, out, "--copy-dicts", data)
    assert (done.status, there.stat().st_mtime) == (0, 1)
    assert files(out.parent) == [*DICTIONARIES, "small.pt"]
    assert str(there) not in done.out


def test_the_dictionaries_of_the_outputs_own_folder_are_there_already(
    command: Command, full: Path, data: Path
) -> None:
    before = snapshot(data)
    assert command("prune", full, data / "small.pt", "--copy-dicts", data).status == 0
    assert {
        name: content for name, content in snapshot(data).items() if "small.pt" not in name
    } == before


@pytest.mark.parametrize("name", [DICTIONARIES[0], DICTIONARIES[3]])
def test_another_dictionary_is_replaced_only_by_force(
    command: Command, full: Path, out: Path, data: Path, name: str
) -> None:
    other = out.parent / name
    other.parent.mkdir(exist_ok=True)
    other.write_text("another 1\n")
    before = snapshot(full.parent)
    done = command("prune", full, out, "--copy-dicts", data)
    assert_one_line(
        done,
        f"--copy-dicts: {other} is another dictionary; name another OUT, or replace it with "
        "--force",
    )
    assert snapshot(full.parent) == before
    assert command("prune", full, out, "--copy-dicts", data, "--force").status == 0
    assert other.read_bytes() == (data / name).read_bytes()


def test_a_folder_without_dictionaries_is_refused(
    command: Command, full: Path, out: Path, data: Path
) -> None:
    for name in DICTIONARIES:
        (data / name).unlink()
    before = snapshot(full.parent)
    for folder in (data, data / "train.bin"):
        assert_one_line(command("prune", full, out, "--copy-dicts", folder), f"got {folder}")
    assert snapshot(full.parent) == before


@pytest.mark.parametrize("other", [False, True])
def test_a_dry_run_copies_nothing(
    command: Command, full: Path, out: Path, data: Path, other: bool
) -> None:
    if other:
        (out.parent / DICTIONARIES[0]).write_text("another 1\n")
    before = snapshot(full.parent)
    assert command("prune", full, out, "--copy-dicts", data, "--dry-run").status == 0
    assert snapshot(full.parent) == before


@pytest.mark.parametrize("flags", [["--decoder-keep", "9"], ["--target-params", "5"]], ids=str)
def test_a_mistake_elsewhere_copies_nothing(
    command: Command, full: Path, out: Path, data: Path, flags: list[str]
) -> None:
    before = snapshot(full.parent)
    assert command("prune", full, out, "--copy-dicts", data, *flags).status == 2
    assert snapshot(full.parent) == before


def test_a_file_that_fails_its_check_leaves_no_dictionaries(
    command: Command, full: Path, out: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ValueError("it differs")

    monkeypatch.setattr("fairseq_layerdrop.operations.prune.check_surgery", refuse)
    before = snapshot(full.parent)
    assert_one_line(command("prune", full, out, "--copy-dicts", data), "it differs")
    assert snapshot(full.parent) == before


# What a user should know beside


def notes(command: Command, full: Path, out: Path, *flags: object) -> list[str]:
    """The notes of a pruning, which are the same as text and as JSON, and in a dry run."""
    flags = (*flags, "--check", "tensors")
    done = command("prune", full, out, "--force", *flags)
    assert (done.status, done.err) == (0, "")
    printed = [
        line.removeprefix("note: ") for line in done.out.splitlines() if line.startswith("note: ")
    ]
    assert (
        json.loads(command("prune", full, out, "--force", "--json", *flags).out)["notes"] == printed
    )
    out.unlink()
    assert (
        json.loads(command("prune", full, out, "--dry-run", "--json", *flags).out)["notes"]
        == printed
    )
    return printed


def bare(checkpoint: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A checkpoint without optimizer state."""
    return {
        key: value for key, value in (checkpoint | changes).items() if key != "last_optimizer_state"
    }


def test_an_ordinary_pruning_needs_no_notes(command: Command, full: Path, out: Path) -> None:
    torch.save(bare(training_checkpoint()), full)
    assert notes(command, full, out) == []


def test_an_optimizer_state_that_is_left_out_is_told(
    command: Command, full: Path, out: Path
) -> None:
    assert notes(command, full, out) == [
        "the optimizer's state was left out (--keep-optimizer keeps it)"
    ]


def test_pruned_averages_are_told(command: Command, full: Path, out: Path) -> None:
    torch.save(bare(training_checkpoint(ema=True)), full)
    assert notes(command, full, out) == ["the EMA's weights were pruned alike"]


def test_lists_that_are_left_whole_are_told(command: Command, full: Path, out: Path) -> None:
    torch.save(bare(family_checkpoint("wav2vec2")), full)
    assert notes(command, full, out, "--encoder-keep", "0,2") == [
        "left whole: the 7 layers of feature_extractor.conv_layers, another list (--keep "
        "feature_extractor.conv_layers=SPEC)"
    ]


def test_what_is_lost_of_the_tasks_state_is_told(command: Command, full: Path, out: Path) -> None:
    state = {
        "epoch": 3,
        "array": numpy.zeros(2),
        "best": {"bleu": [1.5, numpy.float64(1.5)]},
        "names": ["a"],
    }
    torch.save(bare(training_checkpoint(), task_state=state), full)
    assert notes(command, full, out) == [
        "left out of the task's state, being objects and no plain data: array"
    ]
    command("prune", full, out)
    plain = {"epoch": 3, "best": {"bleu": [1.5, 1.5]}, "names": ["a"]}
    assert load(out)["task_state"] == plain


@pytest.mark.parametrize("state", [None, {}, {"epoch": 3}], ids=str)
def test_nothing_is_told_of_a_task_state_of_plain_data(
    command: Command, full: Path, out: Path, state: Any
) -> None:
    torch.save(bare(training_checkpoint(), task_state=state), full)
    assert notes(command, full, out) == []


def test_a_namespace_is_told(command: Command, full: Path, out: Path) -> None:
    torch.save(bare(training_checkpoint()), full)
    (note,) = notes(command, full, out, "--config-style", "namespace")
    assert note.startswith("its options are in a Namespace")
    assert '--user-dir "$(fairseq-layerdrop user-dir)"' in note


def of_architecture(name: str) -> dict[str, Any]:
    checkpoint = family_checkpoint("roberta") if "roberta" in name else training_checkpoint()
    checkpoint["cfg"]["model"]["_name"] = name
    return bare(checkpoint)


def test_bart_is_written_with_a_namespace_and_trained_on_with_the_plugin(
    command: Command, full: Path, out: Path
) -> None:
    torch.save(of_architecture("bart_large"), full)
    text = command("prune", full, out, "--decoder-keep", "0").out
    assert isinstance(load(out)["cfg"]["model"], Namespace)
    assert "note: its options are in a Namespace" in text
    (train_on,) = (line for line in text.splitlines() if line.startswith("to train on: "))
    assert train_on.startswith(
        'to train on: --user-dir "$(fairseq-layerdrop user-dir)" --arch bart_large '
    )
    assert not any(
        "Namespace" in note for note in notes(command, full, out, "--config-style", "plain")
    )


HINT = "from_pretrained looks for dict.txt in {}: --copy-dicts DATA puts it there"


@pytest.mark.parametrize(
    "name", ["roberta", "roberta_large", "layerdrop_roberta_base", "bart_base", "mbart_large"]
)
def test_who_is_loaded_with_from_pretrained_is_told_of_dictionaries(
    command: Command, full: Path, out: Path, data: Path, name: str
) -> None:
    torch.save(of_architecture(name), full)
    hint = HINT.format(out.parent)
    assert hint in notes(command, full, out)
    assert hint not in notes(command, full, out, "--copy-dicts", data)
    assert hint not in notes(command, full, out), "they are there now"


@pytest.mark.parametrize("name", ["transformer", "my_roberta_like", "bartender", "wav2vec_ctc"])
def test_nobody_else_is_told_of_dictionaries(
    command: Command, full: Path, out: Path, name: str
) -> None:
    torch.save(of_architecture(name), full)
    assert not any("from_pretrained" in note for note in notes(command, full, out))


def test_an_optimizer_state_that_is_not_there_cannot_be_kept(
    command: Command, full: Path, out: Path
) -> None:
    torch.save(bare(training_checkpoint()), full)
    for options in ([], ["--dry-run"]):
        done = command("prune", full, out, "--decoder-keep", "0", "--keep-optimizer", *options)
        assert_one_line(
            done, f"{full}: there must be an optimizer's state in the checkpoint, got none"
        )
    assert os.listdir(out.parent) == []


# Other families, and layers that are one


def test_a_plan_that_parts_shared_layers_is_one_line(
    command: Command, full: Path, out: Path
) -> None:
    checkpoint = training_checkpoint()
    for stack in ("encoder", "decoder"):
        checkpoint["model"] = share(checkpoint["model"], f"{stack}.layers", [(0, 1), (2, 3)])
    torch.save(checkpoint, full)
    done = command("prune", full, out, "--encoder-keep", "0,4", "--decoder-keep", "1-5")
    assert_one_line(
        done,
        "encoder: the layers 0,1 share their weights, keep all or none of them; got 0; decoder: ",
    )
    assert command("prune", full, out, "--encoder-keep", "0,1,4").status == 0
    assert layers(out) == {"encoder": [0, 0, 4], "decoder": [0, 0, 2, 2, 4, 5]}


def test_a_plan_that_removes_the_alignment_is_one_line(
    command: Command, full: Path, out: Path
) -> None:
    checkpoint = training_checkpoint()
    checkpoint["cfg"]["model"] |= {"_name": "transformer_align", "alignment_layer": 4}
    torch.save(checkpoint, full)
    assert_one_line(
        command("prune", full, out, "--decoder-keep", "0,2"), "the alignment is layer 4's attention"
    )
    keep = ("--decoder-keep", "0,4", "--check", "tensors")
    assert "--alignment-layer 1" in command("prune", full, out, *keep).out


def test_inspect_shows_what_is_shared(command: Command, full: Path, out: Path) -> None:
    checkpoint = training_checkpoint()
    assert "share their weights" not in command("inspect", full).out
    checkpoint["model"] = share(checkpoint["model"], "decoder.layers", [(0, 2, 4), (1, 3)])
    torch.save(checkpoint, full)
    lines = command("inspect", full).out.splitlines()
    (row,) = (i for i, line in enumerate(lines) if "share their weights" in line)
    assert lines[row].split() == ["that", "share", "their", "weights:", "0,2,4", "|", "1,3"]
    assert lines[row - 1].startswith("decoder")
    assert json.loads(command("inspect", full, "--json").out)["stacks"]["decoder"]["shared"] == [
        [0, 2, 4],
        [1, 3],
    ]


def test_inspect_shows_lists_that_are_no_stacks(command: Command, full: Path) -> None:
    torch.save(family_checkpoint("wav2vec_ctc"), full)
    path = "w2v_encoder.w2v_model.feature_extractor.conv_layers"
    assert f"{path}: 7 layers, no stack (prune leaves them whole)" in command("inspect", full).out
    assert json.loads(command("inspect", full, "--json").out)["other_lists"] == {path: 7}


def test_inspect_shows_the_heads_of_a_roberta(command: Command, full: Path) -> None:
    torch.save(family_checkpoint("roberta"), full)
    text = command("inspect", full).out
    assert [line.split() for line in text.splitlines() if line.startswith("heads")] == [
        ["heads", "mnli"]
    ]
    assert "decoder" not in text


@pytest.mark.parametrize("verb", VERBS)
def test_help_shows_an_example(command: Command, verb: str) -> None:
    status, text, err = command(verb, "--help")
    assert (status, err) == (0, "")
    assert "example:" in text
    assert f"fairseq-layerdrop {verb}" in " ".join(text.partition("example:")[2].split())


def test_help_lists_the_verbs(command: Command) -> None:
    status, text, _ = command("--help")
    assert status == 0
    assert [verb for verb in VERBS if verb not in text] == []


@pytest.mark.parametrize("verb", VERBS)
def test_every_argument_has_help(verb: str) -> None:
    parser = argparse.ArgumentParser()
    VERBS[verb].add_arguments(parser)
    assert VERBS[verb].SUMMARY
    assert [action.dest for action in parser._actions if not action.help] == []


def missing(path: Path) -> None:
    path.unlink()


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def text_file(path: Path) -> None:
    path.write_text("| epoch 001 | loss 5.3\n")


def other_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "a")


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("echo it was run",)


def evil(path: Path) -> None:
    torch.save({"model": Evil()}, path)


def changed(**changes: Any) -> Callable[[Path], None]:
    """What makes a checkpoint in which one thing is wrong."""
    return lambda path: torch.save(training_checkpoint() | changes, path)


def gap(path: Path) -> None:
    model = training_checkpoint()["model"]
    changed(model={key: tensor for key, tensor in model.items() if "decoder.layers.2." not in key})(
        path
    )


BAD_INPUTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing": (missing, "there is no file"),
    "a directory": (directory, "is a directory"),
    "empty": (empty, "is empty"),
    "truncated": (truncated, "damaged"),
    "text": (text_file, "not a checkpoint"),
    "another zip": (other_zip, "not a checkpoint"),
    "evil": (evil, "system"),
    "no model": (changed(model=None), "no dictionary named 'model'"),
    "no layers": (changed(model={"w": torch.zeros(1)}), "no layers"),
    "no tensors": (changed(model={"encoder.layers.0.w": 1}), ""),
    "a gap": (gap, "decoder lacks"),
    "no cfg": (changed(cfg=None), "no configuration"),
    "no cfg.model": (changed(cfg={"task": {}}), "no configuration"),
    "a name as cfg.model": (changed(cfg={"model": "transformer"}), "no configuration"),
}

BAD_PLANS: dict[str, tuple[list[str], str]] = {
    "out of range": (["--encoder-keep", "0,6"], "0-5"),
    "negative": (["--encoder-keep", "-1"], "0-5"),
    "a list that begins with a negative": (["--encoder-keep", "-1,2"], ""),
    "repeated": (["--decoder-keep", "1,1"], "repeat"),
    "nothing": (["--decoder-keep", ""], "0-5"),
    "descending": (["--decoder-keep", "4-2"], "ascend"),
    "rubbish": (["--decoder-keep", "first three"], "0,2,4"),
    "unknown strategy": (["--decoder-keep", "random:3"], "every, even, spread, first, last"),
    "too many": (["--decoder-keep", "even:7"], "from 1 to the depth, 6"),
    "both stacks": (
        ["--encoder-keep", "9", "--decoder-keep", "8"],
        "decoder: layers must lie in 0-5, got 8",
    ),
    "unknown flag": (["--encoder-layers-to-keep", "0"], "--encoder-layers-to-keep"),
    "unknown style": (["--config-style", "yaml"], "plain"),
    "no value": (["--encoder-keep"], "--encoder-keep"),
    "a target that is not a number": (
        ["--target-params", "half"],
        "is like 30M, 1.2B, 800k or 30000000, got 'half'",
    ),
    "a target that is too small": (["--target-params", "100"], "got a target of 100"),
    "a target below what is named": (
        ["--encoder-keep", "all", "--target-params", "1k"],
        "the smallest that these",
    ),
    "a strategy without a target": (["--strategy", "last"], "--strategy goes with --target-params"),
    "a strategy beside a plan": (
        ["--strategy", "last", "--encoder-keep", "0"],
        "--strategy goes with --target-params",
    ),
    "a strategy that takes no depth": (["--target-params", "3k", "--strategy", "every"], "even"),
    "dictionaries of nowhere": (["--copy-dicts", "nowhere"], "there must be dictionaries"),
}

BAD_OUTPUTS: dict[str, tuple[str, str]] = {
    "there already": ("old.pt", "--force"),
    "the input itself": ("full.pt", "the input itself"),
    "a link to the input": ("link.pt", "the input itself"),
    "a directory": ("out", "is a directory"),
    "in no directory": ("nowhere/small.pt", "no directory"),
    "a name too long": ("n" * 300, "too long"),
}


def snapshot(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_a_bad_input_is_one_line_and_changes_nothing(
    command: Command, full: Path, out: Path, case: str
) -> None:
    make, reason = BAD_INPUTS[case]
    make(full)
    before = snapshot(full.parent)
    for verb in (["prune", full, out, "--decoder-keep", "0"], ["inspect", full]):
        assert_one_line(command(*verb), reason)
    assert snapshot(full.parent) == before


@pytest.mark.parametrize("case", BAD_PLANS)
def test_a_bad_plan_is_one_line_and_changes_nothing(
    command: Command, full: Path, out: Path, case: str
) -> None:
    flags, reason = BAD_PLANS[case]
    before = snapshot(full.parent)
    assert_one_line(command("prune", full, out, *flags), reason)
    assert snapshot(full.parent) == before


def test_a_stack_that_the_model_lacks_is_one_line(command: Command, full: Path, out: Path) -> None:
    torch.save(training_checkpoint(0, 8), full)
    assert_one_line(
        command("prune", full, out, "--encoder-keep", "0"), "encoder: the model has no such stack"
    )


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("case", BAD_OUTPUTS)
def test_a_bad_output_is_one_line_and_changes_nothing(
    command: Command, full: Path, out: Path, case: str, force: bool
) -> None:
    if force and case == "there already":
        return
    name, reason = BAD_OUTPUTS[case]
    (full.parent / "old.pt").write_bytes(b"old")
    (full.parent / "link.pt").symlink_to(full)
    before = snapshot(full.parent)
    assert_one_line(command("prune", full, full.parent / name, *["--force"] * force), reason)
    assert snapshot(full.parent) == before


@pytest.mark.parametrize(
    "arguments", [["shrink"], [], ["prune"], ["prune", "full.pt"], ["inspect", "a", "b"]], ids=str
)
def test_a_command_that_is_not_understood_is_one_line(
    command: Command, arguments: list[str]
) -> None:
    assert_one_line(command(*arguments), "")


def test_an_unknown_verb_is_told_the_known_ones(command: Command) -> None:
    done = command("shrink")
    assert done.status == 2
    assert [verb for verb in VERBS if verb not in done.err] == []


def test_the_program_as_a_process(full: Path, out: Path) -> None:
    done = subprocess.run(
        [*PROGRAM, "prune", full, out, "--decoder-keep", "0", "--json"], capture_output=True
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout)["output"] == str(out)


def test_a_mistake_as_a_process(full: Path, out: Path) -> None:
    done = subprocess.run(
        [*PROGRAM, "prune", full, out, "--decoder-keep", "9"], capture_output=True, text=True
    )
    assert_one_line(Done(done.returncode, done.stdout, done.stderr), "0-5")
    assert os.listdir(out.parent) == []


WITHOUT_FAIRSEQ = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("fairseq", "omegaconf", "hydra"):
            raise ImportError(f"{name} is not installed")

sys.meta_path.insert(0, Refuse())
from fairseq_layerdrop.cli import main
prune = ["prune", full, out, "--decoder-keep", "0,2"]
for arguments in (["inspect", full], prune, ["inspect", out, "--json"]):
    assert main(arguments) == 0, arguments
assert {"fairseq", "omegaconf", "hydra"}.isdisjoint(sys.modules)
"""


def test_files_are_inspected_and_pruned_where_fairseq_is_not_installed(
    full: Path, out: Path
) -> None:
    code = f"full, out = {str(full)!r}, {str(out)!r}\n{WITHOUT_FAIRSEQ}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert layers(out)["decoder"] == [0, 2]


# What a model learned of its layers

SCORES = {"encoder": [0.5, -1.0, 2.0, 0.0, 1.5, -0.5], "decoder": [5.0, 4.0, 3.0, 2.0, 1.0, 0.0]}


def learned_checkpoint(
    scores: dict[str, list[float]] = SCORES, rate: float = 0.5
) -> dict[str, Any]:
    """A checkpoint of 6+6 layers with gates; neighbours that share weights have one score."""
    checkpoint = training_checkpoint(ours=True)
    for stack, biases in scores.items():
        prefix = f"{stack}.layerdrop_gate."
        chunk = 6 // len(biases)
        if chunk > 1:
            groups = [tuple(range(i, i + chunk)) for i in range(0, 6, chunk)]
            checkpoint["model"] = share(checkpoint["model"], f"{stack}.layers", groups)
        checkpoint["model"] |= {
            prefix + "weight": torch.zeros(len(biases), DIM),
            prefix + "bias": torch.tensor(biases),
            prefix + "activation": torch.ones(len(biases), DIM),
        }
        checkpoint["cfg"]["model"] |= {f"{stack}_layerdrop": rate, "layerdrop_schedule": "learned"}
    return checkpoint


@pytest.fixture
def learned(full: Path) -> Path:
    torch.save(learned_checkpoint(), full)
    return full


def test_the_layers_that_the_model_learned_to_keep_are_kept(
    command: Command, learned: Path, out: Path
) -> None:
    done = command(
        "prune", learned, out, "--encoder-keep", "learned:3", "--decoder-keep", "learned:1"
    )
    assert (done.status, done.err) == (0, "")
    assert layers(out) == {"encoder": [1, 3, 5], "decoder": [5]}
    assert "the same again: --encoder-keep 1,3,5 --decoder-keep 5" in done.out
    assert not [key for key in load(out)["model"] if "layerdrop" in key]


def test_inspect_shows_the_rates_that_were_learned(command: Command, full: Path) -> None:
    scores = {
        "encoder": [0.0, 1.0, -1.0, 0.5, 0.2, -0.3],
        "decoder": [1.0, 0.0, 0.5],
    }  # the decoder's in chunks of two
    torch.save(learned_checkpoint(scores, rate=0.3), full)
    found = json.loads(command("inspect", full, "--json").out)["stacks"]
    for stack, biases in scores.items():
        whole = sum(math.exp(b) for b in biases)
        expected = [
            0.3 * len(biases) * math.exp(b) / whole for b in biases for _ in range(6 // len(biases))
        ]
        assert found[stack]["learned_rates"] == pytest.approx(expected, abs=1e-6)
        assert max(expected) < 0.95, "below the highest rate they are the softmax's"
        assert (
            f"rates learned: {' '.join(f'{rate:.2f}' for rate in expected)}\n"
            in command("inspect", full).out
        )
    torch.save(learned_checkpoint({"encoder": [9.0, 0.0, 0.0, 0.0, 0.0, 0.0]}), full)
    found = json.loads(command("inspect", full, "--json").out)["stacks"]
    assert found["encoder"]["learned_rates"] == pytest.approx([0.95] + 5 * [(3 - 0.95) / 5])
    assert "learned_rates" not in found["decoder"]


def test_learned_and_other_layers_go_together(command: Command, learned: Path, out: Path) -> None:
    assert command("prune", learned, out, "--encoder-keep", "learned:2").status == 0
    assert layers(out) == {"encoder": [1, 5], "decoder": [0, 1, 2, 3, 4, 5]}
    assert (
        command(
            "prune",
            learned,
            out,
            "--encoder-keep",
            "last:1",
            "--decoder-keep",
            "learned:2",
            "--force",
        ).status
        == 0
    )
    assert layers(out) == {"encoder": [5], "decoder": [4, 5]}


@pytest.mark.parametrize(("rate", "kept"), [(0.5, 3), (0.3, 4), (0.2, 5), (0.95, 1)])
def test_the_strategy_alone_keeps_as_many_as_ran_on_average(
    command: Command, learned: Path, out: Path, rate: float, kept: int
) -> None:
    torch.save(learned_checkpoint(rate=rate), learned)
    assert command("prune", learned, out, "--strategy", "learned").status == 0
    best = {"encoder": [1, 5, 3, 0, 4, 2], "decoder": [5, 4, 3, 2, 1, 0]}
    assert layers(out) == {stack: sorted(order[:kept]) for stack, order in best.items()}


def test_the_strategy_leaves_what_is_named_as_named(
    command: Command, learned: Path, out: Path
) -> None:
    assert (
        command("prune", learned, out, "--strategy", "learned", "--encoder-keep", "0,2").status == 0
    )
    assert layers(out) == {"encoder": [0, 2], "decoder": [3, 4, 5]}


def test_the_strategy_turns_a_target_into_learned_layers(
    command: Command, learned: Path, out: Path
) -> None:
    assert (
        command("prune", learned, out, "--strategy", "learned", "--target-params", "1.4k").status
        == 0
    )
    kept = layers(out)
    best = {"encoder": [1, 5, 3, 0, 4, 2], "decoder": [5, 4, 3, 2, 1, 0]}
    assert kept == {stack: sorted(best[stack][: len(indices)]) for stack, indices in kept.items()}
    assert 1 < sum(map(len, kept.values())) < 8
    assert parameters(command, out) <= 1400


def test_a_target_that_a_sub_network_meets_exactly_is_that_sub_network(
    command: Command, learned: Path, out: Path
) -> None:
    command("prune", learned, out, "--encoder-keep", "learned:4", "--decoder-keep", "learned:4")
    target = parameters(command, out)
    again = out.with_name("again.pt")
    assert (
        command("prune", learned, again, "--strategy", "learned", "--target-params", target).status
        == 0
    )
    assert layers(again) == layers(out)


@pytest.mark.parametrize(
    "flags",
    [
        ["--encoder-keep", "learned:3"],
        ["--decoder-keep", "learned:3"],
        ["--strategy", "learned"],
        ["--strategy", "learned", "--target-params", "2k"],
    ],
    ids=str,
)
def test_a_model_that_has_learned_nothing_is_refused_in_one_line(
    command: Command, full: Path, out: Path, flags: list[str]
) -> None:
    assert_one_line(
        command("prune", full, out, *flags),
        "needs a model trained with --layerdrop-schedule learned",
    )
    assert os.listdir(out.parent) == []


@pytest.mark.parametrize("rate", ["0,0.1,0.2,0.3,0.4,0.5", None], ids=["listed", "none"])
def test_a_model_of_other_rates_has_learned_nothing_either(
    command: Command, full: Path, out: Path, rate: str | None
) -> None:
    checkpoint = training_checkpoint(ours=True)
    checkpoint["cfg"]["model"] |= {"encoder_layerdrop": rate, "decoder_layerdrop": rate}
    torch.save(checkpoint, full)
    assert_one_line(
        command("prune", full, out, "--strategy", "learned"), "--layerdrop-schedule learned"
    )


@pytest.mark.parametrize(
    ("spec", "reason"), [("learned:7", "depth, 6, got 7"), ("learned:0", "got 0"), ("learned", "")]
)
def test_a_number_of_learned_layers_that_cannot_be_is_one_line(
    command: Command, learned: Path, out: Path, spec: str, reason: str
) -> None:
    assert_one_line(command("prune", learned, out, "--encoder-keep", spec), reason)


def test_what_is_learned_of_shared_layers_is_kept_by_chunks(
    command: Command, learned: Path, out: Path
) -> None:
    torch.save(learned_checkpoint({"encoder": [1.0, 0.0, 2.0], "decoder": [1.0, -1.0]}), learned)
    flags = ["--encoder-keep", "learned:4", "--decoder-keep", "learned:3"]
    assert command("prune", learned, out, *flags).status == 0
    assert layers(out) == {"encoder": [0, 0, 2, 2], "decoder": [3, 3, 3]}
    done = command("prune", learned, out, "--encoder-keep", "learned:3", "--force")
    assert_one_line(
        done, "encoder: the layers 0,1 share their weights, keep all or none of them; got 0"
    )
    lines = command("inspect", learned).out
    assert "0,1 | 2,3 | 4,5" in lines and "0,1,2 | 3,4,5" in lines


def test_the_strategy_alone_keeps_whole_chunks(command: Command, learned: Path, out: Path) -> None:
    torch.save(
        learned_checkpoint({"encoder": [1.0, 0.0, 2.0], "decoder": [0.0, 1.0, 2.0]}), learned
    )
    assert command("prune", learned, out, "--strategy", "learned").status == 0


def test_inspect_shows_rates_that_were_listed(command: Command, full: Path, out: Path) -> None:
    checkpoint = training_checkpoint(ours=True)
    checkpoint["cfg"]["model"]["encoder_layerdrop"] = "0,0.1,0.2,0.3,0.4,0.5"
    torch.save(checkpoint, full)
    listed = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
    assert "0.0, 0.1, 0.2, 0.3, 0.4, 0.5" in command("inspect", full).out
    assert command("prune", full, out, "--encoder-keep", "0,5").status == 0
    for path in (full, out):
        assert (
            json.loads(command("inspect", path, "--json").out)["stacks"]["encoder"]["layerdrop"]
            == listed
        )


def test_an_interruption_is_one_line(
    command: Command, full: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: Namespace) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(VERBS["inspect"], "run", interrupt)
    assert command("inspect", full) == (130, "", "fairseq-layerdrop inspect: interrupted\n")
