# SPDX-License-Identifier: MIT
"""``layerdrop_distill`` against fairseq's own criterions and a divergence written by hand."""

import copy
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from fairseq.criterions import CRITERION_DATACLASS_REGISTRY, CRITERION_REGISTRY
from fairseq.distributed import LegacyDistributedDataParallel, ModuleProxyWrapper
from fairseq.logging import metrics
from fairseq_programs import WIDTH, batch, build_model, build_task, config, dictionary, layers_run
from omegaconf import OmegaConf
from torch.nn.parallel import DistributedDataParallel

import fairseq_layerdrop
from fairseq_layerdrop.criterions._distributions import adaptive_log_probs
from fairseq_layerdrop.criterions.layerdrop_distill import LayerDropDistill
from fairseq_layerdrop.pruning.config import stock_config
from fairseq_layerdrop.pruning.plan import PruningPlan

fairseq_layerdrop.register()

PAD = 1
CHOICES = [
    "label_smoothed_cross_entropy",
    "cross_entropy",
    "adaptive_loss",
    "masked_lm",
    "sentence_prediction",
]
HALF = ["--encoder-layerdrop", "0.5", "--decoder-layerdrop", "0.5", "--dropout", "0.1"]
SIZES = [*WIDTH, "--encoder-layers", "4", "--decoder-layers", "4"]
OURS = ["--arch", "layerdrop_transformer", *SIZES, *HALF]
LM = [
    "--task",
    "layerdrop_language_modeling",
    "--arch",
    "layerdrop_transformer_lm",
    *WIDTH[6:],
    *HALF[2:],
]
LM += ["--decoder-layers", "4", "--decoder-input-dim", "32", "--decoder-output-dim", "32"]
ADAPTIVE = [
    "--criterion",
    "adaptive_loss",
    "--ddp-backend",
    "legacy_ddp",
    "--adaptive-softmax-cutoff",
    "8,16",
]
CLASSES = [
    "--task",
    "layerdrop_sentence_prediction",
    "--num-classes",
    "2",
    "--criterion",
    "sentence_prediction",
]
ROBERTA = ["--arch", "layerdrop_roberta", *WIDTH[:6], "--encoder-layers", "4", *HALF[:2], *HALF[4:]]
OTHERS = {
    "sentence_avg": False,
    "ddp_backend": "legacy_ddp",
    "tpu": False,
}  # what fairseq fills in from other sections

Sample = dict[str, Any]


class Family(NamedTuple):
    """A model, the criterion of its task, and what that reads, one row a position."""

    flags: list[str]
    criterion: str
    options: dict[str, Any]
    sample: Callable[..., Sample]
    logits: Callable[[Any, Sample], torch.Tensor]
    counted: Callable[[Sample], torch.Tensor]


def words(seed: int = 11) -> Sample:
    """A sample of a language model: the source alone; its second sentence is padded."""
    sample = batch(seed=seed)
    tokens = sample["net_input"]["src_tokens"].flip(1)
    return {**sample, "net_input": {"src_tokens": tokens}, "target": tokens.roll(-1, dims=1)}


def masked(seed: int = 11) -> Sample:
    """A sample of a masked language model: five of its tokens are to be guessed."""
    sample = words(seed)
    tokens = sample["net_input"]["src_tokens"]
    target = torch.full_like(tokens, PAD)
    for row, column in ((0, 1), (0, 4), (1, 2), (2, 0), (2, 3)):
        target[row, column] = tokens[row, column]
    return {**sample, "target": target}


def classes(seed: int = 11) -> Sample:
    """A sample of sentence prediction; class 1 has the number of the padding."""
    return {**words(seed), "target": torch.tensor([[0], [1], [1]])}


def of_words(model: Any, sample: Sample) -> torch.Tensor:
    return model(**sample["net_input"])[0].flatten(0, 1)


def of_masked(model: Any, sample: Sample) -> torch.Tensor:
    return model(**sample["net_input"], masked_tokens=sample["target"].ne(PAD))[0]


def of_classes(model: Any, sample: Sample) -> torch.Tensor:
    head = {"features_only": True, "classification_head_name": "sentence_classification_head"}
    return model(**sample["net_input"], **head)[0]


def of_clusters(model: Any, sample: Sample) -> torch.Tensor:
    """Of an adaptive softmax: log p of a word in its cluster plus that of the cluster."""
    x = of_words(model, sample)
    softmax = model.decoder.adaptive_softmax
    head = softmax.head(x).softmax(-1)
    tails = [tail(x).softmax(-1) * head[:, 8 + i : 9 + i] for i, tail in enumerate(softmax.tail)]
    return torch.cat([head[:, :8], *tails], 1).log()


def no_padding(sample: Sample) -> torch.Tensor:
    return sample["target"].flatten() != PAD


SMOOTHED, PLAIN = "label_smoothed_cross_entropy", "cross_entropy"
EVERYTHING = ["--sublayerdrop", "0.3", "--headdrop", "0.4", "--ffndrop", "0.4"]
FAMILIES = {
    "translation": Family(OURS, SMOOTHED, {"label_smoothing": 0.1}, batch, of_words, no_padding),
    "a prefix": Family(
        OURS,
        SMOOTHED,
        {"ignore_prefix_size": 2},
        batch,
        of_words,
        lambda sample: (sample["target"].ne(PAD) & (torch.arange(6) >= 2)).flatten(),
    ),
    "inside": Family(
        [*OURS, *EVERYTHING], PLAIN, {"sentence_avg": True}, batch, of_words, no_padding
    ),
    "learned": Family(
        [*OURS, "--layerdrop-schedule", "learned"], SMOOTHED, {}, batch, of_words, no_padding
    ),
    "stock": Family(
        ["--arch", "transformer", *SIZES, *HALF], PLAIN, {}, batch, of_words, no_padding
    ),
    "language model": Family(LM, PLAIN, {}, words, of_words, no_padding),
    "adaptive": Family([*LM, *ADAPTIVE], "adaptive_loss", {}, words, of_clusters, no_padding),
    "masked": Family(
        ["--task", "layerdrop_masked_lm", *ROBERTA],
        "masked_lm",
        {},
        masked,
        of_masked,
        lambda _: torch.ones(5) > 0,
    ),
    "classes": Family(
        [*CLASSES, "--max-positions", "24", *ROBERTA],
        *("sentence_prediction", {}, classes, of_classes, lambda _: torch.ones(3) > 0),
    ),
}
every_family = pytest.mark.parametrize("name", FAMILIES)


def build(*flags: str, family: Family = FAMILIES["translation"]) -> Any:
    """A model of a family in training, its weights spread out so that its layers matter."""
    model = build_model(*family.flags, *flags).train()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    model.set_num_updates(3)
    return model


def criterion(family: Family = FAMILIES["translation"], **options: Any) -> Any:
    """The distilling criterion of a family, its weight and temperature in ``options``."""
    named = {"_name": "layerdrop_distill", "distill_criterion": family.criterion}
    named |= OTHERS | family.options | options
    return build_task(config(*family.flags)).build_criterion(OmegaConf.create(named))


def stock(family: Family = FAMILIES["translation"]) -> Any:
    """fairseq's own criterion of a family."""
    fields = CRITERION_DATACLASS_REGISTRY[family.criterion].__dataclass_fields__
    named = {key: value for key, value in OTHERS.items() if key in fields} | family.options
    task = build_task(config(*family.flags))
    return task.build_criterion(OmegaConf.create({"_name": family.criterion, **named}))


def divergence(
    student: torch.Tensor, teacher: torch.Tensor, counted: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Σ p_teacher · log(p_teacher / p_student), word by word."""
    total = torch.zeros((), dtype=torch.float64)
    for one, two, counts in zip(student.double(), teacher.double(), counted, strict=True):
        if counts:
            p, q = (
                (row / temperature).exp() / (row / temperature).exp().sum() for row in (two, one)
            )
            total = total + (p * (p / q).log()).sum()
    return total


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {
        name: torch.zeros(()) if p.grad is None else p.grad.clone()
        for name, p in model.named_parameters()
    }


def assert_close(
    one: dict[str, torch.Tensor], two: dict[str, torch.Tensor], tolerance: float = 1e-5
) -> None:
    assert one.keys() == two.keys()
    largest = max(float(tensor.abs().max()) for tensor in two.values())
    for key in one:
        assert float((one[key] - two[key]).abs().max()) <= tolerance * largest, key


# The loss


@pytest.mark.parametrize(("weight", "temperature"), [(0.7, 1.0), (4.0, 2.5)])
@every_family
def test_loss_and_gradients_are_the_task_s_and_those_of_the_divergence_from_a_constant(
    name: str, weight: float, temperature: float
) -> None:
    family = FAMILIES[name]
    model = build(family=family)
    sample = family.sample()
    one, two, whole = (copy.deepcopy(model) for _ in range(3))

    torch.manual_seed(1)
    ours = criterion(family, distill_weight=weight, distill_temperature=temperature)
    loss, sample_size, log = ours(model, sample)
    loss.backward()

    torch.manual_seed(1)  # the reference: two models of their own, whose gradients are added
    task_loss, task_size, task_log = stock(family)(one, sample)
    task_loss.backward()
    torch.manual_seed(1)
    student = family.logits(two, sample)
    with torch.no_grad():
        teacher = family.logits(whole.eval(), sample)
    distance = divergence(student, teacher, family.counted(sample), temperature)
    (weight * temperature**2 * distance).backward()

    assert distance > 0.001
    assert float(log["distill_loss"]) == pytest.approx(temperature**2 * float(distance), rel=1e-4)
    expected = float(task_loss) + weight * temperature**2 * float(distance)
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert {key: log[key] for key in task_log} == task_log  # to the bit
    assert log.keys() - task_log.keys() == {"distill_loss"}
    assert sample_size == task_size
    both = gradients(one)
    for key, gradient in gradients(two).items():
        both[key] = both[key] + gradient
    assert_close(gradients(model), both)


@every_family
def test_the_student_is_what_it_is_without_distillation(name: str) -> None:
    """Draws and dropout alike, in each of three micro-batches of an update."""
    family = FAMILIES[name]
    samples = [family.sample(seed=seed) for seed in (11, 12, 13)]
    model = build(family=family)
    seen = []
    for any_criterion in (stock(family), criterion(family, distill_weight=1.0)):
        twin = copy.deepcopy(model)
        torch.manual_seed(2)
        seen.append([any_criterion(twin, sample)[2] for sample in samples])
        seen[-1].append({"random": float(torch.rand(()))})
    for log in seen[1][:3]:
        assert log.pop("distill_loss") > 0
    assert seen[0] == seen[1]


def test_an_adaptive_softmax_with_dropout_of_its_own_draws_no_more_than_without() -> None:
    family = FAMILIES["adaptive"]
    model = build("--adaptive-softmax-dropout", "0.3", family=family)
    torch.manual_seed(2)
    criterion(family)(copy.deepcopy(model), words())
    drawn = torch.rand(3)
    torch.manual_seed(2)
    stock(family)(model, words())
    assert torch.equal(drawn, torch.rand(3))


def test_the_probabilities_of_an_adaptive_softmax_are_fairseq_s() -> None:
    model = build(family=FAMILIES["adaptive"]).eval()
    with torch.no_grad():
        features = model(**words()["net_input"])[0]
        ours = adaptive_log_probs(model.decoder.adaptive_softmax, features.flatten(0, 1))
        theirs = model.get_normalized_probs((features, None), log_probs=True).flatten(0, 1)
    torch.testing.assert_close(ours, theirs)


def test_the_student_runs_first_and_then_all_layers_once() -> None:
    model = build()
    drawn = {
        name: copy.deepcopy(getattr(model, name).layers).draw().active
        for name in ("encoder", "decoder")
    }
    assert max(map(len, drawn.values())) < 4
    with layers_run(model) as run:
        criterion()(model, batch())
    assert run == {name: [*active, 0, 1, 2, 3] for name, active in drawn.items()}


def test_the_teacher_of_a_fixed_sub_network_is_the_whole_model() -> None:
    model = build()
    model.encoder.layers.keep, model.decoder.layers.keep = (1, 3), (0,)
    with layers_run(model) as run:
        criterion()(model, batch())
    assert run == {"encoder": [1, 3, 0, 1, 2, 3], "decoder": [0, 0, 1, 2, 3]}
    assert (model.encoder.layers.keep, model.decoder.layers.keep) == ((1, 3), (0,))


def test_a_full_path_without_dropout_is_no_distance_away() -> None:
    off = ["--encoder-layerdrop", "0", "--decoder-layerdrop", "0", "--dropout", "0"]
    log = criterion(distill_temperature=2.0)(build(*off), batch())[2]
    assert abs(float(log["distill_loss"])) < 1e-4


def test_half_precision_is_compared_in_full() -> None:
    model = build("--dropout", "0").half()
    twin = copy.deepcopy(model)
    loss, _, log = criterion(distill_weight=1.0)(model, batch())
    with torch.no_grad():
        student, teacher = of_words(twin, batch()), of_words(twin.eval(), batch())
    assert student.dtype == torch.float16
    assert loss.dtype == log["distill_loss"].dtype == torch.float32
    expected = divergence(student, teacher, no_padding(batch()), 1)
    assert float(log["distill_loss"]) == pytest.approx(float(expected), rel=1e-5)
    loss.backward()
    assert all(bool(gradient.isfinite().all()) for gradient in gradients(model).values())


def test_a_loss_a_word_is_refused() -> None:
    with pytest.raises(ValueError, match="reduce must be True, got False"):
        criterion()(build(), batch(), reduce=False)


# Off


@pytest.mark.parametrize("name", ["translation", "inside", "stock", "adaptive"])
def test_at_weight_0_a_training_is_fairseq_s_own_to_the_bit(name: str) -> None:
    family = FAMILIES[name]
    results = []
    for any_criterion in (stock(family), criterion(family, distill_weight=0.0)):
        model = build(family=family)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        torch.manual_seed(2)
        logs = []
        for update in range(4):
            for seed in (2 * update, 2 * update + 1):
                model.set_num_updates(update)
                loss, _, log = any_criterion(model, family.sample(seed=seed))
                loss.backward()
                logs.append({**log, "sum": loss.item()})
            optimizer.step()
            optimizer.zero_grad()
        results.append((logs, model.state_dict()))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(tensor, results[1][1][key]) for key, tensor in results[0][1].items())


@every_family
def test_validation_is_fairseq_s_own(name: str) -> None:
    family = FAMILIES[name]
    model, ours, theirs = (
        build(family=family).eval(),
        criterion(family, distill_weight=1.0),
        stock(family),
    )
    with torch.no_grad(), layers_run(model) as run:
        outputs = [one(model, family.sample()) for one in (ours, theirs)]
    assert outputs[0] == outputs[1]
    assert all(layers == [0, 1, 2, 3] * 2 for layers in run.values())  # one forward each
    assert reduced(ours, [outputs[0][2]]) == reduced(theirs, [outputs[1][2]])


@pytest.mark.parametrize("fails", [False, True])
def test_every_module_is_as_it_was(fails: bool) -> None:
    model = build()
    model.encoder.layers.children().__next__().eval()  # somebody has frozen a layer
    modes = {name: module.training for name, module in model.named_modules()}
    assert len(set(modes.values())) == 2
    called = []

    def fail_in_the_teacher(*_: Any) -> None:
        called.append(model.training)
        if fails and len(called) == 2:
            raise RuntimeError("out of memory")

    hook = model.decoder.register_forward_hook(fail_in_the_teacher)
    try:
        criterion()(model, batch())
    except RuntimeError:
        assert fails
    hook.remove()
    assert called == [True, False]
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert (model.encoder.layers.keep, model.decoder.layers.keep) == (None, None)
    assert not model._forward_hooks
    assert torch.is_grad_enabled()
    assert model._trains  # what our models note of train() and eval()


# Around it


def backward(model: Any, any_criterion: Any, updates: int = 2) -> dict[str, torch.Tensor]:
    """The gradients of this many micro-batches, all of one update."""
    torch.manual_seed(2)
    for seed in range(updates):
        any_criterion(model, batch(seed=seed))[0].backward()
    return gradients(model)


@pytest.mark.parametrize("more", [[], EVERYTHING], ids=["layers", "inside"])
def test_activation_checkpointing_changes_no_gradient(more: list[str]) -> None:
    plain = backward(build(*more), criterion(distill_weight=1.0))
    assert_close(
        backward(build(*more, "--checkpoint-activations"), criterion(distill_weight=1.0)),
        plain,
        1e-6,
    )


@pytest.mark.parametrize("more", [[], ["--checkpoint-activations"]], ids=["plain", "checkpointed"])
def test_data_parallel_wrappers_change_no_gradient_and_see_one_forward(
    more: list[str], tmp_path: Path
) -> None:
    alone = backward(build(*more), criterion(distill_weight=1.0))
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        own, old = build(*more), build(*more)
        wrappers = {
            "ddp": ModuleProxyWrapper(DistributedDataParallel(own)),
            "legacy": ModuleProxyWrapper(
                LegacyDistributedDataParallel(old, torch.distributed.group.WORLD)
            ),
        }
        for wrapper, model in zip(wrappers.values(), (own, old), strict=True):
            wrapper.train()
            seen: list[bool] = []
            wrapper.module.register_forward_hook(
                lambda *_, seen=seen: seen.append(torch.is_grad_enabled())
            )
            backward(wrapper, criterion(distill_weight=1.0))
            assert seen == [True, True]
            assert_close(gradients(model), alone, 1e-6)
    finally:
        torch.distributed.destroy_process_group()


def reduced(any_criterion: Any, logs: list[dict[str, Any]]) -> dict[str, float]:
    """What fairseq would print of several workers' outputs."""
    with metrics.aggregate(new_root=True) as meters:
        build_task(config(*OURS)).reduce_metrics(logs, any_criterion)
    values = meters.get_smoothed_values()
    return {key: value for key, value in values.items() if key != "wps"}


@pytest.mark.parametrize("name", ["translation", "inside", "masked"])
def test_the_log_has_the_task_s_metrics_and_the_distillation_s_beside_them(name: str) -> None:
    family = FAMILIES[name]
    model, ours = build(family=family), criterion(family, distill_weight=1.0)
    logs = [ours(model, family.sample(seed=seed))[2] for seed in (1, 2)]
    assert ours.logging_outputs_can_be_summed()
    summed = {key: sum(log[key] for log in logs) for key in logs[0]}
    values = reduced(ours, logs)
    assert values == reduced(ours, [summed])
    distance = sum(float(log["distill_loss"]) for log in logs) / sum(
        int(log["sample_size"]) for log in logs
    )
    assert values.pop("distill_loss") == pytest.approx(distance / math.log(2), abs=6e-4)
    assert values == reduced(stock(family), logs)


def test_an_output_of_no_batch_is_reduced_too() -> None:
    log = criterion()(build(), batch())[2]
    assert reduced(criterion(), [log, {}]) == reduced(criterion(), [log])


@pytest.mark.parametrize("name", FAMILIES)
def test_it_goes_by_the_name_that_fairseq_compares_optimizer_states_by(name: str) -> None:
    family = FAMILIES[name]
    assert type(criterion(family)).__name__ == type(stock(family)).__name__
    assert {LayerDropDistill, CRITERION_REGISTRY[family.criterion]} <= set(
        type(criterion(family)).__mro__
    )


WARNING = "there is nothing to teach"
OFF = ["--encoder-layerdrop", "0", "--decoder-layerdrop", "0"]


@pytest.mark.parametrize(
    ("name", "flags", "warnings"),
    [
        ("translation", OFF, 1),
        ("stock", OFF, 1),
        ("translation", ["--layerdrop-min-layers", "4"], 1),
        ("translation", OFF[:2], 0),
        ("translation", [*OFF, "--headdrop", "0.1"], 0),
        ("stock", [], 0),
        ("masked", [], 0),
    ],
)
def test_one_warning_where_nothing_is_dropped(
    caplog: pytest.LogCaptureFixture, name: str, flags: list[str], warnings: int
) -> None:
    family = FAMILIES[name]
    model, ours = build(*flags, family=family), criterion(family)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            ours(model, family.sample())
    assert sum(WARNING in message for message in caplog.messages) == warnings


# Configuration


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distill_weight": -0.1}, "--distill-weight must be at least 0, got -0.1"),
        ({"distill_weight": math.inf}, "--distill-weight must be at least 0, got inf"),
        ({"distill_weight": math.nan}, "--distill-weight must be at least 0, got nan"),
        ({"distill_temperature": 0.0}, r"--distill-temperature must be above 0, got 0.0"),
        ({"distill_temperature": -2.0}, r"--distill-temperature must be above 0, got -2.0"),
        ({"distill_temperature": math.inf}, r"--distill-temperature must be above 0, got inf"),
        (
            {"distill_criterion": "sentence_prediction", "regression_target": True},
            r"--regression-target",
        ),
    ],
)
def test_what_is_out_of_range_is_refused_by_rule_and_value(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        criterion(**options)


@pytest.mark.parametrize(
    "options", [{"distill_weight": 1.0}, {"distill_weight": 0.0}, {"distill_temperature": 0.01}]
)
def test_the_ends_of_the_ranges_are_taken(options: dict[str, Any]) -> None:
    assert isinstance(criterion(**options), LayerDropDistill)


def test_flags_reach_the_criterion_and_the_criterion_of_the_task() -> None:
    flags = [
        "--criterion",
        "layerdrop_distill",
        "--label-smoothing",
        "0.2",
        "--report-accuracy",
        "--sentence-avg",
    ]
    cfg = config(*OURS, *flags, "--distill-weight", "0.25", "--distill-temperature", "3")
    ours = build_task(cfg).build_criterion(cfg.criterion)
    assert (ours.distill_weight, ours.distill_temperature) == (0.25, 3.0)
    assert (ours.eps, ours.report_accuracy, ours.sentence_avg, ours.padding_idx) == (
        0.2,
        True,
        True,
        PAD,
    )
    default = config(*OURS, "--criterion", "layerdrop_distill").criterion
    assert (default.distill_criterion, default.distill_weight, default.distill_temperature) == (
        SMOOTHED,
        0.5,
        1.0,
    )


def test_a_criterion_that_it_does_not_know_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        config(*OURS, "--criterion", "layerdrop_distill", "--distill-criterion", "ctc")
    told = capsys.readouterr().err
    assert all(choice in told for choice in CHOICES)


# Pruned


def saved(*flags: str) -> dict[str, Any]:
    """The configuration in a checkpoint of a model that was trained with these flags."""
    return OmegaConf.to_container(
        config(*flags, "--criterion", "layerdrop_distill"), resolve=True, enum_to_str=True
    )


@pytest.mark.parametrize("choice", CHOICES)
def test_prune_writes_the_criterion_that_trained_the_task(choice: str) -> None:
    plan = PruningPlan.parse("0,2/1", {"encoder": 4, "decoder": 4})
    cfg = saved(
        *OURS,
        "--distill-criterion",
        choice,
        "--ddp-backend",
        "legacy_ddp",
        "--label-smoothing",
        "0.1",
    )
    section = stock_config(cfg, plan)["criterion"]
    fields = {key: value for key, value in section.items() if key != "_name"}
    assert section["_name"] == choice
    assert fields == {key: cfg["criterion"][key] for key in fields}
    # What fairseq itself writes of this criterion.
    assert section.keys() == {"_name", *CRITERION_DATACLASS_REGISTRY[choice].__dataclass_fields__}
    rebuilt = CRITERION_REGISTRY[choice]
    task = build_task(
        config(*FAMILIES["classes"].flags if choice == "sentence_prediction" else OURS)
    )
    assert type(task.build_criterion(OmegaConf.create(section))) is rebuilt


def test_a_stock_model_s_options_name_it_too() -> None:
    """fairseq puts every option into the section of a model that has no configuration."""
    plan = PruningPlan.parse("0,2/1", {"encoder": 4, "decoder": 4})
    model = stock_config(
        saved("--arch", "transformer", *SIZES, "--distill-criterion", PLAIN), plan
    )["model"]
    assert model["criterion"] == PLAIN
    assert not [key for key in model if key.startswith("distill_")]


def test_every_choice_is_known_to_these_tests() -> None:
    choices = (
        CRITERION_DATACLASS_REGISTRY["layerdrop_distill"]
        .__dataclass_fields__["distill_criterion"]
        .type
    )
    assert [choice.value for choice in choices] == CHOICES
    assert {family.criterion for family in FAMILIES.values()} == set(CHOICES)
    assert dictionary().pad() == PAD
