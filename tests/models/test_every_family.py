# SPDX-License-Identifier: MIT
"""What every model promises, against the stock model that it is made from."""

import argparse
import dataclasses
from typing import Any, NamedTuple

import pytest
import torch
from fairseq.models import MODEL_REGISTRY
from fairseq_programs import (
    WIDTH,
    after_training,
    assert_same_tensors,
    batch,
    build_model,
    build_task,
    config,
    draws,
    layers_run,
    loss_of,
    stacks,
)

import fairseq_layerdrop

fairseq_layerdrop.register()


class Family(NamedTuple):
    """A registered model, its stock architecture, the flags that make both tiny, its stacks."""

    ours: str
    stock: str
    flags: list[str]
    stacks: list[str]

    def build(self, *, draw: int = 5, **options: Any) -> Any:
        """Our model with these options; its weights drawn from a seed of their own."""
        cfg = config("--arch", self.ours, *self.flags)
        for name, value in options.items():
            cfg.model[name] = value
        torch.manual_seed(draw)
        return build_task(cfg).build_model(cfg.model)

    def build_stock(self) -> Any:
        return build_model("--arch", self.stock, *self.flags)

    def each(self, option: str, value: Any) -> dict[str, Any]:
        """An option that each stack has one of."""
        return {f"{stack}_{option}": value for stack in self.stacks}

    def sample(self, seed: int = 11) -> dict[str, Any]:
        """What the task feeds it: a language model gets only sentences without padding."""
        sample = batch(seed=seed)
        if self.stacks != ["decoder"]:
            return sample
        words = sample["net_input"]["src_tokens"][[0, 2]]
        return {**sample, "net_input": {"src_tokens": words}, "target": words.roll(-1, dims=1)}

    def hidden_states(self, model: Any) -> dict[str, list[torch.Tensor]]:
        """Each stack's states in one forward; an encoder of two stacks has a forward of its own."""
        inputs = self.sample()["net_input"]
        if self.stacks == ["encoder"]:
            return {"encoder": model(**inputs, return_all_hiddens=True)[1]["inner_states"]}
        states = {"decoder": model(**inputs)[1]["inner_states"]}
        if "encoder" in self.stacks:
            alone = model.encoder(
                inputs["src_tokens"], inputs["src_lengths"], return_all_hiddens=True
            )
            states["encoder"] = alone["encoder_states"]
        return states


BOTH = ["encoder", "decoder"]
ENCODER = [*WIDTH[:6], "--encoder-layers", "4"]
DECODER = [*WIDTH[6:], "--decoder-layers", "4"]
LM = [
    "--decoder-input-dim",
    "32",
    "--decoder-output-dim",
    "32",
    "--task",
    "layerdrop_language_modeling",
]
MASKED_LM = ["--task", "layerdrop_masked_lm", "--tokens-per-sample", "16"]
FAMILIES = {
    "transformer": Family("layerdrop_transformer", "transformer", [*ENCODER, *DECODER], BOTH),
    "transformer_lm": Family(
        "layerdrop_transformer_lm", "transformer_lm", [*DECODER, *LM], ["decoder"]
    ),
    "roberta": Family("layerdrop_roberta", "roberta", [*ENCODER, *MASKED_LM], ["encoder"]),
    "bart": Family("layerdrop_bart", "bart_base", [*ENCODER, *DECODER], BOTH),
}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]


def added_flags(model: str) -> dict[str, argparse.Action]:
    """The flags that a registered model adds to a program."""
    parser = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    MODEL_REGISTRY[model].add_args(parser)
    return {option: action for action in parser._actions for option in action.option_strings}


def stock_flags(family: Family) -> dict[str, argparse.Action]:
    return added_flags(family.ours.removeprefix("layerdrop_"))


# Flags


def test_every_registered_model_is_known_to_these_tests() -> None:
    assert {name for name in MODEL_REGISTRY if name.startswith("layerdrop_")} == {
        f.ours for f in FAMILIES.values()
    }


def test_all_the_flags_of_the_stock_model_are_there(family: Family) -> None:
    assert set(stock_flags(family)) <= set(added_flags(family.ours))


def test_every_flag_says_what_it_does(family: Family) -> None:
    silent = {option for option, action in added_flags(family.ours).items() if not action.help}
    assert silent <= {
        option for option, action in stock_flags(family).items() if not action.help
    }  # fairseq's own two


def test_a_flag_without_a_value_always_means_yes(family: Family) -> None:
    switches = {
        option: action for option, action in added_flags(family.ours).items() if action.nargs == 0
    }
    assert len(switches) > 3
    given = config("--arch", family.ours, *family.flags, *switches).model
    assert [option for option, action in switches.items() if given[action.dest] is not True] == []


def test_a_switch_that_is_off_by_default_stays_off_unless_given(family: Family) -> None:
    defaults = {
        f.name: f.default for f in dataclasses.fields(MODEL_REGISTRY[family.ours].__dataclass)
    }
    plain = config("--arch", family.ours, *family.flags).model
    for action in added_flags(family.ours).values():
        if action.nargs == 0:
            assert plain[action.dest] is defaults[action.dest], action.dest


def test_the_seed_of_the_training_is_the_seed_of_the_draws(family: Family) -> None:
    model = build_model("--arch", family.ours, *family.flags, "--seed", "9")
    assert {stack.layers.seed for stack in stacks(model).values()} == {9}


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("layerdrop", 1.5, "--{}-layerdrop: .*1.5"),
        ("layerdrop", -0.1, "--{}-layerdrop: .*-0.1"),
        ("layerdrop", float("nan"), "--{}-layerdrop: .*nan"),
        ("layers_to_keep", "0,4", "{}: .* 0-3, got 4"),
    ],
)
def test_a_value_out_of_range_is_refused_by_the_stack_s_name(
    family: Family, option: str, value: Any, message: str
) -> None:
    for stack in family.stacks:
        with pytest.raises(ValueError, match=message.format(stack)):
            family.build(**{f"{stack}_{option}": value})


def test_hydra_s_model_group_composes_and_builds(family: Family) -> None:
    from fairseq.dataclass.initialize import hydra_init
    from hydra import compose, initialize_config_module
    from hydra.core.global_hydra import GlobalHydra

    hydra_init()
    GlobalHydra.instance().clear()
    flags = dict(zip(family.flags[::2], family.flags[1::2], strict=True))
    overrides = [
        f"model={family.ours}",
        "task=" + flags.pop("--task", "layerdrop_translation"),
        "common.seed=9",
    ]
    for flag, value in {
        **flags,
        "--encoder-layerdrop": "0.3",
        "--decoder-layerdrop": "0.4",
    }.items():
        section = "task" if flag == "--tokens-per-sample" else "model"
        if flag[2:9] in family.stacks or section == "task":
            overrides.append(f"{section}.{flag[2:].replace('-', '_')}={value}")
    with initialize_config_module("fairseq.config"):
        cfg = compose("config", overrides=overrides)
    for name, stack in stacks(build_task(cfg).build_model(cfg.model)).items():
        assert len(stack.layers) == 4
        assert (stack.layers.rates, stack.layers.seed) == (
            ((0.3 if name == "encoder" else 0.4),) * 4,
            9,
        )


# The same as stock fairseq, wherever nothing is dropped


def test_a_seed_draws_the_weights_that_it_draws_for_the_stock_model(family: Family) -> None:
    """At any rate, under stock's names, in stock's shapes."""
    assert_same_tensors(
        family.build(**family.each("layerdrop", 0.5)).state_dict(),
        family.build_stock().state_dict(),
    )


def test_rate_zero_trains_as_stock_does_to_the_bit(family: Family) -> None:
    samples = [family.sample(update) for update in range(4)]
    dropout = ["--dropout", "0.1", "--attention-dropout", "0.1"]
    expected, weights = after_training(samples, "--arch", family.stock, *family.flags, *dropout)
    never = [item for stack in family.stacks for item in (f"--{stack}-layerdrop", "0")]
    losses, ours = after_training(samples, "--arch", family.ours, *family.flags, *dropout, *never)
    assert losses == expected
    assert len(set(losses)) == 4
    assert_same_tensors(ours, weights)


def test_evaluation_runs_every_layer_and_gives_stock_s_outputs_to_the_bit(family: Family) -> None:
    stock, ours = family.build_stock().eval(), family.build(**family.each("layerdrop", 0.9)).eval()
    before = torch.get_rng_state()
    with layers_run(ours) as run:
        outputs = [ours(**family.sample()["net_input"])[0] for _ in range(2)]
    assert run == {stack: [0, 1, 2, 3] * 2 for stack in family.stacks}
    assert torch.equal(torch.get_rng_state(), before)
    for output in outputs:
        assert torch.equal(output, stock(**family.sample()["net_input"])[0])


# What training skips


def test_a_skipped_layer_is_not_computed_and_its_gradients_are_zero(family: Family) -> None:
    model = family.build(**family.each("layerdrop", 0.5)).train()
    for update in range(4):
        model.set_num_updates(update)
        model.zero_grad()
        with layers_run(model) as run:
            loss_of(model, family.sample()).backward()
        assert [
            name for name, parameter in model.named_parameters() if parameter.grad is None
        ] == []
        for name, stack in stacks(model).items():
            moved = [
                i
                for i, layer in enumerate(stack.layers)
                if any(p.grad.any() for p in layer.parameters())
            ]
            assert moved == run[name]


def test_the_rate_is_that_of_the_layers_skipped(family: Family) -> None:
    seen = draws(family.build(**family.each("layerdrop", 0.5)), range(100), sample=family.sample())
    for stack in family.stacks:
        run = sum(len(layers) for layers in seen[stack]) / 400
        assert abs(run - 0.5) < 0.1  # with at least one of four: 0.516; its deviation is 0.025


def test_at_least_the_minimum_runs_and_by_default_that_is_one(family: Family) -> None:
    for options, least in (({}, 1), ({"layerdrop_min_layers": 3}, 3)):
        model = family.build(**family.each("layerdrop", 1.0), **options)
        seen = draws(model, range(10), sample=family.sample())
        assert {len(run) for stack in family.stacks for run in seen[stack]} == {least}


def test_with_a_minimum_of_zero_nothing_may_run_and_the_loss_is_finite(family: Family) -> None:
    model = family.build(**family.each("layerdrop", 1.0), layerdrop_min_layers=0).train()
    with layers_run(model) as run:
        loss = loss_of(model, family.sample())
    loss.backward()
    assert run == {stack: [] for stack in family.stacks}
    assert torch.isfinite(loss)
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_an_update_runs_the_same_layers_whoever_asks_and_whenever(family: Family) -> None:
    """They depend on seed, update and micro-batch, not on the weights or on what ran before."""
    half = family.each("layerdrop", 0.5)
    straight = draws(family.build(**half, seed=4), range(10), 2, family.sample())
    resumed = draws(family.build(**half, seed=4, draw=8), range(6, 10), 2, family.sample())
    other = draws(family.build(**half, seed=5), range(10), 2, family.sample())
    for stack in family.stacks:
        assert straight[stack][12:] == resumed[stack]
        assert straight[stack] != other[stack]
        assert straight[stack][0::2] != straight[stack][1::2]
        assert len(set(straight[stack][0::2])) > 3
    assert len({tuple(straight[stack]) for stack in family.stacks}) == len(family.stacks)


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_hidden_states_number_depth_plus_one_and_a_skipped_layer_s_is_its_input(
    family: Family, training: bool
) -> None:
    model = family.build(**family.each("layerdrop", 0.7)).train(training)
    for update in range(5):
        model.set_num_updates(update)
        with layers_run(model) as run:
            states = family.hidden_states(model)
        ran = {name: layers[:] for name, layers in run.items()}
        assert states.keys() == ran.keys()
        for name in states:
            assert len(states[name]) == 5
            changed = [i for i in range(4) if not torch.equal(states[name][i], states[name][i + 1])]
            if name == "encoder" and len(family.stacks) == 2:
                assert ran[name][-len(changed) :] == changed  # of two forwards, the last
            else:
                assert ran[name] == changed


def test_the_log_says_at_the_start_of_training_that_layerdrop_is_off(
    family: Family, caplog: pytest.LogCaptureFixture
) -> None:
    model = family.build(**family.each("layerdrop", 0.0))
    model.set_num_updates(0)  # as fairseq does whenever it loads a checkpoint
    assert not [r for r in caplog.records if "LayerDrop" in r.getMessage()]
    for update in range(3):
        model.train()
        model.set_num_updates(update)
    (warning,) = (r.getMessage() for r in caplog.records if "LayerDrop is off" in r.getMessage())
    assert [stack for stack in BOTH if f"--{stack}-layerdrop" in warning] == family.stacks


# Layers to keep


@pytest.mark.parametrize(
    ("spec", "kept"),
    [
        ("0,3", (0, 3)),
        ("every:2", (0, 2)),
        ("last:3", (1, 2, 3)),
        ("1", (1,)),
        ("all", (0, 1, 2, 3)),
    ],
)
def test_a_deeper_state_dict_is_loaded_pruned(
    family: Family, spec: str, kept: tuple[int, ...]
) -> None:
    full = family.build().eval()
    small = family.build(**family.each("layers_to_keep", spec), draw=6).eval()
    small.load_state_dict(full.state_dict())
    for stack in stacks(full).values():
        stack.layers.keep = kept
    assert [len(stack.layers) for stack in stacks(small).values()] == [len(kept)] * len(
        family.stacks
    )
    inputs = family.sample()["net_input"]
    assert torch.equal(small(**inputs)[0], full(**inputs)[0])


def test_a_state_dict_of_the_small_model_is_not_pruned_again(family: Family) -> None:
    options = family.each("layers_to_keep", "1,2")
    saved, again = family.build(**options), family.build(**options, draw=8)
    again.load_state_dict(saved.state_dict())
    assert_same_tensors(again.state_dict(), saved.state_dict())


def test_a_stack_that_is_not_named_stays_whole(family: Family) -> None:
    stack = family.stacks[-1]
    full, small = family.build(), family.build(**{f"{stack}_layers_to_keep": "0,2"}, draw=6)
    small.load_state_dict(full.state_dict())
    assert [len(found.layers) for found in stacks(small).values()] == [4] * (
        len(family.stacks) - 1
    ) + [2]
    assert_same_tensors(
        stacks(small)[stack].layers[1].state_dict(), stacks(full)[stack].layers[2].state_dict()
    )


@pytest.mark.parametrize("rate", [0.0, 0.5, 0.99])
def test_in_bfloat16_dropped_layers_have_gradients_of_zero_in_bfloat16(
    family: Family, rate: float
) -> None:
    model = (
        family.build(**family.each("layerdrop", rate), layerdrop_min_layers=0, dropout=0.0)
        .bfloat16()
        .train()
    )
    model.set_num_updates(3)
    with layers_run(model) as ran:
        logits = model(**family.sample()["net_input"])[0]
    assert logits.dtype == torch.bfloat16 and logits.isfinite().all()
    logits.float().pow(2).mean().backward()
    assert (sum(map(len, ran.values())) < 4 * len(family.stacks)) == (rate > 0)
    for name, stack in stacks(model).items():
        for i, layer in enumerate(stack.layers):
            gradients = [parameter.grad for parameter in layer.parameters()]
            assert all(
                g is not None and g.dtype == torch.bfloat16 and g.isfinite().all()
                for g in gradients
            )
            assert any(g.any() for g in gradients) == (i in ran[name])
