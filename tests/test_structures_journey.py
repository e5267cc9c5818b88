# SPDX-License-Identifier: MIT
"""Everything that is dropped, learned or shared: train, resume, prune, generate."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SENTENCES, Run
from fairseq_programs import (
    SHORT,
    STYLE,
    USER_DIR,
    assert_same_hypotheses,
    assert_same_tensors,
    generate,
    logged,
    prune,
    train,
    weights,
)

from fairseq_layerdrop import cli
from fairseq_layerdrop.checkpoint import load
from fairseq_layerdrop.modules.learned import LearnedRates
from fairseq_layerdrop.pruning.stacks import chunks

STACKS = ("encoder", "decoder")
COMMON = [
    *(
        "--user-dir",
        USER_DIR,
        "--arch",
        "layerdrop_transformer",
        "--task",
        "layerdrop_translation",
        *STYLE,
    ),
    *(
        "--encoder-layers",
        "4",
        "--decoder-layers",
        "4",
        "--dropout",
        "0.1",
        "--layerdrop-schedule",
        "learned",
    ),
    *("--save-interval", "10", "--validate-interval", "10", "--update-epoch-batch-itr", "True"),
]
EVERYTHING = [
    *(*COMMON, "--encoder-layerdrop", "0.4", "--decoder-layerdrop", "0.3", "--share-layers", "2"),
    *(
        "--sublayerdrop",
        "0.2",
        "--headdrop",
        "0.3",
        "--ffndrop",
        "0.3",
        "--ffndrop-blocks",
        "4",
        "--weightdrop",
        "0.1",
    ),
    *("--layerdrop-warmup-updates", "12", "--update-freq", "2"),
]
LEARNED = [*COMMON, "--encoder-layerdrop", "0.5", "--decoder-layerdrop", "0.5"]
WITH_TENSORBOARD = importlib.util.find_spec("tensorboard") is not None


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """24 updates of two micro-batches with everything on at once."""
    folder = tmp_path_factory.mktemp("everything")
    return Run(folder, train(data, folder, *EVERYTHING, "--max-update", "24"))


@pytest.fixture(scope="module")
def learned(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """30 updates with learned rates."""
    folder = tmp_path_factory.mktemp("learned")
    events = ["--tensorboard-logdir", folder / "events"] if WITH_TENSORBOARD else []
    return Run(folder, train(data, folder, *LEARNED, *events, "--max-update", "30"))


def rates(checkpoint: Path) -> dict[str, list[float]]:
    """The rates that a file's gates have."""
    state, cfg = load(checkpoint)["model"], load(checkpoint)["cfg"]["model"]
    found = {}
    for stack in STACKS:
        gate = LearnedRates(
            *state[f"{stack}.layerdrop_gate.weight"].shape, target=cfg[f"{stack}_layerdrop"]
        )
        prefix = f"{stack}.layerdrop_gate."
        gate.load_state_dict(
            {key.removeprefix(prefix): t for key, t in state.items() if key.startswith(prefix)}
        )
        found[stack] = gate.rates().tolist()
    return found


def shown(output: str) -> list[dict[str, str]]:
    """What the log says of each update's draws and rates, and its loss."""
    steps = logged(output, "train_inner")
    return [
        {k: v for k, v in step.items() if k == "loss" or k.endswith("_keep") or "_rate_" in k}
        for step in steps
    ]


def moments(checkpoint: Path) -> dict[Any, Any]:
    state = load(checkpoint)["last_optimizer_state"]["state"]
    return {
        f"{n}.{name}": value
        for n, entry in state.items()
        for name, value in entry.items()
        if name != "step"
    }


# Everything at once


def test_a_resumed_run_ends_with_the_same_weights_moments_and_rates(
    data: Path, whole: Run, tmp_path: Path
) -> None:
    """24 updates, or 10, a stop in the middle of an epoch and of the warm-up, and the rest."""
    stopped = train(data, tmp_path, *EVERYTHING, "--max-update", "10")
    resumed = train(data, tmp_path, *EVERYTHING, "--max-update", "24")
    expected = shown(whole.output)
    assert shown(stopped) + shown(resumed) == expected
    assert len(expected) == 24
    last = tmp_path / "checkpoint_last.pt"
    assert_same_tensors(weights(last), weights(whole.last))
    assert_same_tensors(moments(last), moments(whole.last))
    assert rates(last) == rates(whole.last)


def test_checkpointed_activations_train_the_same_weights(
    data: Path, whole: Run, tmp_path: Path
) -> None:
    output = train(data, tmp_path, *EVERYTHING, "--max-update", "24", "--checkpoint-activations")
    assert [float(step["loss"]) for step in shown(output)] == pytest.approx(
        [float(step["loss"]) for step in shown(whole.output)], abs=2e-3
    )
    one, two = weights(tmp_path / "checkpoint_last.pt"), weights(whole.last)
    assert one.keys() == two.keys()
    worst = max(float((tensor - two[key]).abs().max()) for key, tensor in one.items())
    print(worst)
    assert worst < 1e-3


def test_the_warm_up_s_rates_are_in_the_log(whole: Run) -> None:
    """Their mean, which grows to the target over twelve updates."""
    for stack, target in (("encoder", 0.4), ("decoder", 0.3)):
        for update, step in enumerate(shown(whole.output)):
            mean = sum(float(step[f"{stack}_rate_{i}"]) for i in range(2)) / 2
            assert mean == pytest.approx(target * min(1, update / 12), abs=1e-3)
            assert f"{stack}_rate_2" not in step  # chunks of two have one rate


def test_the_log_tells_at_the_start_what_is_dropped(whole: Run) -> None:
    for stack in STACKS:
        assert whole.output.count(f"LayerDrop, {stack}: asked rate") == 1
        assert whole.output.count(f"LayerDrop, {stack}, inside the layers: ") == 1


def test_shared_layers_are_one_in_the_file_and_its_parameters_are_counted_once(
    whole: Run, capsys: Any
) -> None:
    model = load(whole.last)["model"]
    assert chunks(model) == {stack: [(0, 1), (2, 3)] for stack in STACKS}
    unique = {tensor.data_ptr(): tensor for tensor in model.values()}
    stored = sum(tensor.numel() * tensor.element_size() for tensor in unique.values())
    named = sum(tensor.numel() * tensor.element_size() for tensor in model.values())
    two_moments = 2 * stored
    assert stored + two_moments < whole.last.stat().st_size < named + two_moments + 200_000
    assert cli.main(["inspect", str(whole.last)]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "share their weights" in line]
    assert [line.split(":")[1].strip() for line in lines] == ["0,1 | 2,3"] * 2


def test_a_chunk_is_pruned_whole_and_stock_fairseq_generates(
    data: Path, whole: Run, tmp_path: Path, capsys: Any
) -> None:
    small = prune(
        whole.last,
        tmp_path / "small.pt",
        "--encoder-keep",
        "learned:2",
        "--decoder-keep",
        "learned:2",
    )
    best = {stack: min((0, 1), key=rate.__getitem__) for stack, rate in rates(whole.last).items()}
    before, after = weights(whole.last), weights(small)
    for stack in STACKS:
        for i in (0, 1):
            key = f"{stack}.layers.{i}.fc1.weight"
            assert torch.equal(
                after[key], before[f"{stack}.layers.{2 * best[stack] + i}.fc1.weight"]
            )
    assert chunks(load(small)["model"]) == {stack: [(0, 1)] for stack in STACKS}
    assert len(generate(data, small, *SHORT)) == SENTENCES["test"]
    capsys.readouterr()
    assert (
        cli.main(["prune", str(whole.last), str(tmp_path / "no.pt"), "--decoder-keep", "0-2"]) == 2
    )
    assert (
        "decoder: the layers 2,3 share their weights, keep all or none of them; got 2"
        in capsys.readouterr().err
    )


# Learned rates


def test_the_rates_are_in_the_log_and_their_mean_is_the_target(learned: Run) -> None:
    steps = shown(learned.output)
    assert len(steps) == 30
    for stack in STACKS:
        found = [[float(step[f"{stack}_rate_{i}"]) for i in range(4)] for step in steps]
        assert found[0] == [0.5] * 4
        assert all(sum(row) / 4 == pytest.approx(0.5, abs=5e-4) for row in found)
        assert all(0 <= rate <= 0.95 for row in found for rate in row)
        assert max(found[-1]) - min(found[-1]) > 0.05
        ran = [float(step[f"{stack}_keep"]) for step in steps]
        assert set(ran) <= {0.25, 0.5, 0.75, 1.0} and len(set(ran)) > 1


def test_the_rates_in_the_file_have_the_target_s_mean(learned: Run) -> None:
    for stack, found in rates(learned.last).items():
        assert sum(found) / 4 == pytest.approx(0.5, abs=1e-6)
        last = shown(learned.output)[-1]  # before the last update
        assert [float(last[f"{stack}_rate_{i}"]) for i in range(4)] == pytest.approx(
            found, abs=0.15
        )


@pytest.mark.skipif(
    not WITH_TENSORBOARD, reason="tensorboard is not installed; the rates are in the JSON log"
)
def test_tensorboard_has_the_rates(learned: Run) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(learned.folder / "events" / "train_inner"))
    events.Reload()
    expected = shown(learned.output)
    for stack in STACKS:
        for i in range(4):
            found = [event.value for event in events.Scalars(f"{stack}_rate_{i}")]
            assert found == pytest.approx(
                [float(step[f"{stack}_rate_{i}"]) for step in expected], abs=1e-3
            )


def test_the_layers_that_were_learned_generate_alike_in_the_training_file_and_pruned_in_stock(
    data: Path, learned: Run, tmp_path: Path
) -> None:
    """The training file with the plugin and layers on demand; the pruned file without."""
    order = {
        stack: sorted(range(4), key=rate.__getitem__) for stack, rate in rates(learned.last).items()
    }
    kept = {stack: sorted(layers[:2]) for stack, layers in order.items()}
    flags = [item for s in STACKS for item in (f"--{s}-keep", ",".join(map(str, kept[s])))]
    on_demand = generate(
        data,
        learned.last,
        "--user-dir",
        USER_DIR,
        "--task",
        "layerdrop_translation",
        *flags,
        *SHORT,
    )
    keep = [item for stack in STACKS for item in (f"--{stack}-keep", "learned:2")]
    small = prune(learned.last, tmp_path / "small.pt", *keep)
    assert not [key for key in load(small)["model"] if "layerdrop_gate" in key]
    assert_same_hypotheses(generate(data, small, *SHORT), on_demand, sentences=SENTENCES["test"])
    alone = prune(
        learned.last, tmp_path / "alone.pt", "--strategy", "learned"
    )  # at 0.5 two of four
    assert_same_tensors(weights(alone), weights(small))
