# SPDX-License-Identifier: MIT
"""``search`` through the command: planted optima, killed runs, several processes, mistakes."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import Command, assert_one_line
from fairseq_programs import REPOSITORY, prune
from forks import killed_beyond, start
from planted import APART, comparable, plant, rows, subject, write_language_model
from repeats import mostly_slow

from fairseq_layerdrop.evaluation.latency import Latency, Stopwatch
from fairseq_layerdrop.evaluation.loading import Batches
from fairseq_layerdrop.evaluation.losses import score_losses
from fairseq_layerdrop.evaluation.significance import paired_losses

USEFUL = {"encoder": {0, 3, 5}, "decoder": {0, 2, 4}}


@pytest.fixture(scope="module")
def planted(official: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 6+6 model, three layers of each stack doing all the work."""
    return plant(
        official / "checkpoint.pt", tmp_path_factory.mktemp("planted") / "planted.pt", USEFUL
    )


@pytest.fixture(scope="module")
def language_model(
    official_lm: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A language model of four layers, not trained, and its data."""
    data = official_lm / "data-bin"
    return write_language_model(data, tmp_path_factory.mktemp("lm")), data


# What is found


@pytest.mark.parametrize(
    "flags",
    [
        ["--method", "exhaustive"],
        ["--method", "greedy"],
        pytest.param(["--method", "beam", "--beam-width", "3"], marks=pytest.mark.slow),
        pytest.param(["--method", "evolution", "--generations", "6"], marks=pytest.mark.slow),
        pytest.param(["--method", "exhaustive", "--screen", "0.5"], marks=pytest.mark.slow),
        [],
    ],
    ids=" ".join,
)
def test_every_method_finds_the_layers_that_do_the_work(
    official: Path, planted: Path, tmp_path: Path, command: Command, flags: list[str]
) -> None:
    out, depths = tmp_path / "rows.jsonl", ["--encoder-depth", "3", "--decoder-depth", "3"]
    if not flags:  # a budget does as well as depths: nothing is lost down to it
        depths = ["--target-params", "66304", "--method", "greedy"]
    every = ["--path", planted, "--batch-size", "100", *depths, *flags, "--json"]
    status, printed, _ = command("search", official / "data-bin", out, *every)
    facts = json.loads(printed)
    assert (status, facts["winner"]) == (0, "0,3,5/0,2,4")
    assert facts["flags"] == "--encoder-keep 0,3,5 --decoder-keep 0,2,4"
    assert facts["searched"][facts["winner"]] == pytest.approx(
        facts["searched"]["all/all"], rel=1e-4
    )
    assert len(rows(out, "trial")) == len(comparable(out)) - len(rows(out, "verdict")) - len(
        rows(out, "test")
    )


def test_the_winner_is_judged_on_the_other_half_and_on_another_subset(
    official: Path, tmp_path: Path, command: Command
) -> None:
    out, checkpoint, data = (
        tmp_path / "rows.jsonl",
        official / "checkpoint.pt",
        official / "data-bin",
    )
    flags = ["--encoder-depth", "2", "--decoder-depth", "6", "--test-subset", "test", "--json"]
    status, printed, _ = command("search", data, out, "--path", checkpoint, *flags)
    facts = json.loads(printed)
    assert status == 0
    model = subject(checkpoint, data).loaded
    for judged, (subset, half) in zip(
        facts["judged"], [("valid", "second"), ("test", "all")], strict=True
    ):
        assert (judged["subset"], judged["half"]) == (subset, half)
        kept = [
            {
                "encoder": tuple(
                    map(int, row["plan"].split("/")[0].replace("all", "0,1,2,3,4,5").split(","))
                ),
                "decoder": (0, 1, 2, 3, 4, 5),
            }
            for row in judged["rows"]
        ]
        assert {row["plan"] for row in judged["rows"]} == {"0,3/all", facts["winner"], "all/all"}
        found = score_losses(model, Batches(model, subset, half=half).samples, kept)
        assert [row["loss"] for row in judged["rows"]] == pytest.approx(
            [losses.loss for losses in found], rel=1e-6
        )
        assert {row["sentences"] for row in judged["rows"]} == {100}
        by_plan = {row["plan"]: losses for row, losses in zip(judged["rows"], found, strict=True)}
        if facts["winner"] != "0,3/all":
            one, two = by_plan[facts["winner"]], by_plan["0,3/all"]
            p = paired_losses(one.sums.tolist(), two.sums.tolist(), two.sizes.tolist())
            (test,) = judged["tests"]
            assert (test["metric"], test["against"]) == ("loss", "0,3/all")
            assert test["p_value"] == {facts["winner"]: pytest.approx(p, abs=0.01)}
    first = Batches(model, "valid", half="first")
    (losses,) = score_losses(
        model, first.samples, [{"encoder": (0, 3), "decoder": (0, 1, 2, 3, 4, 5)}]
    )
    assert facts["searched"]["0,3/all"] == pytest.approx(losses.loss, rel=1e-6)
    trials = rows(out, "trial")
    assert {row["signature"]["half"] for row in trials} == {"first"}
    assert (
        min(trials, key=lambda row: (row["encoder_layers"] != 2, row["loss"]))["plan"]
        == facts["winner"]
    )
    before = out.read_bytes()
    assert command("search", data, out, "--path", checkpoint, *flags)[:2] == (0, printed)
    assert out.read_bytes() == before, "a second run adds nothing"


def test_a_search_prints_a_path_a_winner_and_the_flags_that_prune_it(
    official: Path,
    planted: Path,
    tmp_path: Path,
    command: Command,
    caplog: pytest.LogCaptureFixture,
) -> None:
    flags = [
        "--path",
        planted,
        "--method",
        "greedy",
        "--encoder-depth",
        "4",
        "--decoder-depth",
        "6",
    ]
    status, out, _ = command("search", official / "data-bin", tmp_path / "rows.jsonl", *flags)
    assert status == 0
    assert "15 sub-networks; method: greedy" in caplog.text
    assert out.splitlines()[0].startswith("all/all: loss ")
    winner = next(
        line.removeprefix("winner: ") for line in out.splitlines() if line.startswith("winner: ")
    )
    assert (
        out.splitlines()[-1]
        == f"to prune: --encoder-keep {winner.split('/')[0]} --decoder-keep 0,1,2,3,4,5"
    )
    assert "the winner against Every Other (0,1,3,4/all): p = " in out
    last = out.splitlines()[-1].removeprefix("to prune: ").split()
    prune(planted, tmp_path / "small.pt", *last)


def test_a_latency_is_predicted_and_kept_to(
    official: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine that takes 10 ms, 1 a layer of the encoder and 3 one of the decoder."""

    def measure(_: Stopwatch, kept: dict[str, tuple[int, ...]]) -> Latency:
        return Latency(10 + len(kept["encoder"]) + 3 * len(kept["decoder"]), (0, 0))

    monkeypatch.setattr(Stopwatch, "measure", measure)
    flags = [
        "--path",
        official / "checkpoint.pt",
        "--json",
        "--target-latency-ms",
        "19.5",
        "--batch-size",
        "100",
    ]
    for more in (["--method", "greedy"], ["--encoder-depth", "6"]):
        status, printed, _ = command(
            "search", official / "data-bin", tmp_path / "rows", *flags, *more
        )
        facts = json.loads(printed)
        encoder, decoder = (
            facts["judged"][0]["rows"][1]["encoder_layers"],
            facts["judged"][0]["rows"][1]["decoder_layers"],
        )
        assert (status, facts["judged"][0]["rows"][1]["plan"]) == (0, facts["winner"])
        assert facts["predicted_ms"] == pytest.approx(10 + encoder + 3 * decoder)
        assert facts["predicted_ms"] <= 19.5
    assert (encoder, decoder) == (6, 1)


# Killed, and started again


def kill_at(byte: int, arguments: list[str]) -> None:
    """Run the command in a process that is killed when a file has N bytes."""
    child = start(arguments, prepare=killed_beyond(byte))
    child.join()
    assert child.exitcode == -signal.SIGXFSZ


@pytest.mark.parametrize("verb", mostly_slow(["search", "sweep"], "search"))
def test_a_killed_run_that_is_started_again_gives_the_rows_of_one_that_was_not(
    official: Path, tmp_path: Path, command: Command, verb: str
) -> None:
    one, other = tmp_path / "one.jsonl", tmp_path / "other.jsonl"
    flags = ["--path", str(official / "checkpoint.pt"), "--threads", "1", "--batch-size", "100"]
    flags += {
        "search": ["--method", "exhaustive", "--encoder-depth", "4", "--decoder-depth", "5"],
        "sweep": [
            "--points",
            "6+3 6+2 3+3 0,5/1 first:2/last:2",
            "--metrics",
            "loss,bleu",
            "--beam",
            "1",
            "--max-len-b",
            "20",
        ],
    }[verb]
    assert command(verb, official / "data-bin", one, *flags)[0] == 0
    draw, size = random.Random(5), max(path.stat().st_size for path in tmp_path.iterdir())
    for byte in sorted(draw.randrange(size) for _ in range(3)):
        kill_at(byte, [verb, str(official / "data-bin"), str(other), *flags])
    assert command(verb, official / "data-bin", other, *flags)[0] == 0
    assert comparable(other) == comparable(one)
    assert command(verb, official / "data-bin", other, *flags)[0] == 0
    assert comparable(other) == comparable(one)


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["search", "sweep"])
def test_ten_kills_of_the_real_program_change_no_row(
    official: Path, tmp_path: Path, verb: str
) -> None:
    one, other = tmp_path / "one.jsonl", tmp_path / "other.jsonl"
    flags = ["--path", str(official / "checkpoint.pt"), "--threads", "1"]
    flags += {
        "search": ["--method", "exhaustive"],
        "sweep": [
            "--points",
            " ".join(f"{e}+{d}" for e in range(1, 7) for d in range(1, 7)),
            "--metrics",
            "loss,bleu",
        ],
    }[verb]
    program = [sys.executable, "-m", "fairseq_layerdrop.cli", verb, str(official / "data-bin")]
    start = time.monotonic()
    subprocess.run([*program, str(one), *flags], cwd=REPOSITORY, check=True, capture_output=True)
    draw, seconds = random.Random(6), time.monotonic() - start
    for _ in range(10):
        run = subprocess.Popen(
            [*program, str(other), *flags],
            cwd=REPOSITORY,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(draw.uniform(0, min(seconds, 12)))
        run.kill()
        run.wait()
    subprocess.run([*program, str(other), *flags], cwd=REPOSITORY, check=True, capture_output=True)
    assert comparable(other) == comparable(one)


# Several processes


@pytest.mark.slow
def test_two_processes_find_what_one_finds(
    official: Path, tmp_path: Path, command: Command
) -> None:
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    flags = [
        "--path",
        str(official / "checkpoint.pt"),
        "--threads",
        "1",
        "--json",
        "--batch-size",
        "100",
    ]
    flags += ["--encoder-depth", "4", "--decoder-depth", "5"]  # two groups of plans
    status, printed, _ = command("search", official / "data-bin", one, *flags)
    assert status == 0
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    done = subprocess.run(
        [
            *launcher,
            "-m",
            "fairseq_layerdrop.cli",
            "search",
            str(official / "data-bin"),
            str(two),
            *flags,
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    verdicts = [json.loads(text) for text in (done.stdout, printed)]
    for verdict in verdicts:
        for judged in verdict["judged"]:
            judged["rows"] = [
                {key: row[key] for key in row if key not in APART} for row in judged["rows"]
            ]
    assert verdicts[0] == verdicts[1]
    assert comparable(two) == comparable(one)


# Mistakes


def short(value: object) -> str:
    """A test's name: the verb and its flags."""
    return " ".join(value) if isinstance(value, list) else str(value) if value in POINTS else ""


POINTS: dict[str, list[str]] = {"sweep": ["--points", "6+6"], "search": [], "importance": []}
BAD: list[tuple[str, list[str], str]] = [
    ("search", ["--metrics", "loss,speed"], "--metrics are of loss, bleu, chrf"),
    ("search", ["--metrics", ""], "--metrics are of loss, bleu, chrf"),
    ("search", ["--screen", "2"], "--screen is a share of the data between 0 and 1, got 2.0"),
    ("search", ["--beam", "0"], "--beam must be at least 1, got 0"),
    ("search", ["--beam-width", "0"], "--beam-width must be at least 1, got 0"),
    ("search", ["--encoder-depth", "7"], "--encoder-depth must lie in 1-6, got 7"),
    ("search", ["--decoder-depth", "0"], "--decoder-depth must lie in 1-6, got 0"),
    ("search", ["--target-params", "lots"], "a number of parameters is like 30M"),
    ("search", ["--threads", "0"], "--threads must be at least 1, got 0"),
    ("search", ["--max-tokens", "-1"], "--max-tokens must be at least 1, got -1"),
    ("search", ["--device", "cuda"], "cuda needs a CUDA device"),
    ("search", ["--method", "luck"], "invalid choice: 'luck'"),
    ("sweep", [], "the following arguments are required: --points"),
    ("sweep", ["--points", "7+1"], "encoder: even takes a number from 1 to the depth, 6, got 7"),
    ("sweep", ["--points", "6"], "a plan for encoder and decoder is ENC/DEC or N+M, got '6'"),
    ("sweep", ["--points", "6+6", "--metrics", "speed"], "--metrics are of loss, bleu, chrf"),
    ("sweep", ["--points", "6+6", "--beam", "0"], "--beam must be at least 1, got 0"),
    (
        "sweep",
        ["--points", "6+6", "--gen-subset", "nowhere"],
        "there is no subset nowhere in the data",
    ),
    ("sweep", ["--points", "6+6", "--batch-size", "0"], "--batch-size must be at least 1, got 0"),
    (
        "sweep",
        ["--points", "6+6", "--max-tokens", "8"],
        "the tokens of the longest sentence, got 8",
    ),
    (
        "sweep",
        ["--points", "6+6", "--metrics", "bleu", "--remove-bpe", "bpe"],
        "--remove-bpe is @@ (subword_nmt), sentencepiece",
    ),
    ("importance", ["--gen-subset", "nowhere"], "there is no subset nowhere in the data"),
    ("importance", ["--measure", "guess"], "invalid choice: 'guess'"),
]


@pytest.mark.parametrize(
    ("verb", "flags", "message"), BAD, ids=lambda v: " ".join(v)[:40] if isinstance(v, list) else ""
)
def test_a_mistake_is_one_line_and_nothing_is_written(
    official: Path, tmp_path: Path, command: Command, verb: str, flags: list[str], message: str
) -> None:
    every = [
        official / "data-bin",
        tmp_path / "rows.jsonl",
        "--path",
        official / "checkpoint.pt",
        *flags,
    ]
    assert_one_line(command(verb, *every), message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", POINTS)
def test_missing_and_wrong_files_are_named(
    official: Path,
    official_2019: Path,
    official_lm: Path,
    tmp_path: Path,
    command: Command,
    verb: str,
) -> None:
    out, flags = tmp_path / "rows.jsonl", POINTS[verb]
    path = ["--path", official / "checkpoint.pt"]
    assert_one_line(
        command(verb, official / "data-bin", out, "--path", tmp_path / "no.pt", *flags), "no.pt"
    )
    assert_one_line(
        command(verb, official / "data-bin", tmp_path / "no" / "rows", *path, *flags),
        "no directory",
    )
    assert_one_line(
        command(
            verb, official_2019 / "data-bin", out, "--path", official_2019 / "checkpoint.pt", *flags
        ),
        "fairseq-layerdrop",
    )
    model = [
        "--path",
        official_lm / "checkpoint.pt",
        *(["--points", "all"] if flags else []),
    ]
    assert_one_line(command(verb, tmp_path / "nothing", out, *model), "nothing")
    assert_one_line(command(verb, official / "data-bin", out, *model), "dict.txt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", POINTS)
def test_data_of_no_pair_of_languages_are_named(
    official: Path, official_lm: Path, tmp_path: Path, command: Command, verb: str
) -> None:
    every = [tmp_path / "rows.jsonl", "--path", official / "checkpoint.pt", *POINTS[verb]]
    assert_one_line(command(verb, tmp_path / "nothing", *every), "nothing")
    assert_one_line(command(verb, official_lm / "data-bin", *every), "lm-0.12.2")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", POINTS)
def test_a_file_that_holds_no_rows_is_left_alone(
    official: Path, tmp_path: Path, command: Command, verb: str
) -> None:
    binary = tmp_path / "model.pt"
    content = b"PK\x03\x04" + bytes(range(256))
    binary.write_bytes(content)
    flags = ["--path", official / "checkpoint.pt", *POINTS[verb]]
    assert_one_line(command(verb, official / "data-bin", binary, *flags), "model.pt")
    assert_one_line(command(verb, official / "data-bin", tmp_path, *flags), "directory")
    assert binary.read_bytes() == content
    assert list(tmp_path.iterdir()) == [binary]


def test_a_budget_that_nothing_fits_is_refused(
    official: Path, tmp_path: Path, command: Command
) -> None:
    every = ["--path", official / "checkpoint.pt", "--target-params", "1k"]
    for method in ("exhaustive", "greedy", "evolution"):
        flags = [
            "--method",
            method,
            "--generations",
            "1",
            "--encoder-depth",
            "6",
            "--decoder-depth",
            "6",
        ]
        status, out, err = command(
            "search", official / "data-bin", tmp_path / method, *every, *flags
        )
        assert (status, out) == (2, "")
        assert err.splitlines()[-1].endswith(
            "--target-params: the smallest sub-network takes 130,432, got 1,000"
        )


# Mistakes that are seen too late, or not at all

LATE: list[tuple[str, list[str], str]] = [
    ("search", ["--gen-subset", "nowhere"], "two empty files are left"),
    (
        "search",
        ["--test-subset", "nowhere", "--encoder-depth", "6", "--decoder-depth", "5"],
        "seen after the search",
    ),
    ("search", ["--device", "abacus"], "a traceback"),
    ("sweep", ["--device", "abacus", "--points", "6+6"], "a traceback"),
]


@pytest.mark.parametrize(
    ("verb", "flags", "reason"), LATE, ids=lambda v: " ".join(v)[:40] if isinstance(v, list) else ""
)
def test_a_mistake_is_seen_at_once(
    official: Path, tmp_path: Path, command: Command, verb: str, flags: list[str], reason: str
) -> None:
    every = [
        official / "data-bin",
        tmp_path / "rows.jsonl",
        "--path",
        official / "checkpoint.pt",
        *flags,
    ]
    assert command(verb, *every)[0] == 2
    assert list(tmp_path.iterdir()) == []


def test_text_is_not_asked_of_a_language_model(
    language_model: tuple[Path, Path], tmp_path: Path, command: Command
) -> None:
    checkpoint, data = language_model
    flags = ["--path", checkpoint, "--decoder-depth", "3", "--metrics", "bleu"]
    assert_one_line(command("search", data, tmp_path / "rows.jsonl", *flags), "generates nothing")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_two_processes_share_a_storage(official: Path, tmp_path: Path) -> None:
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    flags = ["--path", str(official / "checkpoint.pt"), "--threads", "1", "--method", "evolution"]
    flags += [
        "--encoder-depth",
        "6",
        "--generations",
        "3",
        "--storage",
        f"sqlite:///{tmp_path / 'study.db'}",
    ]
    arguments = [
        "-m",
        "fairseq_layerdrop.cli",
        "search",
        str(official / "data-bin"),
        str(tmp_path / "rows"),
        *flags,
    ]
    done = subprocess.run(
        [*launcher, *arguments], cwd=REPOSITORY, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(rows(tmp_path / "rows", "trial")) == len(
        {row["plan"] for row in rows(tmp_path / "rows", "trial")}
    )
