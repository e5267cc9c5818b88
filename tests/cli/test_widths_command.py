# SPDX-License-Identifier: MIT
"""``prune --heads-keep …`` and ``importance``, on a model that fairseq trained."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import Command, assert_one_line
from conftest import Run
from fairseq import checkpoint_utils
from fairseq_programs import assert_same_hypotheses, generate, prune

import fairseq_layerdrop
from fairseq_layerdrop import cli
from fairseq_layerdrop.checkpoint import digest, load

fairseq_layerdrop.register()


@pytest.fixture(scope="module")
def scores(trained: Run, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The importance of all heads and units, of the first three batches of four sentences."""
    target = tmp_path_factory.mktemp("scores") / "scores.json"
    flags = [
        "--path",
        str(trained.last),
        "--batches",
        "3",
        "--batch-size",
        "4",
        "--structure",
        "head",
        "--structure",
        "ffn",
    ]
    assert cli.main(["importance", str(data), str(target), *flags]) == 0
    return target


def test_it_says_what_was_asked_and_what_was_done(
    trained: Run, tmp_path: Path, command: Command
) -> None:
    flags = ["--heads-keep", "0.3", "--ffn-keep", "0.3", "--sublayers-remove", "encoder:3.ffn"]
    status, out, _ = command("prune", trained.last, tmp_path / "a.pt", *flags)
    assert status == 0
    assert "heads: asked 0.3, kept 1 of 2\n" in out
    assert "FFN units: asked 0.3, kept 10 of 32\n" in out
    assert "sub-layers removed: encoder.layers.3.ffn\n" in out
    assert "note: fairseq's own models cannot hold these shapes" in out
    assert "--layerdrop-shapes" in out


def test_a_sub_layer_is_numbered_as_in_the_input(
    trained: Run, tmp_path: Path, command: Command
) -> None:
    flags = ["--encoder-keep", "1,3", "--sublayers-remove", "encoder:3.self_attn"]
    assert command("prune", trained.last, tmp_path / "a.pt", *flags)[0] == 0
    names = load(tmp_path / "a.pt")["model"]
    assert "encoder.layers.0.self_attn.q_proj.weight" in names
    assert "encoder.layers.1.self_attn.q_proj.weight" not in names
    flags = ["--encoder-keep", "1,3", "--sublayers-remove", "encoder:2.ffn"]
    status, out, err = command("prune", trained.last, tmp_path / "b.pt", *flags)
    assert (status, out) == (2, "")
    assert "there is no encoder.layers.2.ffn in the model, or it is removed with its layer" in err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--heads-keep", "3"], "a number up to 2, or a share like 0.5, got 3"),
        (["--ffn-keep", "much"], "a number up to 32, or a share like 0.5, got much"),
        (["--sublayers-remove", "encoder.3.ffn"], "a sub-layer is like encoder:3.ffn"),
        (["--importance", "x.json"], "--importance goes with --heads-keep or --ffn-keep"),
        (["--heads-keep", "1", "--keep-optimizer"], "leave it out"),
    ],
)
def test_a_mistake_is_one_line(
    trained: Run, tmp_path: Path, command: Command, flags: list[str], message: str
) -> None:
    status, out, err = command("prune", trained.last, tmp_path / "a.pt", *flags)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert list(tmp_path.iterdir()) == []


def test_a_pruned_pruned_model_translates(trained: Run, data: Path, tmp_path: Path) -> None:
    """With all widths kept it translates as the full model; pruned, it is another model."""
    whole = prune(trained.last, tmp_path / "whole.pt")
    all_units = prune(trained.last, tmp_path / "all.pt", "--heads-keep", "2", "--ffn-keep", "1.0")
    short = ["--max-len-a", "0", "--max-len-b", "12"]
    assert_same_hypotheses(
        generate(data, whole, *short), generate(data, all_units, *short), sentences=11
    )


def test_incremental_decoding_is_that_of_the_whole_sentence(trained: Run, tmp_path: Path) -> None:
    flags = [
        "--heads-keep",
        "1",
        "--sublayers-remove",
        "decoder:1.self_attn,decoder:2.encoder_attn,decoder:3.ffn",
    ]
    (model,), _, _ = checkpoint_utils.load_model_ensemble_and_task(
        [str(prune(trained.last, tmp_path / "a.pt", *flags))]
    )
    model.eval()
    source, target = torch.randint(4, 14, (2, 5)), torch.randint(4, 14, (2, 6))
    with torch.no_grad():
        encoded = model.encoder(source, torch.tensor([5, 5]))
        at_once, extra = model.decoder(target, encoded)
        state: dict[str, Any] = {}
        steps = [
            model.decoder(target[:, : i + 1], encoded, incremental_state=state)[0] for i in range(6)
        ]
    assert torch.allclose(torch.cat(steps, 1), at_once, atol=1e-5)
    assert extra["attn"][0].sum(-1).allclose(torch.ones(2, 6))


# Importance


def test_heads_of_an_official_checkpoint_are_measured(
    official: Path, tmp_path: Path, command: Command
) -> None:
    """Its file has keys that fairseq's own loader does not take any more."""
    flags = ["--path", official / "checkpoint.pt", "--structure", "head", "--batches", "1"]
    status, _, err = command("importance", official / "data-bin", tmp_path / "scores.json", *flags)
    assert status == 0, err
    assert len(json.loads((tmp_path / "scores.json").read_text())["scores"]) == 18


def test_scores_may_be_measured_again_and_nothing_else_is_replaced(
    official: Path, tmp_path: Path, command: Command
) -> None:
    out, mine = tmp_path / "scores.json", tmp_path / "mine.pt"
    shutil.copy(official / "checkpoint.pt", mine)
    flags = ["--structure", "head", "--batches", "1"]
    for _ in range(2):
        done = command("importance", official / "data-bin", out, "--path", mine, *flags)
        assert done.status == 0, done.err
    before = mine.read_bytes()
    for path, reason in ((mine, "is the input itself"), (official / "checkpoint.pt", "not of")):
        done = command("importance", official / "data-bin", mine, "--path", path, *flags)
        assert_one_line(done, reason)
    done = command("importance", official / "data-bin", tmp_path, "--path", mine, *flags)
    assert_one_line(done, "is a directory")
    assert mine.read_bytes() == before
    flags = ["--importance", str(out), "--heads-keep", "1", "--force"]
    assert_one_line(command("prune", mine, out, *flags), "is the input itself")


def test_the_importance_of_a_head_is_the_loss_s_derivative_by_its_mask(
    trained: Run, data: Path, scores: Path
) -> None:
    """By a mask that is really there, on the first batch's output of a head; summed by hand."""
    (model,), cfg, task = checkpoint_utils.load_model_ensemble_and_task(
        [str(trained.last)], {"data": str(data)}
    )
    task.load_dataset("valid")
    batches = task.get_batch_iterator(
        task.dataset("valid"), max_sentences=4, seed=1
    ).next_epoch_itr(shuffle=False)
    attention = model.eval().decoder.layers[1].encoder_attn
    expected, weight = torch.zeros(2), attention.out_proj.weight
    criterion = task.build_criterion(cfg.criterion)
    for sample, _ in zip(batches, range(3), strict=False):
        mask = torch.ones(2, requires_grad=True)
        columns = weight * mask.repeat_interleave(16)
        del attention.out_proj._parameters["weight"]
        attention.out_proj.weight = columns
        loss, size, _ = criterion(model, sample)
        (gradient,) = torch.autograd.grad(loss / size, mask)
        expected += gradient.abs() / 3
        attention.out_proj.__dict__.pop("weight")
        attention.out_proj.weight = weight
    found = json.loads(scores.read_text())
    assert found["scores"]["decoder.layers.1.encoder_attn"] == pytest.approx(
        expected.tolist(), rel=1e-3
    )
    assert len(found["scores"]) == 4 * 2 + 4 * 3
    assert (found["checkpoint"], found["sentences"]) == (digest(trained.last), 12)


def test_the_most_important_stay(trained: Run, scores: Path, tmp_path: Path) -> None:
    flags = ["--heads-keep", "1", "--ffn-keep", "4", "--importance", str(scores)]
    inside = load(prune(trained.last, tmp_path / "a.pt", *flags))["extra_state"]["layerdrop"][
        "steps"
    ][0]["inside"]
    found = json.loads(scores.read_text())["scores"]
    for path, kept in inside["kept"].items():
        assert set(kept) == set(torch.tensor(found[path]).topk(len(kept)).indices.tolist())


@pytest.mark.parametrize(
    "content", ['{"kind": "importance"}\n{"kind": "importance"}\n', "[]", "{}", "no json", "\udcff"]
)
def test_a_file_of_no_scores_is_refused(
    trained: Run, tmp_path: Path, command: Command, content: str
) -> None:
    file = tmp_path / "importance.jsonl"
    file.write_bytes(content.encode("utf-8", "surrogateescape"))
    status, out, err = command(
        "prune", trained.last, tmp_path / "a.pt", "--heads-keep", "1", "--importance", file
    )
    assert (status, out) == (2, "")
    assert f"--importance: {file} holds no scores of heads and units; write it by" in err


def test_scores_of_another_checkpoint_are_refused(
    trained: Run, scores: Path, tmp_path: Path, command: Command
) -> None:
    other = prune(trained.last, tmp_path / "other.pt")
    flags = ["--heads-keep", "1", "--importance", scores]
    status, _, err = command("prune", other, tmp_path / "a.pt", *flags)
    assert status == 2
    assert f"must be of this checkpoint, {digest(other)}, got {digest(trained.last)}" in err
