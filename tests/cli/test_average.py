# SPDX-License-Identifier: MIT
"""``average``: which files are taken, what is said and written, what is refused in one line."""

import functools
import json
import os
import shutil
import subprocess
import sys
import weakref
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from builders import FFN, training_checkpoint
from commands import Command, Done, assert_one_line
from fairseq_programs import (
    assert_same_hypotheses,
    assert_same_tensors,
    generate,
    hypotheses,
    prune,
    weights,
)
from repeats import mostly_slow

from fairseq_layerdrop import checkpoint as files
from fairseq_layerdrop.checkpoint import digest, load

Folder = Callable[..., Path]


@pytest.fixture
def average(command: Command) -> Command:
    """``average(path, path, out)``: run the verb in this process."""
    return functools.partial(command, "average")


def write(path: Path, value: float, *, maximize: bool | None = None, **form: Any) -> Path:
    """A checkpoint recognised by ``value``: one of its weights, and its number of updates."""
    found = training_checkpoint(2, 2, **form)
    found["model"]["encoder.layer_norm.bias"].fill_(value)
    found["optimizer_history"][-1]["num_updates"] = int(value)
    if maximize is not None:
        found["cfg"]["checkpoint"]["maximize_best_checkpoint_metric"] = maximize
    torch.save(found, path)
    return path


@pytest.fixture
def save_dir(tmp_path: Path) -> Folder:
    """``save_dir("checkpoint1.pt", …)``: a folder of these files, the n-th of value 2 to the n."""

    def make(*names: str, **form: Any) -> Path:
        folder = tmp_path / "save_dir"
        folder.mkdir()
        for n, name in enumerate(names):
            write(folder / name, 2.0**n, **form)
        return folder

    return make


@pytest.fixture
def three(save_dir: Folder) -> list[Path]:
    """Three checkpoints, of values 1, 2 and 4."""
    names = ["a.pt", "b.pt", "c.pt"]
    folder = save_dir(*names)
    return [folder / name for name in names]


def rewrite(path: Path, found: dict[str, Any], **options: Any) -> None:
    """Replace a checkpoint's file; writing over it would change what ``load`` has mapped."""
    torch.save(found, path.with_suffix(".new"), **options)
    path.with_suffix(".new").rename(path)


def value(path: Path) -> float:
    (found,) = set(load(path)["model"]["encoder.layer_norm.bias"].tolist())
    return found


# What is written and said


def test_the_mean_of_the_files_is_written(average: Command, three: list[Path], out: Path) -> None:
    status, text, err = average(*three, out)
    assert (status, err) == (0, "")
    assert value(out) == torch.tensor(7.0).div(3).item()
    assert [line for line in text.splitlines() if line.startswith("input: ")] == [
        f"input: {path}" for path in three
    ]
    assert f"bytes: {out.stat().st_size:,}\n" in text
    assert ", float32\n" in text
    assert (
        "left out: optimizer state, best, val_loss, metrics; all else but the weights is that of "
        "the first" in text
    )
    assert text.endswith(f"\nwritten and checked: {out}\n")


def test_one_file_is_its_own_mean(average: Command, three: list[Path], out: Path) -> None:
    assert average(three[1], out).status == 0
    assert_same_tensors(weights(out), weights(three[1]))


def test_as_json(average: Command, three: list[Path], out: Path) -> None:
    status, text, err = average(*three, out, "--json")
    facts = json.loads(text)
    assert (status, err) == (0, "")
    assert facts["inputs"] == [str(path) for path in three]
    assert (facts["output"], facts["bytes"]) == (str(out), out.stat().st_size)
    assert facts["left_out"] == ["optimizer state", "best", "val_loss", "metrics"]
    assert facts["namespaces"] == []
    assert facts["dtypes"] == [["float32"], ["float32"]]
    inspected = subprocess.run(
        [sys.executable, "-m", "fairseq_layerdrop.cli", "inspect", out, "--json"],
        capture_output=True,
        check=True,
    )
    assert facts["parameters"] == json.loads(inspected.stdout)["parameters"]["total"]


def test_half_precision_is_said_to_be_summed_in_single(
    average: Command, three: list[Path], out: Path
) -> None:
    found = load(three[1])
    rewrite(
        three[1], found | {"model": {key: tensor.half() for key, tensor in found["model"].items()}}
    )
    assert ", float16, float32 -> float32\n" in average(*three, out).out


def test_all_else_is_the_firsts_and_the_sources_are_named(
    average: Command, three: list[Path], out: Path
) -> None:
    average(three[2], three[0], three[1], out)
    mean = load(out)
    assert mean["optimizer_history"][-1]["num_updates"] == 4
    assert mean["extra_state"]["layerdrop_average"]["sources"] == [
        digest(three[n]) for n in (2, 0, 1)
    ]


def test_the_mean_is_read_by_torchs_safe_defaults(
    average: Command, save_dir: Folder, out: Path
) -> None:
    folder = save_dir("a.pt", "b.pt", namespace=True, ema=True)
    for path in list(folder.iterdir()):
        found = load(path)
        found["extra_state"]["best_bleu"] = numpy.float64(30.1)
        rewrite(path, found)
    assert average(folder / "a.pt", folder / "b.pt", out).status == 0
    mean = torch.load(out, weights_only=True)
    assert mean["cfg"]["model"]["_name"] == "transformer"
    assert "last_optimizer_state" not in mean
    assert "ema" not in mean["extra_state"]


def test_a_namespace_that_is_needed_is_kept(average: Command, save_dir: Folder, out: Path) -> None:
    folder = save_dir("a.pt", namespace=True)
    found = load(folder / "a.pt")
    found["cfg"]["model"]._name = "bart_base"
    rewrite(folder / "a.pt", found)
    done = average(folder / "a.pt", out)
    assert "this package's --user-dir: cfg.model, cfg.optimizer\n" in done.out
    assert load(out)["cfg"]["model"] == found["cfg"]["model"]
    assert type(load(out)["cfg"]["model"]) is Namespace


def test_files_of_the_old_format_go_in_too(average: Command, three: list[Path], out: Path) -> None:
    found = load(three[0])
    rewrite(three[0], found, _use_new_zipfile_serialization=False)
    assert average(*three, out).status == 0
    assert value(out) == torch.tensor(7.0).div(3).item()


def test_the_same_command_writes_the_same_file(
    average: Command, three: list[Path], out: Path
) -> None:
    for target in (out, out.with_name("again.pt")):
        average(*three, target)
    assert digest(out) == digest(out.with_name("again.pt"))


def test_force_replaces_an_output(average: Command, three: list[Path], out: Path) -> None:
    out.write_bytes(b"old")
    assert_one_line(average(*three, out), "--force")
    assert out.read_bytes() == b"old"
    assert average(*three, out, "--force").status == 0
    assert value(out) == torch.tensor(7.0).div(3).item()


def test_one_file_is_read_at_a_time(
    average: Command, save_dir: Folder, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[weakref.ref[torch.Tensor]] = []
    most: list[int] = []

    def watched(path: Path, read: Callable[..., dict[str, Any]] = files.load) -> dict[str, Any]:
        most.append(sum(ref() is not None for ref in seen))
        found = read(path)
        seen.extend(weakref.ref(tensor) for tensor in found["model"].values())
        return found

    folder = save_dir(*(f"checkpoint{n}.pt" for n in range(6)))
    monkeypatch.setattr(files, "load", watched)
    assert average(folder, out, "--num-epoch-checkpoints", 6).status == 0
    assert most == [0] * 7, (
        "six inputs and the check of the output, none read while another was held"
    )


def test_what_was_written_wrong_is_not_kept(
    average: Command, three: list[Path], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save_with_a_flaw(
        checkpoint: dict[str, Any], file: Any, write: Callable[..., None] = torch.save
    ) -> None:
        flaw = {"encoder.layers.1.fc1.bias": torch.full((FFN,), 3.0)}
        write(checkpoint | {"model": checkpoint["model"] | flaw}, file)

    monkeypatch.setattr(torch, "save", save_with_a_flaw)
    assert_one_line(average(*three, out), "encoder.layers.1.fc1.bias")
    assert os.listdir(out.parent) == []


def test_average_then_prune_is_prune_then_average(
    average: Command, three: list[Path], out: Path
) -> None:
    keep = ["--encoder-keep", "1", "--decoder-keep", "0"]
    small = [prune(path, path.with_name(f"small_{path.name}"), *keep) for path in three]
    average(*three, out.with_name("full.pt"))
    one = prune(out.with_name("full.pt"), out.with_name("one.pt"), *keep)
    assert average(*small, out).status == 0
    ways = [load(path) for path in (one, out)]
    assert_same_tensors(*(way.pop("model") for way in ways))
    for way in ways:
        assert way["extra_state"].pop("layerdrop_average")
        assert way["extra_state"].pop("layerdrop")
    assert ways[0] == ways[1]


# Which files of a folder


def taken(done: Done) -> list[str]:
    assert (done.status, done.err) == (0, "")
    return [
        Path(line.removeprefix("input: ")).name
        for line in done.out.splitlines()
        if line.startswith("input: ")
    ]


EPOCHS = ["checkpoint9.pt", "checkpoint10.pt", "checkpoint8.pt", "checkpoint100.pt"]
UPDATES = ["checkpoint_9_900.pt", "checkpoint_1_1000.pt", "checkpoint_2_50.pt"]
OTHERS = [
    "checkpoint_best.pt",
    "checkpoint_last.pt",
    "xcheckpoint11.pt",
    "checkpoint12.pt.tmp",
    "checkpoint13_x.pt",
]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--num-epoch-checkpoints", "1"], [100]),
        (["--num-epoch-checkpoints", "3"], [100, 10, 9]),
        (["--num-epoch-checkpoints", "2", "--checkpoint-upper-bound", "10"], [10, 9]),
        (["--num-epoch-checkpoints", "2", "--checkpoint-upper-bound", "99"], [10, 9]),
        (["--num-epoch-checkpoints", "1", "--checkpoint-upper-bound", "100"], [100]),
    ],
    ids=str,
)
def test_the_last_epochs_newest_first(
    average: Command, save_dir: Folder, out: Path, flags: list[str], expected: list[int]
) -> None:
    done = average(save_dir(*EPOCHS, *UPDATES, *OTHERS), out, *flags)
    assert taken(done) == [f"checkpoint{n}.pt" for n in expected]
    values = [2.0 ** EPOCHS.index(f"checkpoint{n}.pt") for n in expected]
    assert value(out) == torch.tensor(sum(values)).div(len(values)).item()
    assert load(out)["optimizer_history"][-1]["num_updates"] == values[0]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--num-update-checkpoints", "2"], ["checkpoint_1_1000.pt", "checkpoint_9_900.pt"]),
        (
            ["--num-update-checkpoints", "2", "--checkpoint-upper-bound", "900"],
            ["checkpoint_9_900.pt", UPDATES[2]],
        ),
    ],
    ids=str,
)
def test_the_last_updates_newest_first(
    average: Command, save_dir: Folder, out: Path, flags: list[str], expected: list[str]
) -> None:
    assert taken(average(save_dir(*EPOCHS, *UPDATES, *OTHERS), out, *flags)) == expected


BEST = ["9.500", "10.2501", "-0.5004", "9.4999", "100.0"]


@pytest.mark.parametrize(
    ("maximize", "expected"),
    [
        (True, ["100.0", "10.2501", "9.500"]),
        (False, ["-0.5004", "9.4999", "9.500"]),
        (None, ["-0.5004", "9.4999", "9.500"]),
    ],
)
def test_the_best_are_those_that_the_training_called_so(
    average: Command, save_dir: Folder, out: Path, maximize: bool | None, expected: list[str]
) -> None:
    folder = save_dir(
        *(f"checkpoint.best_bleu_4-2_{number}.pt" for number in BEST), maximize=maximize
    )
    for name in ("checkpoint_best.pt", "checkpoint.best_bleu_4-2_nan3.pt", "checkpoint5.pt"):
        write(folder / name, 77)
    done = average(folder, out, "--num-best-checkpoints", "3")
    assert taken(done) == [f"checkpoint.best_bleu_4-2_{number}.pt" for number in expected]


def test_the_best_of_options_in_args(average: Command, save_dir: Folder, out: Path) -> None:
    folder = save_dir("checkpoint.best_bleu_9.5.pt", "checkpoint.best_bleu_10.5.pt")
    for path in list(folder.iterdir()):
        options = {
            "arch": "transformer",
            "task": "translation",
            "maximize_best_checkpoint_metric": True,
        }
        rewrite(path, load(path) | {"cfg": None, "args": Namespace(**options)})
    assert taken(average(folder, out, "--num-best-checkpoints", "1")) == [
        "checkpoint.best_bleu_10.5.pt"
    ]


def test_the_best_by_several_metrics_are_refused(
    average: Command, save_dir: Folder, out: Path
) -> None:
    folder = save_dir("checkpoint.best_bleu_9.5.pt", "checkpoint.best_loss_4.5.pt")
    assert_one_line(
        average(folder, out, "--num-best-checkpoints", "1"),
        "several metrics, bleu, loss; name the files",
    )


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (
            ["--num-epoch-checkpoints", "5"],
            "holds 4 files named checkpointEPOCH.pt, not the 5 asked for",
        ),
        (
            ["--num-epoch-checkpoints", "4", "--checkpoint-upper-bound", "99"],
            "holds 3 files named checkpointEPOCH.pt",
        ),
        (
            ["--num-epoch-checkpoints", "4", "--checkpoint-upper-bound", "99"],
            "up to 99, not the 4 asked for",
        ),
        (
            ["--num-update-checkpoints", "4"],
            "holds 3 files named checkpoint_EPOCH_UPDATE.pt, not the 4 asked for",
        ),
        (
            ["--num-best-checkpoints", "1"],
            "holds 0 files named checkpoint.best_METRIC_VALUE.pt, not the 1 asked for",
        ),
        (["--num-epoch-checkpoints", "0"], "1 or more, got '0'"),
        (["--num-epoch-checkpoints", "-1"], "-1"),
        (["--num-best-checkpoints", "few"], "1 or more, got 'few'"),
        (["--num-epoch-checkpoints", "1", "--num-update-checkpoints", "1"], "not allowed with"),
        (["--num-epoch-checkpoints", "1", "--num-best-checkpoints", "1"], "not allowed with"),
        (
            ["--num-best-checkpoints", "1", "--checkpoint-upper-bound", "3"],
            "goes with --num-epoch-checkpoints",
        ),
        (["--checkpoint-upper-bound", "3"], "goes with --num-epoch-checkpoints"),
        ([], "is a directory; say which of its files, e.g. by --num-epoch-checkpoints 5"),
    ],
    ids=str,
)
def test_a_folder_that_does_not_give_them_is_one_line(
    average: Command, save_dir: Folder, out: Path, flags: list[str], reason: str
) -> None:
    assert_one_line(average(save_dir(*EPOCHS, *UPDATES, *OTHERS), out, *flags), reason)
    assert os.listdir(out.parent) == []


@pytest.mark.parametrize("kind", ["epoch", "update", "best"])
def test_files_where_a_folder_is_asked_for_are_one_line(
    average: Command, three: list[Path], out: Path, kind: str
) -> None:
    for paths in (three, three[:1], [three[0].parent] * 2, [out.parent / "nowhere"]):
        assert_one_line(
            average(*paths, out, f"--num-{kind}-checkpoints", "1"),
            f"--num-{kind}-checkpoints takes one",
        )


# What is refused


def snapshot(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def another_depth(path: Path) -> None:
    torch.save(training_checkpoint(2, 3), path)


def truncated(path: Path) -> None:
    torch.save(training_checkpoint(6, 6), path)
    path.write_bytes(path.read_bytes()[:-100])


def no_projections(path: Path) -> None:
    found = training_checkpoint(2, 2)
    found["model"]["decoder.layers.0.self_attn.in_proj_weight"] = torch.zeros(4, 4)
    torch.save(found, path)


BAD_INPUTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (Path.unlink, "there is no file"),
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "truncated": (truncated, "is damaged"),
    "text": (lambda path: path.write_text("| epoch 001 | loss 5.3\n"), "not a checkpoint"),
    "another depth": (another_depth, "b.pt: it does not fit"),
    "wrong projections": (
        no_projections,
        "b.pt: decoder.layers.0.self_attn.in_proj_weight must hold three",
    ),
    "a copy": (
        lambda path: shutil.copy(path.with_name("a.pt"), path),
        "b.pt: it is the same checkpoint as",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_a_bad_input_is_one_line_and_changes_nothing(
    average: Command, three: list[Path], out: Path, case: str
) -> None:
    make, reason = BAD_INPUTS[case]
    make(three[1])
    before = snapshot(out.parents[1])
    assert_one_line(average(*three, out), reason)
    assert snapshot(out.parents[1]) == before


def test_the_same_file_twice_is_one_line(average: Command, three: list[Path], out: Path) -> None:
    link = three[0].with_name("link.pt")
    link.symlink_to(three[0])
    for again in (three[0], link):
        assert_one_line(
            average(*three, again, out), f"{again}: it is the same checkpoint as {three[0]}"
        )


def test_other_layers_of_one_model_are_one_line(
    average: Command, three: list[Path], out: Path
) -> None:
    small = [
        prune(path, path.with_name(f"small{i}.pt"), "--decoder-keep", str(i % 2))
        for i, path in enumerate(three)
    ]
    assert average(small[0], small[2], out).status == 0
    out.unlink()
    done = average(*small, out)
    assert_one_line(
        done, f"{small[1]}: it holds other layers of the full model (all/1) than {small[0]} (all/0)"
    )


BAD_OUTPUTS: dict[str, tuple[str, str]] = {
    "the first input": ("a.pt", "the input itself"),
    "the last input": ("c.pt", "the input itself"),
    "a link to an input": ("link.pt", "the input itself"),
    "there already": ("old.pt", "--force"),
    "a directory": (".", "is a directory"),
    "in no directory": ("nowhere/mean.pt", "no directory"),
}


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("case", BAD_OUTPUTS)
def test_a_bad_output_is_one_line_and_changes_nothing(
    average: Command, three: list[Path], case: str, force: bool
) -> None:
    if force and case == "there already":
        return
    name, reason = BAD_OUTPUTS[case]
    folder = three[0].parent
    (folder / "old.pt").write_bytes(b"old")
    (folder / "link.pt").symlink_to(three[1])
    before = snapshot(folder)
    assert_one_line(average(*three, folder / name, *["--force"] * force), reason)
    assert snapshot(folder) == before


def test_the_output_is_looked_at_before_any_work(
    average: Command, three: list[Path], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out.write_bytes(b"old")
    monkeypatch.setattr(files, "load", lambda path: pytest.fail(f"{path} was read"))
    assert_one_line(average(*three, out), "--force")


def test_an_output_among_the_chosen_of_the_folder_is_one_line(
    average: Command, save_dir: Folder
) -> None:
    folder = save_dir("checkpoint1.pt", "checkpoint2.pt")
    done = average(folder, folder / "checkpoint1.pt", "--num-epoch-checkpoints", "2", "--force")
    assert_one_line(done, "the input itself")
    assert value(folder / "checkpoint1.pt") == 1


def test_one_name_alone_is_one_line(average: Command, three: list[Path]) -> None:
    assert_one_line(average(three[0]), "required: OUT")


# Without fairseq, and with the files of official fairseq

WITHOUT_FAIRSEQ = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("fairseq", "omegaconf", "hydra"):
            raise ImportError(f"{name} is not installed")

sys.meta_path.insert(0, Refuse())
from fairseq_layerdrop.cli import main
assert main(["average", *sys.argv[1:]]) == 0
"""


def test_as_a_process_where_fairseq_is_not_installed(three: list[Path], out: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_FAIRSEQ, *three, out]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert value(out) == torch.tensor(7.0).div(3).item()


def test_the_progress_is_seen_in_a_terminal(
    average: Command, three: list[Path], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # what makes rich take a pipe for a terminal
    monkeypatch.setenv("TERM", "xterm")
    done = average(*three, out)
    assert "adding" in done.err
    assert "adding" not in done.out


def test_a_copy_of_an_official_checkpoint_is_no_other_one(
    average: Command, official_lm: Path, tmp_path: Path, out: Path
) -> None:
    official = official_lm / "checkpoint.pt"
    copy = shutil.copy(official, tmp_path / "copy.pt")
    assert_one_line(
        average(official, copy, out), f"{copy}: it is the same checkpoint as {official}"
    )


def scaled(official: Path, target: Path, factor: float) -> Path:
    """An official checkpoint whose weights are these times a factor."""
    found = load(official)
    model = found["model"]
    state = [
        key
        for key in model
        if key.endswith((".version", "_float_tensor")) or not model[key].is_floating_point()
    ]
    found["model"] = {
        key: tensor if key in state else tensor * factor for key, tensor in model.items()
    }
    found["extra_state"].pop("train_meters", None)  # objects of 2019, which cannot be saved again
    torch.save(found, target)
    return target


@pytest.mark.parametrize(
    "name",
    mostly_slow(["translation-0.6.2", "translation-0.12.2", "lm-0.12.2"], "translation-0.6.2"),
)
def test_the_mean_of_official_checkpoints_is_read_by_torchs_safe_defaults(
    average: Command, fixtures: Path, tmp_path: Path, out: Path, name: str
) -> None:
    """In a process of its own: fairseq's plugin allow-lists more."""
    official = fixtures / name / "checkpoint.pt"
    assert average(official, scaled(official, tmp_path / "thrice.pt", 3), out).status == 0
    code = f"import torch; torch.load({str(out)!r}, weights_only=True)['cfg']['model']['_name']"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["translation-0.6.2", "translation-0.12.2"])
def test_the_mean_runs_in_stock_fairseq(
    average: Command, fixtures: Path, tmp_path: Path, out: Path, name: str
) -> None:
    """The mean of the official weights times a half and one and a half is the official model."""
    official = fixtures / name / "checkpoint.pt"
    parts = [scaled(official, tmp_path / f"{factor}.pt", factor) for factor in (0.5, 1.5)]
    assert average(*parts, out).status == 0
    expected = hypotheses((fixtures / name / "expected" / "enc012345.dec012345.txt").read_text())
    assert_same_hypotheses(generate(fixtures / name / "data-bin", out), expected, sentences=100)
