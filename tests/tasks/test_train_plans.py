# SPDX-License-Identifier: MIT
"""``--train-plans``: steps against losses and gradients by hand, the draws, what is gained."""

from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fairseq_programs import WIDTH, batch, build_model, build_task, config
from torch import Tensor

from fairseq_layerdrop.modules import restricted
from fairseq_layerdrop.pruning.plan import PruningPlan

PAD = 1
TASK = ["--task", "layerdrop_translation", "--dropout", "0"]
DEPTH = ["--encoder-layers", "4", "--decoder-layers", "4"]
OFF = ["--encoder-layerdrop", "0", "--decoder-layerdrop", "0"]
MODEL = [*TASK, "--arch", "layerdrop_transformer", *WIDTH, *DEPTH, *OFF]
STOCK = [*TASK, "--arch", "transformer", *WIDTH, *DEPTH]
SMOOTHED = ["--criterion", "label_smoothed_cross_entropy", "--label-smoothing", "0.1"]
DISTILL = ["--criterion", "layerdrop_distill", "--label-smoothing", "0.1"]
CHECKPOINTED = ["--checkpoint-activations"]


class Backward:
    """An optimizer of which a training step needs only this."""

    def backward(self, loss: Tensor) -> None:
        loss.backward()


def build(*flags: str) -> tuple[Any, Any, Any]:
    """A task, its model in training and its criterion."""
    cfg = config(*flags)
    torch.manual_seed(5)
    task = build_task(cfg)
    model = task.build_model(cfg.model).train()
    return task, model, task.build_criterion(cfg.criterion)


def step(*flags: str, update: int = 0) -> tuple[dict[str, Any], Any]:
    """The logging output of one training step, and the model with its gradients."""
    task, model, criterion = build(*flags)
    _, _, log = task.train_step(batch(), model, criterion, Backward(), update)
    return log, model


def gradients(model: Any) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_close(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    assert one.keys() == two.keys()
    for name, gradient in one.items():
        torch.testing.assert_close(gradient, two[name], rtol=1e-4, atol=1e-6, msg=name)


def label_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Label-smoothed cross-entropy, 0.1, summed over what is not padding."""
    log_probs = logits.log_softmax(-1).flatten(0, 1)[target.flatten() != PAD]
    labels = target[target != PAD]
    share = 0.1 / (logits.shape[-1] - 1)
    chosen = log_probs.gather(1, labels[:, None]).sum()
    return -((0.9 - share) * chosen + share * log_probs.sum())


def by_hand(model: Any, plans: list[str], *, weight: float = 1, teach: float = 0) -> Tensor:
    """The loss of a step in which these plans are drawn; each runs an encoder of its own."""
    sample = batch()
    whole, _ = model(**sample["net_input"])
    loss = label_loss(whole, sample["target"])
    for text in plans:
        plan = PruningPlan.parse(text, {"encoder": 4, "decoder": 4})
        with restricted(model, plan.kept):
            logits, _ = model(**sample["net_input"])
        loss = loss + weight * label_loss(logits, sample["target"])
        counted = sample["target"] != PAD
        teacher = whole.detach().softmax(-1)[counted]
        loss = loss + teach * F.kl_div(logits.log_softmax(-1)[counted], teacher, reduction="sum")
    return loss


@pytest.mark.parametrize("plan", ["4+2", "2+4", "2+1"])
@pytest.mark.parametrize(
    "form", [MODEL, STOCK, [*MODEL, *CHECKPOINTED]], ids=["ours", "stock", "ac"]
)
def test_a_step_has_the_gradients_of_the_whole_model_and_of_the_plan(
    form: list[str], plan: str
) -> None:
    log, model = step(*form, *SMOOTHED, "--train-plans", plan, "--train-plans-weight", "0.5")
    _, reference, _ = build(*form)
    by_hand(reference, [plan], weight=0.5).backward()
    assert_close(gradients(model), gradients(reference))
    name = plan.replace("+", "-")
    assert log[f"_plan_{name}_loss"] != log["loss"]


@pytest.mark.parametrize("form", [MODEL, [*MODEL, *CHECKPOINTED]], ids=["plain", "ac"])
def test_distilled_plans_also_learn_from_the_whole_model_of_the_same_step(form: list[str]) -> None:
    flags = ["--train-plans", "4+2", "--distill-weight", "0.7", "--train-plans-weight", "0.3"]
    log, model = step(*form, *DISTILL, *flags)
    _, reference, _ = build(*form)
    by_hand(reference, ["4+2"], weight=0.3, teach=0.7).backward()
    assert_close(gradients(model), gradients(reference))
    assert log["_plan_4-2_distill_loss"] > 0
    assert "distill_loss" not in log  # the whole model learns from the labels only


def test_at_another_temperature_both_distributions_are_softened() -> None:
    flags = ["--train-plans", "4+2", "--distill-weight", "1", "--distill-temperature", "2"]
    log, _ = step(*MODEL, *DISTILL, *flags)
    _, reference, _ = build(*MODEL)
    sample = batch()
    counted = sample["target"] != PAD
    whole, _ = reference(**sample["net_input"])
    with restricted(reference, {"decoder": (0, 2)}):
        small, _ = reference(**sample["net_input"])
    soft = [(logits[counted] / 2).log_softmax(-1) for logits in (whole, small)]
    expected = 4 * F.kl_div(soft[1], soft[0], reduction="sum", log_target=True)
    assert float(log["_plan_4-2_distill_loss"]) == pytest.approx(float(expected), rel=1e-4)


def test_the_encoder_runs_once_for_all_plans_that_keep_it_whole() -> None:
    plans = ["--train-plans", "4+3 4+2 4+1 2+4", "--train-plans-per-update", "4"]
    task, model, criterion = build(*MODEL, *SMOOTHED, *plans)
    calls: Counter[str] = Counter()
    for stack in ("encoder", "decoder"):
        part = getattr(model, stack)
        part.register_forward_hook(lambda *_, stack=stack: calls.update([stack]))
    run = model.encoder.forward_scriptable
    ran = []
    model.encoder.forward_scriptable = lambda *a, **k: (ran.append(1), run(*a, **k))[1]
    task.train_step(batch(), model, criterion, Backward(), 0)
    assert len(ran) == 2  # of the whole model, and of the plan with half of it
    assert calls["decoder"] == 5
    assert "forward" not in vars(model.encoder)


def test_the_model_is_whole_after_a_step() -> None:
    _, model = step(*MODEL, *DISTILL, "--train-plans", "2+1")
    assert model.encoder.layers.keep is None
    assert model.decoder.layers.keep is None
    assert "get_normalized_probs" not in vars(model)


def test_with_layerdrop_only_the_whole_model_s_pass_drops() -> None:
    half = ["--encoder-layerdrop", "0.5", "--decoder-layerdrop", "0.5", "--train-plans", "4+2"]
    task, model, criterion = build(*MODEL, *half, *SMOOTHED)
    drawn = []
    layers = model.decoder.layers
    draw = layers.draw
    layers.draw = lambda: drawn.append(draw()) or drawn[-1]
    for update in range(8):
        task.train_step(batch(), model, criterion, Backward(), update)
    assert all(one.active == (0, 2) for one in drawn[1::2])
    assert len({one.active for one in drawn[::2]}) > 2


# What is drawn


def drawn(*flags: str, updates: int = 400) -> list[list[str]]:
    task, _, _ = build(*MODEL, *flags)
    return [task.trained.draw(update) for update in range(updates)]


def test_of_one_plan_a_step_the_smallest_has_half_of_the_draws() -> None:
    counts = Counter(name for (name,) in drawn("--train-plans", "4+3 4+2 4+1"))
    assert abs(counts["4-1"] - 200) < 5 * 10  # five sigma
    assert abs(counts["4-2"] - 100) < 5 * 8.7
    assert sum(counts.values()) == 400


def test_of_two_plans_a_step_the_smallest_is_always_one() -> None:
    steps = drawn("--train-plans", "4+1 4+3 4+2", "--train-plans-per-update", "2")
    assert all(names[0] == "4-1" and len(names) == 2 for names in steps)
    assert abs(sum("4-3" in names for names in steps) - 200) < 50


def test_draws_depend_on_seed_update_and_micro_batch_only() -> None:
    plans = ["--train-plans", "4+3 4+2 4+1"]
    assert drawn(*plans) == drawn(*plans)
    assert drawn(*plans, "--seed", "2") != drawn(*plans, "--seed", "3")
    task, _, _ = build(*MODEL, *plans)
    micro = [task.trained.draw(7) for _ in range(40)]
    assert len({tuple(names) for names in micro}) == 3
    again, _, _ = build(*MODEL, *plans)
    assert [again.trained.draw(7) for _ in range(40)] == micro


def test_the_first_updates_train_the_whole_model_only() -> None:
    steps = drawn("--train-plans", "4+1", "--train-plans-warmup-updates", "5", updates=10)
    assert steps == [[]] * 5 + [["4-1"]] * 5


def test_without_plans_a_step_is_the_stock_one() -> None:
    task, model, criterion = build(*MODEL, *SMOOTHED)
    assert task.trained is None
    _, _, log = task.train_step(batch(), model, criterion, Backward(), 0)
    stock, stock_model, stock_criterion = build("--task", "translation", *STOCK[2:], *SMOOTHED)
    _, _, stock_log = stock.train_step(batch(), stock_model, stock_criterion, Backward(), 0)
    assert log == stock_log
    for name, gradient in gradients(stock_model).items():
        assert torch.equal(gradients(model)[name], gradient), name


def test_all_plans_log_the_same_keys_whatever_is_drawn() -> None:
    plans = ["--train-plans", "4+3 4+1"]
    first, second = (set(step(*MODEL, *DISTILL, *plans, update=n)[0]) for n in (1, 2))
    assert first == second
    names = {key for key in first if key.endswith("_loss")}
    assert {"_plan_4-3_loss", "_plan_4-1_loss", "_plan_4-1_distill_loss"} <= names


# What it is for


def train(*flags: str, updates: int = 40) -> float:
    """Learn one batch by heart; the loss of the plan 4+1 at the end."""
    task, model, criterion = build(*MODEL, *SMOOTHED, *flags)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    for update in range(updates):
        optimizer.zero_grad()
        task.train_step(batch(), model, criterion, Backward(), update)
        optimizer.step()
    with restricted(model.eval(), {"decoder": (0,)}), torch.no_grad():
        logits, _ = model(**batch()["net_input"])
    return float(label_loss(logits, batch()["target"])) / batch()["ntokens"]


def test_a_planned_depth_is_learned_and_another_is_not() -> None:
    assert train("--train-plans", "4+1 4+2") < 0.6 * train()


# What is refused


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--train-plans", "4+2 4+9"], r"--train-plans: 4\+9: decoder.*4.*9"),
        (["--train-plans", "4+4"], "4-4 is the whole model, which is trained anyway"),
        (["--train-plans", "4+2 all/0,2"], "4-2 and all-0-2 are the same plan"),
        (["--train-plans", "4+2 4+2"], "--train-plans: every plan must have a metric name"),
        (["--train-plans", "4+2", "--train-plans-per-update", "2"], "in 1-1.*got 2"),
        (["--train-plans", "4+2", "--train-plans-per-update", "0"], "in 1-1.*got 0"),
        (["--train-plans", "4+2", "--train-plans-weight", "0"], "above 0, got 0"),
        (["--train-plans", "4+2", "--train-plans-warmup-updates", "-1"], "at least 0, got -1"),
        (["--train-plans", "4+3", "--share-layers", "2"], "4-3 parts layers of the decoder"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_it_begins(flags: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_model(*MODEL, *flags)


def test_in_generation_the_flag_is_refused_and_a_checkpoint_s_own_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cfg = config(*MODEL, "--train-plans", "4+2")
    assert build_task(cfg).build_model(cfg.model, from_checkpoint=True) is not None
    monkeypatch.setattr("sys.argv", ["fairseq-generate", "DATA", "--train-plans", "4+2"])
    with pytest.raises(ValueError, match="--train-plans is for fairseq-train"):
        build_task(cfg).build_model(cfg.model, from_checkpoint=True)
