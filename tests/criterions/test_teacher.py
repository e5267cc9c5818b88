# SPDX-License-Identifier: MIT
"""``--distill-teacher``: a model from a file teaches, and leaves no trace in the student's."""

from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq.criterions import CRITERION_DATACLASS_REGISTRY
from fairseq_programs import STYLE
from omegaconf import OmegaConf
from planted import write_model

import fairseq_layerdrop
from fairseq_layerdrop.criterions.layerdrop_distill import LayerDropDistill
from fairseq_layerdrop.evaluation.loading import Batches, Loaded, load

fairseq_layerdrop.register()

MODEL = ["--task", "translation", "--arch", "transformer", *STYLE, "--dropout", "0"]


def write(data: Path, target: Path, layers: int) -> Path:
    return write_model(data, target, *MODEL, "--decoder-layers", str(layers))


@pytest.fixture(scope="module")
def teacher(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(data, tmp_path_factory.mktemp("teacher") / "teacher.pt", 4)


@pytest.fixture(scope="module")
def student(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return load(str(write(data, tmp_path_factory.mktemp("student") / "s.pt", 2)), str(data))


def criterion(student: Loaded, teacher: Path | str, **options: Any) -> Any:
    known = OmegaConf.structured(CRITERION_DATACLASS_REGISTRY["layerdrop_distill"])
    given = {"distill_teacher": str(teacher), "distill_criterion": "cross_entropy", **options}
    cfg = OmegaConf.merge(OmegaConf.to_container(known), {"sentence_avg": False}, given)
    return LayerDropDistill.build_criterion(cfg, student.task)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_loss_has_the_divergence_from_the_teacher_in_the_file(
    data: Path, teacher: Path, student: Loaded, temperature: float
) -> None:
    sample = Batches(student, "valid").samples[0]
    options = {"distill_weight": 0.7, "distill_temperature": temperature}
    taught = criterion(student, teacher, **options)
    student.model.training = True
    loss, _, log = taught(student.model, sample)
    student.model.training = False
    other = load(str(teacher), str(data))
    logits = [loaded.model(**sample["net_input"])[0] for loaded in (other, student)]
    wanted, given = (one.div(temperature).log_softmax(-1) for one in logits)
    rows = (wanted.exp() * (wanted - given)).sum(-1)
    distance = temperature**2 * rows[sample["target"].ne(1)].sum()
    assert float(log["distill_loss"]) == pytest.approx(float(distance), rel=1e-4)
    assert float(loss) == pytest.approx(float(log["loss"] + 0.7 * distance), rel=1e-4)


def test_nothing_of_it_is_in_the_criterion(teacher: Path, student: Loaded) -> None:
    taught = criterion(student, teacher)
    student.model.training = True
    taught(student.model, Batches(student, "valid").samples[0])
    student.model.training = False
    assert not list(taught.parameters())
    assert not taught.state_dict()
    assert not list(taught.children())


def test_random_numbers_are_those_without_it(teacher: Path, student: Loaded) -> None:
    taught = criterion(student, teacher)
    student.model.training = True
    torch.manual_seed(1)
    taught(student.model, Batches(student, "valid").samples[0])
    after = torch.rand(1)
    student.model.training = False
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(1))


def test_in_evaluation_the_file_need_not_be_there(student: Loaded) -> None:
    sample = Batches(student, "valid").samples[0]
    loss, _, log = criterion(student, "nowhere.pt")(student.model, sample)
    assert "distill_loss" not in log
    assert float(loss) > 0


def test_a_teacher_that_is_none_is_refused_by_name(
    data: Path, text_data: Path, fixtures: Path, student: Loaded, tmp_path: Path
) -> None:
    lm = write_model(
        text_data,
        tmp_path / "lm.pt",
        *("--task", "language_modeling", "--arch", "transformer_lm", "--decoder-layers", "1"),
        *("--decoder-embed-dim", "32", "--decoder-ffn-embed-dim", "32"),
        *("--decoder-attention-heads", "2", "--decoder-input-dim", "32"),
        *("--decoder-output-dim", "32"),
    )
    sample = Batches(student, "valid").samples[0]
    refused = {
        "nowhere.pt": "there is no file nowhere.pt",
        str(lm): "must be of the task translation, got language_modeling",
        str(fixtures / "translation-0.12.2" / "checkpoint.pt"): "has another vocabulary",
    }
    student.model.training = True
    for path, message in refused.items():
        with pytest.raises(ValueError, match=message):
            criterion(student, path)(student.model, sample)
    student.model.training = False
