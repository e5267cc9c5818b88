# SPDX-License-Identifier: MIT
"""``--distill-hidden``: a student's states become those of the model that it was cut from."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from commands import Command
from planted import plant
from test_teacher import criterion, write
from torch import Tensor
from torch.nn.functional import layer_norm

from fairseq_layerdrop.criterions._hidden import counterparts
from fairseq_layerdrop.evaluation.loading import Batches, Loaded, load


@pytest.fixture(scope="module")
def teacher(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of four decoder layers, of which the first and the third add something."""
    folder = tmp_path_factory.mktemp("hidden")
    return plant(write(data, folder / "full.pt", 4), folder / "teacher.pt", {"decoder": {0, 2}})


def cut(teacher: Path, keep: str, data: Path, folder: Path, command: Command) -> Loaded:
    status, _, err = command("prune", teacher, folder / "small.pt", "--decoder-keep", keep)
    assert status == 0, err
    return load(str(folder / "small.pt"), str(data))


def taught(student: Loaded, teacher: Path, **options: Any) -> dict[str, float]:
    """What the criterion logs of the first batch, and the loss."""
    sample = Batches(student, "valid").samples[0]
    student.model.training = True
    try:
        loss, _, log = criterion(student, teacher, **options)(student.model, sample)
    finally:
        student.model.training = False
    return {**{name: float(value) for name, value in log.items()}, "all": float(loss)}


def by_hand(student: Loaded, teacher: Loaded, pairs: list[tuple[str, int, int]]) -> float:
    """The mean squared difference of the normed states, times the words."""
    sample = Batches(student, "valid").samples[0]
    seen: dict[tuple[str, str, int], Tensor] = {}

    def keep(key: tuple[str, str, int]) -> Any:
        def hook(_: Any, inputs: Any, output: Any) -> None:
            seen[key] = output[0] if isinstance(output, tuple) else output

        return hook

    for who, loaded in (("student", student), ("teacher", teacher)):
        for stack in ("encoder", "decoder"):
            for i, layer in enumerate(getattr(loaded.model, stack).layers):
                layer.register_forward_hook(keep((who, stack, i)))
        with torch.no_grad():
            loaded.model(**sample["net_input"])
    inputs, squares = sample["net_input"], []
    ids = {"encoder": inputs["src_tokens"], "decoder": inputs["prev_output_tokens"]}
    for stack, i, j in pairs:
        one, other = (seen[who, stack, n] for who, n in (("student", i), ("teacher", j)))
        difference = layer_norm(one, [one.shape[-1]]) - layer_norm(other, [one.shape[-1]])
        squares.append(difference[ids[stack].ne(1).t()].square().mean())
    return float(sum(squares) / len(squares) * sample["target"].ne(1).sum())


def test_the_loss_has_the_distance_of_the_states(
    data: Path, teacher: Path, tmp_path: Path, command: Command
) -> None:
    student = cut(teacher, "0,1", data, tmp_path, command)
    log = taught(student, teacher, distill_hidden=3.0, distill_plan="all/0,1", distill_weight=0.5)
    encoder = [("encoder", i, i) for i in range(len(student.model.encoder.layers))]
    pairs = [*encoder, ("decoder", 0, 0), ("decoder", 1, 3)]
    distance = by_hand(student, load(str(teacher), str(data)), pairs)
    assert log["hidden_loss"] == pytest.approx(distance, rel=1e-4)
    assert log["all"] == pytest.approx(
        log["loss"] + 0.5 * log["distill_loss"] + 3 * distance, rel=1e-4
    )
    alone = taught(student, teacher, distill_hidden=3.0, distill_plan="all/0,1", distill_weight=0.0)
    assert alone["all"] == pytest.approx(alone["loss"] + 3 * distance, rel=1e-4)


def test_what_lost_nothing_is_no_distance_away(
    data: Path, teacher: Path, tmp_path: Path, command: Command
) -> None:
    student = cut(teacher, "0,2", data, tmp_path, command)
    assert taught(student, teacher, distill_hidden=1.0)["hidden_loss"] == pytest.approx(0, abs=1e-6)
    wrong = taught(student, teacher, distill_hidden=1.0, distill_plan="all/2,3")
    assert wrong["hidden_loss"] > 0.01


def test_a_layer_stands_for_those_that_follow_it() -> None:
    depths = {"encoder": 2, "decoder": 3}
    places = counterparts("0,3/0,1,4", depths, {"encoder": 6, "decoder": 6})
    encoder = {("encoder", 0): ("encoder", 2), ("encoder", 1): ("encoder", 5)}
    decoder = {("decoder", 0): 0, ("decoder", 1): 3, ("decoder", 2): 5}
    assert places == {**encoder, **{place: ("decoder", n) for place, n in decoder.items()}}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distill_plan": "all/0"}, "--distill-plan must keep the student's layers"),
        ({"distill_plan": "all/9"}, "--distill-plan: "),
        ({"distill_hidden": -1.0}, "--distill-hidden must be at least 0, got -1"),
        ({"distill_teacher": None}, "--distill-hidden needs --distill-teacher"),
    ],
)
def test_what_cannot_be_is_refused(
    data: Path,
    teacher: Path,
    tmp_path: Path,
    command: Command,
    options: dict[str, Any],
    message: str,
) -> None:
    student = cut(teacher, "0,2", data, tmp_path, command)
    with pytest.raises(ValueError, match=message):
        taught(student, teacher, **{"distill_hidden": 1.0, **options})


def test_a_training_with_plans_has_none(teacher: Path) -> None:
    student: Any = SimpleNamespace(task=SimpleNamespace(cfg=SimpleNamespace(train_plans="4+2")))
    with pytest.raises(ValueError, match="--distill-hidden is for a model without --train-plans"):
        criterion(student, teacher, distill_hidden=1.0)
