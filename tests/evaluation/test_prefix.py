# SPDX-License-Identifier: MIT
"""Many sub-networks in one pass: each result, the layer calls of the trie, a whole model."""

import itertools
import random
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from fairseq.models import FairseqMultiModel
from fairseq_programs import WIDTH, batch, build_model

import fairseq_layerdrop
from fairseq_layerdrop.evaluation.prefix import Kept, run_each, run_one_by_one
from fairseq_layerdrop.modules.subnetwork import depths, restricted, stacks

fairseq_layerdrop.register()

BOTH = [*WIDTH, "--encoder-layers", "3", "--decoder-layers", "3"]
RATES = ["--encoder-layerdrop", "0.5", "--decoder-layerdrop", "0.5"]
ENCODER = [*WIDTH[:6], "--encoder-layers", "4", "--task", "masked_lm", "--tokens-per-sample", "16"]
DECODER = [*WIDTH[6:], "--decoder-layers", "4", "--task", "language_modeling"]
LM = [*DECODER, "--decoder-input-dim", "32", "--decoder-output-dim", "32"]
MODELS = {
    "transformer": ["--arch", "transformer", *BOTH],
    "transformer, LayerDrop": ["--arch", "transformer", *BOTH, *RATES],
    "transformer, pre-norm": [
        "--arch",
        "transformer",
        *BOTH,
        "--encoder-normalize-before",
        "--decoder-normalize-before",
    ],
    "layerdrop_transformer": ["--arch", "layerdrop_transformer", *BOTH, *RATES],
    "bart_base": ["--arch", "bart_base", *BOTH],
    "layerdrop_bart": ["--arch", "layerdrop_bart", *BOTH, *RATES],
    "transformer_lm": ["--arch", "transformer_lm", *LM],
    "layerdrop_transformer_lm": [
        "--arch",
        "layerdrop_transformer_lm",
        *LM,
        "--decoder-layerdrop",
        "0.5",
    ],
    "roberta": ["--arch", "roberta", *ENCODER],
    "layerdrop_roberta": ["--arch", "layerdrop_roberta", *ENCODER, "--encoder-layerdrop", "0.5"],
}


def forward(model: Any) -> Callable[[], torch.Tensor]:
    """One batch through the model; two of three sentences are shorter, where it can pad."""
    inputs = batch()["net_input"]
    if "decoder" not in depths(model):
        inputs.pop("prev_output_tokens")
    elif "encoder" not in depths(model):
        inputs = {"src_tokens": inputs["src_tokens"][[0, 2]]}
    return lambda: model(**inputs)[0]


def every_plan(model: Any) -> list[Kept]:
    """All sub-networks."""
    subsets = {
        s: [c for k in range(n) for c in itertools.combinations(range(n), k + 1)]
        for s, n in depths(model).items()
    }
    return [dict(zip(subsets, kept, strict=True)) for kept in itertools.product(*subsets.values())]


def one_by_one(model: Any, plans: list[Kept], run: Callable[[], Any]) -> list[Any]:
    """What each gives where the model is restricted to it."""
    found = []
    for plan in plans:
        with restricted(model, plan):
            found.append(run())
    return found


def collect(model: Any, plans: list[Kept], run: Callable[[], Any]) -> list[Any]:
    """The results in the order of the plans; each comes once."""
    pairs = list(run_each(model, plans, run))
    assert sorted(number for number, _ in pairs) == list(range(len(plans)))
    return [result for _, result in sorted(pairs, key=lambda pair: pair[0])]


def assert_close(one: list[Any], two: list[Any]) -> None:
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield


@pytest.fixture
def model() -> Any:
    """A tiny 3+3 model."""
    return build_model(*MODELS["transformer"]).eval()


def layer_lists(model: Any) -> list[int]:
    """The identity of every list of layers."""
    return [id(module.layers) for modules in stacks(model).values() for module in modules]


class Whole:
    """Remembers a model, to tell whether it is as it was."""

    def __init__(self, model: Any) -> None:
        self.model, self.lists, self.names = model, layer_lists(model), list(model.state_dict())
        self.output = forward(model)()

    def still(self) -> bool:
        own = [
            name for module in self.model.modules() for name in vars(module) if name == "forward"
        ]
        same = (layer_lists(self.model), list(self.model.state_dict())) == (self.lists, self.names)
        return same and not own and torch.equal(forward(self.model)(), self.output)


# Results


@pytest.mark.parametrize("name", MODELS)
def test_every_sub_network_computes_what_it_computes_alone(name: str) -> None:
    model = build_model(*MODELS[name]).eval()
    before, plans, run = Whole(model), every_plan(model), forward(model)
    found, alone = collect(model, plans, run), one_by_one(model, plans, run)
    assert_close(found, alone)
    assert len({tuple(result.flatten()[:50].tolist()) for result in alone}) == len(plans), (
        "the plans must differ"
    )
    assert before.still()


def test_a_model_with_a_stack_a_language_is_restricted_plan_by_plan() -> None:
    parts = [build_model(*MODELS["transformer"], seed=seed) for seed in (1, 2)]
    encoders = {
        "a-b": parts[0].encoder,
        "b-a": parts[0].encoder,
    }  # one for both, as --share-encoders has it
    model = FairseqMultiModel(encoders, {"a-b": parts[0].decoder, "b-a": parts[1].decoder}).eval()
    inputs = batch()["net_input"]

    def run() -> torch.Tensor:
        return torch.cat([part(**inputs)[0] for part in model.models.values()])

    plans = every_plan(model)[::5]
    lists, before = layer_lists(model), run()
    assert_close(collect(model, plans, run), one_by_one(model, plans, run))
    assert layer_lists(model) == lists
    assert torch.equal(run(), before)


def test_plans_may_come_twice_and_in_any_order(model: Any) -> None:
    plans = every_plan(model)[:20] * 2
    random.Random(3).shuffle(plans)
    run = forward(model)
    assert_close(collect(model, plans, run), one_by_one(model, plans, run))


def test_a_plan_given_twice_is_computed_once(model: Any) -> None:
    runs = []
    plan = {"encoder": (0, 2), "decoder": (1,)}
    forward_once = forward(model)
    found = collect(model, [plan, plan, plan], lambda: (runs.append(0), forward_once())[1])
    assert all(torch.equal(found[0], other) for other in found)
    assert (
        len(runs) <= 1 + 3
    )  # and three that end early: to see how encoder, its layers, the decoder's are called


def test_a_single_plan_and_none(model: Any) -> None:
    run = forward(model)
    plan = {"encoder": (1,), "decoder": (2,)}
    assert_close(collect(model, [plan], run), one_by_one(model, [plan], run))
    assert list(run_each(model, [], run)) == []


# Work and memory


class Calls:
    """Counts the calls of each stack's layers, and the outputs of them that live at one time."""

    def __init__(self, model: Any) -> None:
        self.calls: Counter[str] = Counter()
        self.held: Counter[str] = Counter()
        self._living: dict[str, weakref.WeakSet[Any]] = {}
        for stack, (module,) in stacks(model).items():
            self._living[stack] = weakref.WeakSet()
            for layer in module.layers:
                layer.register_forward_hook(
                    lambda _, __, output, stack=stack: self._note(stack, output)
                )

    def _note(self, stack: str, output: Any) -> None:
        self.calls[stack] += 1
        x = output[0] if isinstance(output, tuple) else output
        self._living[stack].add(_Mark.of(x))
        self.held[stack] = max(self.held[stack], len(self._living[stack]))


class _Mark:
    """Lives as long as its tensor (sets would compare tensors element by element)."""

    @classmethod
    def of(cls, tensor: torch.Tensor) -> "_Mark":
        tensor.mark = cls()  # type: ignore[attr-defined]
        return tensor.mark  # type: ignore[attr-defined]


def test_the_layer_calls_and_the_memory_of_a_6_6_model_are_those_of_the_trie() -> None:
    sizes = [flag if flag != "32" else "8" for flag in WIDTH]
    model = build_model(
        "--arch", "transformer", *sizes, "--encoder-layers", "6", "--decoder-layers", "6"
    ).eval()
    seen, plans = Calls(model), every_plan(model)
    results = sum(1 for _ in run_each(model, plans, forward(model)))
    alone = sum(len(layers) for plan in plans for layers in plan.values())
    assert (results, alone) == (3969, 24192)
    assert seen.calls == {"encoder": 63, "decoder": 63 * 63}
    assert sum(seen.calls.values()) == 4032
    assert all(held <= 6 + 2 for held in seen.held.values()), seen.held


def test_few_plans_run_only_the_layers_that_they_need() -> None:
    model = build_model(*MODELS["transformer_lm"]).eval()
    seen = Calls(model)
    collect(model, [{"decoder": kept} for kept in [(0, 1, 2), (0, 1, 3), (2,)]], forward(model))
    assert seen.calls == {"decoder": 5}  # 0, 1, 2, 3 and 2 alone


# The model stays whole


@pytest.mark.parametrize(
    "name", ["transformer", "layerdrop_transformer", "bart_base", "transformer_lm", "roberta"]
)
@pytest.mark.parametrize("after", [1, 2, 9])
def test_a_model_is_whole_after_an_early_stop(name: str, after: int) -> None:
    model = build_model(*MODELS[name]).eval()
    before = Whole(model)
    results: Any = run_each(model, every_plan(model), forward(model))
    for _ in range(after):
        next(results)
    results.close()
    assert before.still()


@pytest.mark.parametrize(
    "name", ["transformer", "layerdrop_transformer", "bart_base", "transformer_lm", "roberta"]
)
@pytest.mark.parametrize("at", range(1, 8))
def test_a_model_is_whole_after_an_exception(name: str, at: int) -> None:
    model = build_model(*MODELS[name]).eval()
    before, calls, run = Whole(model), itertools.count(1), forward(model)

    def failing() -> torch.Tensor:
        if next(calls) == at:
            raise RuntimeError("in between")
        return run()

    with pytest.raises(RuntimeError, match="in between"):
        list(run_each(model, every_plan(model), failing))
    assert before.still()


def test_a_model_is_whole_after_an_exception_inside_a_layer(model: Any) -> None:
    before = Whole(model)

    def fail(*_: Any) -> None:
        raise RuntimeError("in the layer")

    hook = model.decoder.layers[1].register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="in the layer"):
        list(run_each(model, every_plan(model), forward(model)))
    hook.remove()
    assert before.still()


def test_a_model_is_whole_when_its_caller_stops_by_an_exception(model: Any) -> None:
    before = Whole(model)
    with pytest.raises(KeyboardInterrupt):
        for number, _ in run_each(model, every_plan(model), forward(model)):
            if number == 30:
                raise KeyboardInterrupt
    assert before.still()


# What is refused


@pytest.mark.parametrize(
    "plan",
    [{"decoder": (0,)}, {"encoder": (0,)}, {"encoder": (0,), "decoder": (0,), "head": (0,)}, {}],
    ids=str,
)
def test_a_plan_must_name_the_stacks(model: Any, plan: Kept) -> None:
    before = Whole(model)
    whole = {"encoder": (0, 1, 2), "decoder": (0, 1, 2)}
    with pytest.raises(
        ValueError, match="a plan must name the model's stacks, encoder, decoder, got"
    ):
        list(run_each(model, [whole, plan], forward(model)))
    assert before.still()


@pytest.mark.parametrize("layers", [(0, 3), (-1,), ()], ids=str)
def test_layers_that_the_model_lacks_are_refused(model: Any, layers: tuple[int, ...]) -> None:
    """As ``restricted`` refuses the first two."""
    refused = False
    try:
        list(run_each(model, [{"encoder": (0,), "decoder": layers}], forward(model)))
    except ValueError:
        refused = True
    assert refused


@pytest.mark.parametrize("times", [0, 2])
def test_a_model_that_does_not_run_its_layers_once_is_refused(times: int) -> None:
    model = build_model(*MODELS["transformer_lm"]).eval()
    before, run = Whole(model), forward(model)
    with pytest.raises(ValueError, match="the model must run its layers"):
        list(run_each(model, every_plan(model), lambda: [run() for _ in range(times)]))
    assert before.still()


def test_the_attention_that_the_decoder_gives_is_that_of_the_sub_network(model: Any) -> None:
    """Criteria with alignments read the attention, which a stand-in lacks: nothing is shared."""
    inputs = batch()["net_input"]
    plans = [{"encoder": (0, 1, 2), "decoder": kept} for kept in [(0, 1, 2), (0, 2), (1,)]]

    def run() -> Any:
        return model(**inputs)[1]["attn"][0]

    alone = one_by_one(model, plans, run)
    assert all(isinstance(attention, torch.Tensor) for attention in alone)
    found = [attention for _, attention in run_one_by_one(model, plans, run)]
    assert_close(found, alone)
