# SPDX-License-Identifier: MIT
"""``sweep`` and ``importance`` of layers: rows against stock fairseq and sacreBLEU."""

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import Command
from fairseq_programs import generate, hypotheses, prune
from planted import comparable, count_calls, plant, rows, subject
from sacrebleu.metrics import BLEU, CHRF
from torch.nn.modules.module import register_module_forward_hook

from fairseq_layerdrop import checkpoint, cli
from fairseq_layerdrop.evaluation import sweep as sweep_module
from fairseq_layerdrop.evaluation.decoding import Decoder, read_references
from fairseq_layerdrop.evaluation.loading import Batches
from fairseq_layerdrop.evaluation.losses import score_losses
from fairseq_layerdrop.evaluation.significance import holm, paired_bleu, paired_losses
from fairseq_layerdrop.evaluation.sweep import Measures, Results, measure
from fairseq_layerdrop.evaluation.texts import score_texts
from fairseq_layerdrop.pruning.plan import PruningPlan


@pytest.fixture(scope="module")
def swept(official: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep over four plans, one of them named twice."""
    out = tmp_path_factory.mktemp("swept") / "rows.jsonl"
    flags = [
        "--path",
        str(official / "checkpoint.pt"),
        "--curve",
        "tiny",
        "--metrics",
        "loss,bleu,chrf,rouge,memory",
    ]
    points = ["--points", "6+3 all/0,2,4 3+3 3+2"]
    assert cli.main(["sweep", str(official / "data-bin"), str(out), *flags, *points]) == 0
    return out


def by_plan(path: Path) -> dict[str, dict[str, Any]]:
    return {row["plan"]: row for row in rows(path, "plan")}


def references(official: Path) -> list[str]:
    model = subject(official / "checkpoint.pt", official / "data-bin").loaded
    words = model.task.target_dictionary
    model.task.load_dataset("test")
    dataset = model.task.dataset("test")
    return [words.string(dataset[i]["target"]) for i in range(len(dataset))]


def test_a_row_has_what_was_asked_for_and_its_signature(swept: Path) -> None:
    found = by_plan(swept)
    assert list(found) == ["all/all", "all/0,2,4", "0,2,4/0,2,4", "0,2,4/0,3"]
    for plan, row in found.items():
        assert row["curve"] == "tiny"
        assert row["sentences"] == 100
        for name in (
            "loss",
            "ppl",
            "tokens",
            "bleu",
            "chrf",
            "rouge1",
            "rougeL",
            "memory_bytes",
            "sentences_per_second",
        ):
            assert row[name] > 0, name
        assert "latency_ms" not in row
        assert not {"texts", "units", "sizes"} & set(row)
        assert {
            "plan",
            "checkpoint",
            "data",
            "subset",
            "beam",
            "lenpen",
            "threads",
            "versions",
        } <= set(row["signature"])
        assert row["signature"]["plan"] == plan
        assert row["ppl"] == pytest.approx(2 ** row["loss"])
    assert found["0,2,4/0,2,4"]["memory_bytes"] < found["all/all"]["memory_bytes"]


def test_each_row_names_its_command_and_the_seed_of_the_training(
    official: Path, swept: Path
) -> None:
    for row in by_plan(swept).values():
        assert row["command"].startswith(
            f"fairseq-layerdrop sweep {official}/data-bin {swept} --path"
        )
        assert row["seconds"] >= 0 and row["machine"] and row["version"]
        assert (
            row["commit"]
            == subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], text=True).strip()
        )
        assert row["seed"] == checkpoint.load(official / "checkpoint.pt")["cfg"]["common"]["seed"]


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        ("all/all", "enc012345.dec012345"),
        ("all/0,2,4", "enc012345.dec024"),
        ("0,2,4/0,2,4", "enc024.dec024"),
    ],
)
def test_bleu_and_chrf_are_those_of_what_official_fairseq_generates(
    official: Path, swept: Path, plan: str, expected: str
) -> None:
    printed = hypotheses((official / "expected" / f"{expected}.txt").read_text())
    texts, truth = [printed[number][1] for number in range(100)], [references(official)]
    row = by_plan(swept)[plan]
    assert row["bleu"] == round(BLEU().corpus_score(texts, truth).score, 2)
    assert row["chrf"] == round(CHRF().corpus_score(texts, truth).score, 2)


def test_bleu_is_that_of_stock_fairseq_generate_on_the_pruned_file(
    official: Path, swept: Path, tmp_path: Path, command: Command
) -> None:
    """With another beam and length penalty; the longest output depends on the batch, so keep it."""
    small = prune(
        official / "checkpoint.pt",
        tmp_path / "small.pt",
        "--encoder-keep",
        "0,1",
        "--decoder-keep",
        "1",
    )
    own = ["--lenpen", "0.3", "--max-len-a", "0.5", "--max-len-b", "4"]
    printed = generate(official / "data-bin", small, *own, "--beam", "3")
    texts = [printed[number][1] for number in range(100)]
    out = tmp_path / "rows.jsonl"
    own += ["--beam", "3", "--batch-size", "32"]
    flags = ["--path", official / "checkpoint.pt", "--points", "0,1/1", "--metrics", "bleu", *own]
    assert command("sweep", official / "data-bin", out, *flags)[0] == 0
    assert by_plan(out)["0,1/1"]["bleu"] == round(
        BLEU().corpus_score(texts, [references(official)]).score, 2
    )
    units = {row["signature"]["plan"]: row for row in rows(out.with_suffix(".units.jsonl"))}
    assert units["0,1/1"]["texts"] == texts


def test_a_second_run_measures_nothing(
    official: Path, swept: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = swept.read_bytes()
    monkeypatch.setattr(
        sweep_module, "measure", lambda *_: pytest.fail("nothing is to be measured")
    )
    flags = [
        "--path",
        official / "checkpoint.pt",
        "--curve",
        "tiny",
        "--metrics",
        "loss,bleu,chrf,rouge,memory",
    ]
    points = ["--points", "6+3 all/0,2,4 3+3 3+2"]
    status, out, _ = command("sweep", official / "data-bin", swept, *flags, *points)
    assert (status, out.count("\n")) == (0, 4)
    assert swept.read_bytes() == before
    comparable(swept)


@pytest.mark.parametrize(
    "flags", [["--lenpen", "2"], ["--gen-subset", "valid"], ["--metrics", "loss"]], ids=" ".join
)
def test_another_setting_is_another_row(
    official: Path, tmp_path: Path, command: Command, flags: list[str]
) -> None:
    out = tmp_path / "rows.jsonl"
    every = [
        "--path",
        official / "checkpoint.pt",
        "--points",
        "6+6",
        "--metrics",
        "bleu",
        "--beam",
        "1",
    ]
    for more in ([], flags, []):
        assert command("sweep", official / "data-bin", out, *every, *more)[0] == 0
    assert len(rows(out, "plan")) == 2


def test_the_test_row_says_who_differs_from_the_whole_model(official: Path, swept: Path) -> None:
    of_loss, test = rows(swept, "test")
    assert (of_loss["metric"], of_loss["p_value"].keys()) == ("loss", test["p_value"].keys())
    units = {row["signature"]["plan"]: row for row in rows(swept.with_suffix(".units.jsonl"))}
    systems = {plan: row["texts"] for plan, row in units.items()}
    expected = paired_bleu(systems, "all/all", references(official))
    assert (test["metric"], test["against"], test["curve"]) == ("bleu", "all/all", "tiny")
    assert test["p_value"] == pytest.approx(expected, abs=0.02)
    assert test["p_holm"] == pytest.approx(holm(test["p_value"]))
    assert test["p_value"]["0,2,4/0,3"] < 0.01


def test_without_texts_the_losses_are_compared(
    official: Path, tmp_path: Path, command: Command
) -> None:
    out = tmp_path / "rows.jsonl"
    flags = ["--path", official / "checkpoint.pt", "--points", "6+4 5+6 3+3"]
    assert command("sweep", official / "data-bin", out, *flags)[0] == 0
    (test,) = rows(out, "test")
    model = subject(official / "checkpoint.pt", official / "data-bin")
    samples = Batches(model.loaded, "test").samples
    whole = score_losses(model.loaded, samples, [model.whole.kept])[0]
    assert test["metric"] == "loss"
    for plan, p in test["p_value"].items():
        found = score_losses(model.loaded, samples, [PruningPlan.parse(plan, model.depths).kept])[0]
        again = paired_losses(
            found.sums.tolist(), whole.sums.tolist(), whole.sizes.tolist(), seed=9
        )
        assert p == pytest.approx(again, abs=0.05)
        assert by_plan(out)[plan]["loss"] == pytest.approx(found.loss, rel=1e-6)
    assert set(test["p_value"]) == {"all/0,1,3,4", "0,1,2,3,4/all", "0,2,4/0,2,4"}


@pytest.fixture
def clock_of_work(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A clock that advances by a second a call of a module, whatever else the machine does."""
    calls: list[None] = []
    hook = register_module_forward_hook(lambda *_: calls.append(None))
    monkeypatch.setattr(time, "perf_counter", lambda: float(len(calls)))
    yield
    hook.remove()


@pytest.mark.usefixtures("clock_of_work")
def test_latency_is_measured_where_it_is_asked_for(
    official: Path, tmp_path: Path, command: Command
) -> None:
    out = tmp_path / "rows.jsonl"
    flags = [
        "--path",
        official / "checkpoint.pt",
        "--points",
        "1+1",
        "--metrics",
        "latency",
        "--beam",
        "1",
    ]
    status, printed, _ = command("sweep", official / "data-bin", out, *flags, "--json")
    whole, small = (json.loads(line) for line in printed.splitlines())
    assert status == 0
    assert 0 < small["latency_ms"] < whole["latency_ms"]
    assert (
        whole["latency_ms_quartiles"][0] <= whole["latency_ms"] <= whole["latency_ms_quartiles"][1]
    )
    assert whole["latency_of"] == whole["signature"]["latency"]
    assert "loss" not in whole
    assert rows(out, "test") == []


def test_references_come_from_a_file_if_one_is_named(
    official: Path, tmp_path: Path, command: Command
) -> None:
    truth = references(official)
    (tmp_path / "good.txt").write_text("".join(f"{line}\n" for line in truth))
    (tmp_path / "short.txt").write_text("".join(f"{line}\n" for line in truth[1:]))
    flags = [
        "--path",
        official / "checkpoint.pt",
        "--points",
        "3+3",
        "--metrics",
        "bleu",
        "--beam",
        "1",
        "--max-len-b",
        "12",
    ]
    scores = []
    for more in ([], ["--reference", tmp_path / "good.txt"]):
        out = tmp_path / f"{len(more)}.jsonl"
        assert command("sweep", official / "data-bin", out, *flags, *more)[0] == 0
        scores.append([row["bleu"] for row in rows(out, "plan")])
    assert scores[0] == scores[1]
    every = [
        official / "data-bin",
        tmp_path / "no.jsonl",
        *flags,
        "--reference",
        tmp_path / "short.txt",
    ]
    status, out_, err = command("sweep", *every)
    assert (status, out_, err.count("\n")) == (2, "", 1)
    assert "short.txt: there must be a line for each of 100 sentences, got 99" in err
    model = subject(official / "checkpoint.pt", official / "data-bin").loaded
    half = Batches(model, "test", half="second", max_sentences=7)
    assert read_references(str(tmp_path / "good.txt"), half) == truth[1::2]
    assert Decoder(model, beam=1).references(half) == truth[1::2]
    (tmp_path / "good.txt").write_text("".join(f"{line}\n" for line in reversed(truth)))
    assert command("sweep", official / "data-bin", out, *flags, *more)[0] == 0
    measured = [row["bleu"] for row in rows(out, "plan")]
    assert measured[: len(measured) // 2] == scores[1] and measured[-1] < min(scores[1])


# A plan that runs other layers than it names


def test_a_plan_that_runs_other_layers_is_an_error(
    official: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = subject(official / "checkpoint.pt", official / "data-bin")
    batches, plan = (
        Batches(tiny.loaded, "test", half="first"),
        PruningPlan.parse("0,2/1", tiny.depths),
    )
    assert measure(tiny, plan, Measures(batches, ["loss"]))["plan"] == "0,2/1"
    real = sweep_module.score_losses
    others = [
        {"encoder": (0, 2), "decoder": (1, 2)},
        {"encoder": (0,), "decoder": (1,)},
        tiny.whole.kept,
    ]
    for other in others:
        monkeypatch.setattr(
            sweep_module, "score_losses", lambda m, s, _, other=other: real(m, s, [other])
        )
        with pytest.raises(ValueError, match=r"must run and no other, got \["):
            measure(tiny, plan, Measures(batches, ["loss"]))
    calls = count_calls(tiny.loaded.model)
    monkeypatch.setattr(sweep_module, "score_losses", real)
    measure(tiny, plan, Measures(batches, ["loss"]))
    assert set(calls) == {("encoder", 0), ("encoder", 2), ("decoder", 1)}


def test_a_score_that_did_not_see_every_sentence_is_an_error() -> None:
    with pytest.raises(ValueError, match="every one of the 3 sentences must be scored, got 2"):
        score_texts(["a", "b"], ["a", "b", "c"], ["bleu"])


def test_a_sweep_s_row_is_there_only_with_its_units(tmp_path: Path) -> None:
    """Units are written first: a run killed in between writes them again, and the row once."""
    results = Results(str(tmp_path / "rows.jsonl"))
    row = {"kind": "plan", "plan": "x", "units": [1.0], "sizes": [2.0], "signature": {"a": 1}}
    results._units.add([{"units": [1.0], "sizes": [2.0], "signature": {"a": 1}}])
    assert results.find({"a": 1}) is None
    results.add(row)
    assert results.find({"a": 1}) == row
    (tmp_path / "other.jsonl").write_text('{"kind": "plan", "plan": "x", "signature": {"a": 1}}\n')
    assert Results(str(tmp_path / "other.jsonl")).find({"a": 1}) is None, (
        "its units are lost: measured again"
    )


# Warnings


def test_a_plan_far_beyond_the_training_is_warned_about_with_numbers(
    official: Path, tmp_path: Path, command: Command, caplog: pytest.LogCaptureFixture
) -> None:
    flags = ["--path", official / "checkpoint.pt", "--points"]
    assert command("sweep", official / "data-bin", tmp_path / "a", *flags, "6+3 3+6")[0] == 0
    assert caplog.text == ""  # half at a rate of 0.2 is what the paper does
    assert command("sweep", official / "data-bin", tmp_path / "a", *flags, "6+1")[0] == 0
    assert "the decoder was trained with LayerDrop 0.2, and 83% of it would go" in caplog.text
    assert "the encoder" not in caplog.text


# Importance of layers


def test_importance_prints_and_keeps_every_measure_once(
    official: Path, tmp_path: Path, command: Command
) -> None:
    out = tmp_path / "rows.jsonl"
    flags = ["--path", official / "checkpoint.pt", "--curve", "tiny", "--gen-subset", "test"]
    status, printed, _ = command("importance", official / "data-bin", out, *flags)
    assert (status, printed.count("\n")) == (0, 36)
    assert printed.startswith("leave-one-out  encoder  0: ")
    found = rows(out)
    assert {(row["kind"], row["curve"]) for row in found} == {("importance", "tiny")}
    places = [(row["measure"], row["stack"], row["layer"]) for row in found]
    assert len(places) == len(set(places)) == 36
    before = out.read_bytes()
    assert command("importance", official / "data-bin", out, *flags)[:2] == (0, printed)
    assert (
        command("importance", official / "data-bin", out, *flags, "--measure", "angular", "--json")[
            0
        ]
        == 0
    )
    assert out.read_bytes() == before


def test_rows_of_importance_that_were_cut_off_are_written(
    official: Path, tmp_path: Path, command: Command
) -> None:
    out = tmp_path / "rows.jsonl"
    every = [
        official / "data-bin",
        out,
        "--path",
        official / "checkpoint.pt",
        "--measure",
        "angular",
    ]
    assert command("importance", *every)[0] == 0
    whole = rows(out)
    out.write_bytes(b"".join(out.read_bytes().splitlines(keepends=True)[:5]) + b'{"kind": "imp')
    assert command("importance", *every)[0] == 0
    assert rows(out) == whole


def test_a_model_of_single_layers_has_no_layer_to_lose(
    official: Path, tmp_path: Path, command: Command
) -> None:
    small = prune(
        official / "checkpoint.pt",
        tmp_path / "small.pt",
        "--encoder-keep",
        "0",
        "--decoder-keep",
        "1",
    )
    out = tmp_path / "rows.jsonl"
    status, _, err = command("importance", official / "data-bin", out, "--path", small)
    assert status == 0 or (status, err.count("\n")) == (2, 1)


def test_rows_of_others_are_left_alone(official: Path, tmp_path: Path, command: Command) -> None:
    out = tmp_path / "rows.jsonl"
    out.write_text('{"bleu": 1.0, "curve": "scored elsewhere"}\n')
    flags = ["--path", official / "checkpoint.pt", "--points", "6+6"]
    assert command("sweep", official / "data-bin", out, *flags)[0] == 0


def test_a_sweep_of_a_planted_model_loses_nothing(
    official: Path, tmp_path: Path, command: Command
) -> None:
    useful = {"encoder": {1, 2}, "decoder": {0, 4, 5}}
    planted = plant(official / "checkpoint.pt", tmp_path / "planted.pt", useful)
    out = tmp_path / "rows.jsonl"
    flags = [
        "--path",
        planted,
        "--points",
        "1,2/0,4,5 1/0,4,5",
        "--metrics",
        "loss,bleu",
        "--beam",
        "2",
    ]
    assert command("sweep", official / "data-bin", out, *flags, "--max-len-b", "15")[0] == 0
    whole, same, less = (by_plan(out)[plan] for plan in ("all/all", "1,2/0,4,5", "1/0,4,5"))
    assert same["loss"] == pytest.approx(whole["loss"], rel=1e-5)
    assert same["bleu"] == whole["bleu"]
    assert less["loss"] != pytest.approx(whole["loss"], rel=1e-2)
