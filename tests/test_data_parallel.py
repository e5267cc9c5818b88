# SPDX-License-Identifier: MIT
"""Data-parallel training through the real ``fairseq-train``, in two processes.

``spawn`` and ``torchrun`` start what a user starts. All else runs in processes that are forked
(``ranks.py``), which saves the seconds of importing fairseq, and in which each rank's draws and
weights can be seen.
"""

import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from conftest import Run
from fairseq.distributed import utils
from fairseq.models import distributed_fairseq_model
from fairseq_programs import (
    REPOSITORY,
    TRAINING,
    USER_DIR,
    WIDTH,
    assert_same_tensors,
    build_model,
    config,
    in_stock,
    logged,
    train,
    weights,
)
from ranks import HUNG

from fairseq_layerdrop import distributed
from fairseq_layerdrop.checkpoint import load
from fairseq_layerdrop.models import _rates

LIMIT = 600
"""Seconds after which a run that hangs is killed; nothing else depends on it."""

MODEL = [
    *(
        "--user-dir",
        USER_DIR,
        "--task",
        "layerdrop_translation",
        "--arch",
        "layerdrop_transformer",
        *WIDTH,
    ),
    *("--encoder-layers", "4", "--decoder-layers", "4", "--dropout", "0"),
]
HALF = ["--encoder-layerdrop", "0.5", "--decoder-layerdrop", "0.5"]
SGD = ["--optimizer", "sgd", "--lr", "0.5", "--clip-norm", "0"]
DISTILL = ["--criterion", "layerdrop_distill"]
PLANS = ["--train-plans", "4+2 2+1"]
LEARNED = ["--layerdrop-schedule", "learned"]
OWN = ["--layerdrop-ranks", "own"]
CHECKPOINTED = ["--checkpoint-activations"]
BRIEF = ["--max-update", "6", "--disable-validation", "--no-save"]
TWO = ["--distributed-world-size", "2"]
PROGRAM = [sys.executable, "-m", "fairseq_cli.train"]
TORCHRUN = [
    sys.executable,
    "-m",
    "torch.distributed.run",
    "--nproc-per-node",
    "2",
    "-m",
    "fairseq_cli.train",
]
SLURM_SCRIPT = REPOSITORY / "scripts" / "slurm" / "train.sh"


class Together(NamedTuple):
    """A finished training: its output, and each rank's draws and final weights."""

    output: str
    draws: list[list[dict[str, Any]]]
    states: list[dict[str, torch.Tensor]]

    def rates(self, rank: int) -> list[list[float]]:
        return [[1 - keep for keep in draw["keep"]] for draw in self.draws[rank]]


def run_ranks(data: Path, folder: Path, *flags: object, ranks: int = 2, fails: bool = False) -> str:
    """Run ``fairseq-train`` in forked processes; ``fails``: they must end with an error."""
    folder.mkdir(exist_ok=True)
    script = Path(__file__).with_name("ranks.py")
    output = in_stock(
        str(script), str(ranks), str(LIMIT), folder, data, *TRAINING, *MODEL, *flags, fails=fails
    )
    assert HUNG not in output
    return output


def together(
    data: Path, folder: Path, *flags: object, updates: int = 6, ranks: int = 2
) -> Together:
    """Train, and check that all ranks did all of it, once, and end with the same weights."""
    world = ["--distributed-world-size", str(ranks)]
    output = run_ranks(
        data, folder, *BRIEF, *world, *flags, "--max-update", str(updates), ranks=ranks
    )
    assert_trained(output, updates=updates, ranks=ranks)
    draws = [
        [json.loads(line) for line in (folder / f"{rank}.jsonl").open()] for rank in range(ranks)
    ]
    states = [torch.load(folder / f"{rank}.pt") for rank in range(ranks)]
    for state in states:
        assert_same_tensors(state, states[0])
        assert all(tensor.isfinite().all() for tensor in state.values())
    return Together(output, draws, states)


def assert_trained(output: str, *, updates: int, ranks: int = 2) -> None:
    assert output.count("| done training in ") == 1
    assert output.count(f"| training on {ranks} devices") == 1
    steps = logged(output, "train_inner")
    assert [int(step["num_updates"]) for step in steps] == list(range(1, updates + 1))
    assert all(float(step["loss"]) < 10 for step in steps)


def assert_close(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert one.keys() == two.keys()
    assert max(float((tensor - two[key]).abs().max()) for key, tensor in one.items()) < 1e-5


def wait_until(condition: Callable[[], bool]) -> None:
    """Return as soon as it is true."""
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, "it hung"
        time.sleep(0.01)


class Launched:
    """A command as a user starts it, with all of its processes, in a world of their own."""

    def __init__(self, folder: Path, *command: object) -> None:
        self.mark = f"LAYERDROP_TEST={uuid.uuid4()}"
        self.log = folder / "log"
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **dict([self.mark.split("=")])}
        environment.pop("PYTHONPATH", None)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*map(str, command)],
                cwd=folder,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def processes(self) -> list[int]:
        """The processes that are alive and were started by this command, directly or not."""
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                if self.mark.encode() in path.read_bytes().split(b"\0"):
                    found.append(int(path.parent.name))
            except OSError:  # gone, or not ours
                continue
        return found

    def wait(self) -> int:
        """Its exit status, when all of its processes have ended."""
        try:
            status = self.process.wait(LIMIT)
            wait_until(lambda: not self.processes())
            return status
        finally:
            for process in self.processes():
                os.kill(process, signal.SIGKILL)

    def wait_for(self, text: str) -> None:
        """Return as soon as the log has this text."""

        def found() -> bool:
            log = self.log.read_text()
            if text in log:
                return True
            assert self.process.poll() is None, log[-3000:]
            return False

        wait_until(found)


# As a user starts it


@pytest.mark.parametrize("launcher", ["spawn", pytest.param("torchrun", marks=pytest.mark.slow)])
def test_two_processes_train_on_default_flags_and_none_is_left(
    launcher: str, data: Path, tmp_path: Path
) -> None:
    launchers = {
        "spawn": [*PROGRAM, data],
        "torchrun": [*TORCHRUN, data],
    }
    flags = [*TRAINING, *MODEL, *HALF, *BRIEF, *TWO]
    launched = Launched(tmp_path, *launchers[launcher], *flags)
    assert launched.wait() == 0, launched.log.read_text()[-3000:]
    assert_trained(launched.log.read_text(), updates=6)


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["a rank", "the launcher"])
def test_where_one_process_is_killed_the_others_end(
    victim: str, data: Path, tmp_path: Path
) -> None:
    flags = [
        *TRAINING,
        *MODEL,
        *HALF,
        *TWO,
        "--max-update",
        "100000",
        "--disable-validation",
        "--no-save",
    ]
    launched = Launched(tmp_path, *PROGRAM, data, *flags)
    launched.wait_for('"num_updates": "20"')
    ranks = [
        process
        for process in launched.processes()
        if b"spawn_main" in Path(f"/proc/{process}/cmdline").read_bytes()
    ]
    assert len(ranks) == 2
    os.kill(ranks[0] if victim == "a rank" else launched.process.pid, signal.SIGKILL)
    assert launched.wait() != 0
    assert "done training" not in launched.log.read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "flags", "message"),
    [
        (
            1,
            ["--ddp-backend", "fully_sharded"],
            "--ddp-backend fully_sharded needs GPUs and fairscale; take pytorch_ddp",
        ),
        (
            2,
            ["--share-layers", "2", "--checkpoint-activations"],
            "--share-layers with --checkpoint-activations: data-parallel training does not bear "
            "both",
        ),
    ],
)
def test_what_cannot_train_is_refused_by_name_before_an_update(
    ranks: int, flags: list[str], message: str, data: Path, tmp_path: Path
) -> None:
    """By the launcher, or by the ranks that it started."""
    output = run_ranks(data, tmp_path, *HALF, *BRIEF, *TWO, *flags, ranks=ranks, fails=True)
    assert f"ValueError: {message}" in output
    assert "num_updates" not in output and "done training" not in output


@pytest.mark.slow
def test_plans_with_checkpointing_are_refused_where_hooks_count_gradients(
    data: Path, tmp_path: Path
) -> None:
    flags = [*BRIEF, *TWO, *PLANS, *CHECKPOINTED]
    output = run_ranks(data, tmp_path, *flags, fails=True)
    assert "--train-plans with --checkpoint-activations: in several processes" in output
    assert "--ddp-backend legacy_ddp" in output


def test_torchrun_needs_no_world_size(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": "1",
        "WORLD_SIZE": "2",
        "RANK": "1",
    }.items():
        monkeypatch.setenv(name, value)
    cfg = config("--arch", "layerdrop_transformer")
    started: list[Any] = []
    monkeypatch.setattr(
        utils,
        "distributed_main",
        lambda *_: started.append(cfg.distributed_training.distributed_rank),
    )
    distributed.call_main(cfg, lambda _: started.append("alone"))
    assert (started, cfg.distributed_training.distributed_world_size) == ([1], 2)


def test_a_port_may_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = config("--arch", "layerdrop_transformer", *TWO, "--distributed-port", "12399")
    started: list[Any] = []
    monkeypatch.setattr(
        torch.multiprocessing, "spawn", lambda *_, nprocs, **__: started.append(nprocs)
    )
    distributed.call_main(cfg, lambda _: started.append("alone"))
    assert (started, cfg.distributed_training.distributed_init_method) == (
        [2],
        "tcp://localhost:12399",
    )


def test_shared_layers_and_checkpointing_are_refused_in_several_processes_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flags = ["--arch", "layerdrop_transformer", *WIDTH, "--share-layers", "2", *CHECKPOINTED]
    build_model(*flags)
    monkeypatch.setattr(_rates, "several_processes", lambda: True)
    build_model(*flags[:-1])
    with pytest.raises(
        ValueError, match=r"^--share-layers with --checkpoint-activations: .* leave one out$"
    ):
        build_model(*flags)


# Whole: as one process


@pytest.mark.parametrize(
    "more",
    [
        [],
        pytest.param([*PLANS, "--lr", "0.2"], marks=pytest.mark.slow),
        [*PLANS, *DISTILL, "--lr", "0.2"],
    ],
    ids=["layers", "plans", "taught"],
)
def test_two_processes_with_half_the_batch_each_train_the_weights_of_one(
    more: list[str], data: Path, tmp_path: Path
) -> None:
    """The data set is one global batch, so that the batches are the same whatever their order."""
    flags = [*HALF, *SGD, "--layerdrop-min-layers", "0", *more]
    one = together(data, tmp_path / "one", *flags, "--batch-size", "60", ranks=1, updates=20)
    two = together(data, tmp_path / "two", *flags, "--batch-size", "30", updates=20)
    assert_close(one.states[0], two.states[0])
    assert one.draws[0] == two.draws[0] == two.draws[1]
    assert len(two.draws[0]) == 40 if not more else len(two.draws[0]) > 40
    assert len({tuple(draw["active"]) for draw in two.draws[0]}) > 5
    losses = [float(step["loss"]) for step in logged(one.output, "train_inner")]
    assert losses[-1] < losses[0] - 0.5  # it did learn


def test_ranks_that_draw_for_themselves_differ_in_draws_and_not_in_rates_or_weights(
    data: Path, tmp_path: Path
) -> None:
    """The learned rates are the same on both ranks, in the log and in the file."""
    flags = [*HALF, *LEARNED, *OWN, "--save-dir", tmp_path / "save"]
    world = [*TWO, "--max-update", "12", "--disable-validation"]
    output = run_ranks(data, tmp_path, *flags, *world)
    assert_trained(output, updates=12)
    states = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    draws = [[json.loads(line) for line in (tmp_path / f"{rank}.jsonl").open()] for rank in (0, 1)]
    assert len(draws[0]) == len(draws[1]) == 24
    assert [draw["keep"] for draw in draws[0]] == [draw["keep"] for draw in draws[1]]
    assert sum(one == two for one, two in zip(*draws, strict=True)) < 12
    assert_same_tensors(*states)
    saved = weights(tmp_path / "save" / "checkpoint_last.pt")
    for stack in ("encoder", "decoder"):
        kept = [draw["keep"] for draw in draws[1] if draw["stack"] == stack]
        assert max(kept[-1]) - min(kept[-1]) > 0.01
        steps = logged(output, "train_inner")
        rates = [[float(step[f"{stack}_rate_{i}"]) for i in range(4)] for step in steps]
        assert rates == [pytest.approx([1 - k for k in row], abs=6e-4) for row in kept]
        key = f"{stack}.layerdrop_gate.activation"
        assert torch.equal(saved[key], states[1][key])
        assert saved[key].abs().min() > 0


# The matrix


class Cell(NamedTuple):
    """What is dropped, and in what way fairseq shares the gradients."""

    dropped: str
    rate: str
    update_freq: str
    backend: str
    unused: bool
    checkpointed: bool

    @property
    def flags(self) -> list[str]:
        layers = self.rate if self.dropped == "layers" else "0"
        return [
            *(
                "--encoder-layerdrop",
                layers,
                "--decoder-layerdrop",
                layers,
                "--layerdrop-min-layers",
                "0",
            ),
            *(["--sublayerdrop", self.rate] if self.dropped == "sub-layers" else []),
            *(
                "--batch-size",
                "5",
                "--update-freq",
                self.update_freq,
                "--ddp-backend",
                self.backend,
            ),
            *(["--find-unused-parameters"] if self.unused else []),
            *(["--checkpoint-activations"] if self.checkpointed else []),
        ]

    def __str__(self) -> str:
        return "-".join(map(str, self))


CELLS = [
    Cell(*cell)
    for cell in itertools.product(
        ("layers", "sub-layers"),
        ("0", "0.5", "0.99"),
        ("1", "2"),
        ("pytorch_ddp", "legacy_ddp"),
        (False, True),
        (False, True),
    )
    if cell[3:] != ("pytorch_ddp", True, True)  # torch cannot, see the next test
]


@pytest.fixture(scope="module")
def trained_cell(
    data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Cell], Together]:
    """A cell's training, run once."""
    done: dict[Cell, Together] = {}

    def run(cell: Cell) -> Together:
        if cell not in done:
            done[cell] = together(data, tmp_path_factory.mktemp("cell"), *SGD, *cell.flags)
        return done[cell]

    return run


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_every_way_of_sharing_gradients_trains_the_same_weights(
    cell: Cell, trained_cell: Callable[[Cell], Together]
) -> None:
    default = trained_cell(cell._replace(backend="pytorch_ddp", unused=False, checkpointed=False))
    found = trained_cell(cell)
    assert found.draws[0] == found.draws[1] == default.draws[0]
    assert len(found.draws[0]) == 2 * 6 * int(cell.update_freq)
    assert_close(found.states[0], default.states[0])


@pytest.mark.slow
def test_checkpointing_fails_where_unused_parameters_are_looked_for(
    data: Path, tmp_path: Path
) -> None:
    """In torch's words, as in stock fairseq: a recomputed layer is counted twice."""
    output = run_ranks(
        data, tmp_path, *HALF, *BRIEF, *TWO, *CHECKPOINTED, "--find-unused-parameters", fails=True
    )
    assert "mark a variable ready only once" in output


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ["--share-layers", "2"],
        [*DISTILL],
        [*DISTILL, *CHECKPOINTED],
        [*DISTILL, *CHECKPOINTED, "--update-freq", "2", *OWN],
        [*PLANS, "--update-freq", "2"],
        [*PLANS, *DISTILL, *LEARNED],
        [*PLANS, *CHECKPOINTED, "--ddp-backend", "legacy_ddp"],
        [*LEARNED, *CHECKPOINTED, "--update-freq", "2"],
        [*LEARNED],
        [*OWN],
        [
            *LEARNED,
            "--layerdrop-min-layers",
            "0",
            "--encoder-layerdrop",
            "0.9",
            "--decoder-layerdrop",
            "0.9",
        ],
        [*LEARNED, "--ddp-backend", "legacy_ddp"],
        [
            *OWN,
            "--layerdrop-min-layers",
            "0",
            "--encoder-layerdrop",
            "0.99",
            "--decoder-layerdrop",
            "0.99",
        ],
        [
            *OWN,
            "--sublayerdrop",
            "0.5",
            "--headdrop",
            "0.3",
            "--ffndrop",
            "0.5",
            "--weightdrop",
            "0.1",
        ],
        [
            "--batch-size",
            "20",
        ],  # three batches for two ranks: one has nothing left in every other update
        ["--batch-size", "20", "--update-freq", "2", *OWN],
        ["--batch-size", "20", "--update-freq", "2", *LEARNED],
        [
            "--share-all-embeddings",
            "--encoder-normalize-before",
            "--decoder-normalize-before",
            "--dropout",
            "0.3",
        ],
    ],
    ids=lambda flags: " ".join(flags).replace("--", ""),
)
def test_what_else_can_be_trained_is_trained_alike_on_both_ranks(
    flags: list[str], data: Path, tmp_path: Path
) -> None:
    found = together(data, tmp_path, *HALF, *flags, updates=10)
    assert len(found.draws[0]) == len(found.draws[1])
    assert (found.draws[0] == found.draws[1]) == ("own" not in flags)
    if "learned" in flags:
        assert [row["keep"] for row in found.draws[0]] == [row["keep"] for row in found.draws[1]]


@pytest.mark.slow
def test_plans_are_validated_in_two_processes_as_in_one(data: Path, tmp_path: Path) -> None:
    flags = [
        *HALF,
        *SGD,
        "--valid-plans",
        "2+2 every:2/first:1",
        "--batch-size-valid",
        "7",
        "--max-update",
        "3",
    ]
    found = []
    for ranks, size in ((1, "60"), (2, "30")):
        world = ["--distributed-world-size", str(ranks), "--batch-size", size, "--no-save"]
        output = run_ranks(data, tmp_path / str(ranks), *flags, *world, ranks=ranks)
        assert_trained(output, updates=3, ranks=ranks)
        found.append(
            [{k: v for k, v in row.items() if "loss" in k} for row in logged(output, "valid")]
        )
    one, two = found
    assert [row.keys() for row in one] == [row.keys() for row in two]
    assert "valid_loss_2-2" in one[-1]
    for a, b in zip(one, two, strict=True):
        assert {k: float(v) for k, v in a.items()} == pytest.approx(
            {k: float(v) for k, v in b.items()}, abs=2e-3
        )


# Killed, and started again

RESUMED = [
    *(
        *MODEL,
        *HALF,
        "--dropout",
        "0.1",
        "--batch-size",
        "5",
        "--max-update",
        "60",
        "--disable-validation",
    ),
    *("--save-interval", "100", "--save-interval-updates", "7", "--keep-interval-updates", "1"),
    *("--update-epoch-batch-itr", "True"),
]
"""Twelve batches an epoch, a file every seven updates: mostly in the middle of an epoch."""


def killed(folder: Path, update: int, *command: object) -> None:
    """Start a training, and kill all of its processes as soon as the log shows an update."""
    folder.mkdir(exist_ok=True)
    launched = Launched(folder, *command)
    launched.wait_for(f'"num_updates": "{update}"')
    for process in launched.processes():
        os.kill(process, signal.SIGKILL)
    assert launched.wait() == -signal.SIGKILL
    assert "done training" not in launched.log.read_text()


def assert_resumed(output: str, last: Path, whole: Run) -> None:
    first, *_ = (int(step["num_updates"]) for step in logged(output, "train_inner"))
    assert first > 1 and (first - 1) % 7 == 0, (
        "it did not go on from a file that the killed run had written"
    )
    assert output.count("| done training in ") == 1
    expected = [
        {k: v for k, v in row.items() if k in ("num_updates", "loss", "encoder_keep")}
        for row in losses(whole)
    ]
    found = [{k: row[k] for k in expected[0]} for row in logged(output, "train_inner")]
    assert found == expected[first - 1 :]
    assert_same_tensors(weights(last), weights(whole.last))
    states = [load(path)["last_optimizer_state"]["state"] for path in (last, whole.last)]
    for n, entry in states[1].items():
        assert all(
            torch.equal(torch.as_tensor(states[0][n][k]), torch.as_tensor(v))
            for k, v in entry.items()
        )


def losses(run: Run) -> list[dict[str, Any]]:
    return logged(run.output, "train_inner")


@pytest.mark.slow
@pytest.mark.parametrize("update_freq", ["1", "2"])
@pytest.mark.parametrize("extra", ["layers", "everything"])
def test_a_run_that_is_killed_and_started_again_ends_with_the_same_weights(
    update_freq: str, extra: str, data: Path, tmp_path: Path
) -> None:
    """At a random update, after the first file was written, with the same command; bit for bit."""
    more = [
        "--sublayerdrop",
        "0.2",
        "--headdrop",
        "0.2",
        *LEARNED,
        "--layerdrop-warmup-updates",
        "30",
    ]
    flags = [
        *TRAINING,
        *RESUMED,
        "--update-freq",
        update_freq,
        *(more if extra == "everything" else []),
    ]
    whole = Run(tmp_path / "whole", train(data, tmp_path / "whole", *flags))
    assert [int(step["num_updates"]) for step in losses(whole)] == list(range(1, 61))
    update = random.randrange(8, 45)
    print(f"killed at update {update}")
    command = [*PROGRAM, data, *flags, "--save-dir", tmp_path / "save"]
    killed(tmp_path, update, *command)
    output = train(data, tmp_path / "save", *flags)
    assert_resumed(output, tmp_path / "save" / "checkpoint_last.pt", whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    "loading",
    [
        pytest.param([], id="rank 0 loads"),
        pytest.param(["--load-checkpoint-on-all-dp-ranks"], id="all load"),
    ],
)
def test_two_processes_that_are_killed_and_started_again_end_with_the_same_weights(
    loading: list[str], data: Path, tmp_path: Path
) -> None:
    flags = [*RESUMED, *TWO, *loading, "--update-freq", "2", *LEARNED]
    output = run_ranks(data, tmp_path / "whole", *flags, "--save-dir", tmp_path / "whole")
    assert_trained(output, updates=60)
    command = [*PROGRAM, data, *TRAINING, *flags, "--save-dir", tmp_path / "save"]
    update = random.randrange(8, 45)
    print(f"killed at update {update}")
    killed(tmp_path, update, *command)
    resumed = run_ranks(data, tmp_path / "again", *flags, "--save-dir", tmp_path / "save")
    whole = Run(tmp_path / "whole", output)
    assert_resumed(resumed, tmp_path / "save" / "checkpoint_last.pt", whole)


# What is put in the place of fairseq's launchers

PLACES = [
    (distributed_fairseq_model, "DistributedDataParallel"),
    (utils, "_infer_torch_distributed_launch_init"),
    (utils, "_infer_single_node_init"),
    (utils, "call_main"),
]


@pytest.mark.parametrize("gpu", [True, False])
def test_launchers_are_mended_only_where_there_is_no_gpu(
    gpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    for module, name in PLACES:
        monkeypatch.setattr(module, name, name)
    before = [dict(vars(module)) for module, _ in PLACES]
    for _ in range(2):
        distributed.patch_launchers()
        found = [getattr(module, name) for module, name in PLACES]
        names = ["CpuDataParallel", "_from_torchrun", "_on_this_machine", "call_main"]
        assert found == (
            [name for _, name in PLACES] if gpu else [getattr(distributed, name) for name in names]
        )
    places = {name for _, name in PLACES}
    for (module, _), old in zip(PLACES, before, strict=True):
        assert {k: v for k, v in vars(module).items() if k not in places} == {
            k: v for k, v in old.items() if k not in places
        }


def test_one_process_is_started_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = config("--arch", "layerdrop_transformer")
    called: list[Any] = []
    distributed.call_main(cfg, lambda *given, **named: called.append((given, named)), some="thing")
    assert called == [((cfg,), {"some": "thing"})]
    assert cfg.distributed_training.distributed_init_method is None


@pytest.mark.parametrize("backend", ["fully_sharded", "slowmo"])
def test_one_process_is_refused_no_backend(backend: str) -> None:
    called: list[Any] = []
    distributed.call_main(
        config("--arch", "layerdrop_transformer", "--ddp-backend", backend), called.append
    )
    assert len(called) == 1


@pytest.mark.parametrize("backend", ["fully_sharded", "slowmo"])
def test_several_processes_are_refused_what_needs_gpus(backend: str) -> None:
    cfg = config("--arch", "layerdrop_transformer", *TWO, "--ddp-backend", backend)
    with pytest.raises(
        ValueError, match=f"--ddp-backend {backend} needs GPUs and fairscale; take pytorch_ddp"
    ):
        distributed.call_main(cfg, pytest.fail)


# On many machines


def slurm_job(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job of SLURM's on two nodes, one task a node."""
    programs = {
        "scontrol": '[ "$*" = "show hostnames node[1-2]" ] && printf "node1\\nnode2\\n"',
        "srun": 'printf "%s\\n" "$@"',
        "fairseq-layerdrop": f"echo {USER_DIR}",
    }
    for name, line in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    variables = {
        "STEP_NODELIST": "node[1-2]",
        "JOB_NODELIST": "node[1-2]",
        "NNODES": "2",
        "NTASKS_PER_NODE": "1",
    }
    for name, value in {**variables, "JOB_ID": "4711", "CPUS_PER_TASK": "16"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    for name in ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)


def slurm_command() -> tuple[list[str], list[str]]:
    """What the script gives to srun, and to fairseq-train."""
    done = subprocess.run(
        ["bash", SLURM_SCRIPT, "DATA", "SAVE", "--seed", "7"],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    words = done.stdout.splitlines()
    cut = words.index("fairseq-train")
    assert words[cut + 1] == "DATA"
    return words[:cut], words[cut + 2 :]


@pytest.mark.parametrize("node", [0, 1])
def test_the_slurm_script_starts_a_process_a_gpu(
    node: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm_job(tmp_path, monkeypatch)
    monkeypatch.setenv("SLURM_NODEID", str(node))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    _, flags = slurm_command()
    cfg = config(*LANGUAGE, *flags)
    assert (cfg.common.seed, cfg.checkpoint.save_dir, cfg.common.user_dir) == (
        7,
        "SAVE",
        str(USER_DIR),
    )
    training = cfg.distributed_training
    utils.infer_init_method(training)
    assert training.distributed_init_method == "tcp://node1:24711"
    assert training.distributed_world_size == 8
    assert training.distributed_rank == 4 * node
    assert training.distributed_num_procs == 4
    assert not training.distributed_no_spawn


LANGUAGE = ["--source-lang", "src", "--target-lang", "tgt"]


def test_the_slurm_script_s_header_is_what_it_trains_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm_job(tmp_path, monkeypatch)
    header = dict(re.findall(r"^#SBATCH --([a-z-]+)=(\S+)$", SLURM_SCRIPT.read_text(), re.M))
    assert int(header["ntasks-per-node"]) == 1
    srun, flags = slurm_command()
    assert srun == ["--cpus-per-task=16", "--kill-on-bad-exit=1"]
    size = int(flags[flags.index("--distributed-world-size") + 1])
    assert size == int(header["nodes"]) * int(header["gpus-per-node"])
    assert len(SLURM_SCRIPT.read_text().splitlines()) <= 40


def test_a_slurm_job_without_gpus_trains_or_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm_job(tmp_path, monkeypatch)
    monkeypatch.setenv("SLURM_NODEID", "0")
    cfg = config(*TWO, "--arch", "layerdrop_transformer", "--distributed-port", "12399")
    started: list[int] = []
    monkeypatch.setattr(
        torch.multiprocessing, "spawn", lambda *_, nprocs, **__: started.append(nprocs)
    )
    try:
        distributed.call_main(cfg, lambda _: started.append(1))
    except ValueError:
        return
    assert started and started[0] > 0
