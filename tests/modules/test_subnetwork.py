# SPDX-License-Identifier: MIT
"""A model restricted to a sub-network, and given back whole."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fairseq_layerdrop.modules import LayerDropList, restrict, restricted
from fairseq_layerdrop.modules.subnetwork import depths


class AddBit(nn.Module):
    """A layer that leaves its mark: layer i adds 2**i."""

    def __init__(self, i: int) -> None:
        super().__init__()
        self.bit = nn.Parameter(torch.tensor(2.0**i))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bit


class Stack(nn.Module):
    def __init__(self, layers: nn.ModuleList) -> None:
        super().__init__()
        self.layers = layers
        self.num_layers = len(layers)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.layers, LayerDropList):
            with self.layers.running(self.layers.draw()):
                return self.loop(x)
        return self.loop(x)

    def loop(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Model(nn.Module):
    def __init__(self, **stacks: nn.ModuleList) -> None:
        super().__init__()
        for name, layers in stacks.items():
            self.add_module(name, Stack(layers))


def layer_drop_list(layers: list[nn.Module]) -> LayerDropList:
    return LayerDropList(layers, rates=(0.5,) * len(layers))


def model_of(
    kind: Callable[[list[nn.Module]], nn.ModuleList], encoder: int = 6, decoder: int = 4
) -> Model:
    sizes = {"encoder": encoder, "decoder": decoder}
    model = Model(**{name: kind([AddBit(i) for i in range(n)]) for name, n in sizes.items() if n})
    return model.eval()


def running(model: Model, stack: str) -> list[int]:
    """The layers that a forward of the stack runs, read off its result."""
    marks = int(getattr(model, stack)(torch.zeros(())).item())
    return [i for i in range(marks.bit_length()) if marks >> i & 1]


@pytest.fixture(params=[nn.ModuleList, layer_drop_list], ids=["ModuleList", "LayerDropList"])
def model(request: pytest.FixtureRequest) -> Model:
    return model_of(request.param)


def is_whole(model: Model) -> bool:
    return running(model, "encoder") == [0, 1, 2, 3, 4, 5] and running(model, "decoder") == [
        0,
        1,
        2,
        3,
    ]


def test_the_depths_of_a_model(model: Model) -> None:
    assert list(depths(model).items()) == [("encoder", 6), ("decoder", 4)]


def test_a_model_of_one_stack_and_one_of_none() -> None:
    assert depths(model_of(nn.ModuleList, encoder=0)) == {"decoder": 4}
    assert depths(nn.Linear(2, 2)) == {}


def test_only_the_kept_layers_run_for_a_while(model: Model) -> None:
    with restricted(model, {"encoder": (0, 2, 5), "decoder": (3,)}) as same:
        assert same is model
        assert (running(model, "encoder"), running(model, "decoder")) == ([0, 2, 5], [3])
    assert is_whole(model)


def test_a_stack_that_is_not_named_stays_whole(model: Model) -> None:
    with restricted(model, {"decoder": (0,)}):
        assert running(model, "encoder") == [0, 1, 2, 3, 4, 5]


def test_the_model_is_whole_again_after_an_exception(model: Model) -> None:
    with (
        pytest.raises(RuntimeError, match="in between"),
        restricted(model, {"encoder": (0,), "decoder": (0,)}),
    ):
        raise RuntimeError("in between")
    assert is_whole(model)


@pytest.mark.parametrize(
    "kept", [{"encoder": (0,), "decoder": (9,)}, {"encoder": (0,), "head": (0,)}], ids=str
)
def test_a_restriction_that_fails_leaves_the_model_whole(
    model: Model, kept: dict[str, tuple[int, ...]]
) -> None:
    with pytest.raises((LookupError, ValueError)), restricted(model, kept):
        pass
    assert is_whole(model)


def test_restrictions_nest(model: Model) -> None:
    with restricted(model, {"encoder": (0, 1, 2)}):
        with restricted(model, {"encoder": (0, 2), "decoder": (1,)}):
            assert (running(model, "encoder"), running(model, "decoder")) == ([0, 2], [1])
        assert (running(model, "encoder"), running(model, "decoder")) == ([0, 1, 2], [0, 1, 2, 3])
    assert is_whole(model)


def test_for_good_until_it_is_given_back(model: Model) -> None:
    give_back = restrict(model, {"encoder": (1, 4)})
    assert running(model, "encoder") == [1, 4]
    give_back()
    assert is_whole(model)


def test_the_number_of_layers_follows_a_shorter_list() -> None:
    model = model_of(nn.ModuleList)
    with restricted(model, {"decoder": (0, 2)}):
        assert (len(model.decoder.layers), model.decoder.num_layers) == (2, 2)
        assert model.encoder.num_layers == 6
    assert (len(model.decoder.layers), model.decoder.num_layers) == (4, 4)


def test_the_parameters_are_the_same_objects_throughout(model: Model) -> None:
    before = [id(parameter) for parameter in model.parameters()]
    with restricted(model, {"encoder": (2,)}):
        assert next(p for p in model.encoder.parameters() if p.item() == 4) is not None
    assert [id(parameter) for parameter in model.parameters()] == before


def test_a_restricted_layer_drop_list_keeps_its_state_dict() -> None:
    model = model_of(layer_drop_list)
    keys = list(model.state_dict())
    with restricted(model, {"encoder": (2,)}):
        assert list(model.state_dict()) == keys


def test_in_training_a_restricted_layer_drop_list_drops_nothing_of_what_is_kept() -> None:
    model = model_of(layer_drop_list).train()
    with restricted(model, {"encoder": (1, 3, 4)}):
        assert [running(model, "encoder") for _ in range(5)] == [[1, 3, 4]] * 5


# Where other families have their stacks


def holder(**parts: nn.Module) -> nn.Module:
    """A module that has others in it."""
    module = nn.Module()
    for name, part in parts.items():
        module.add_module(name, part)
    return module


def at(path: str, stack: nn.Module) -> nn.Module:
    """A module in which the stack is at a path."""
    for name in reversed(path.split(".")):
        stack = holder(**{name: stack})
    return stack


def marks(stack: nn.Module) -> list[int]:
    """The layers that a forward of the stack runs."""
    return running(holder(stack=stack), "stack")


KINDS = pytest.mark.parametrize(
    "kind", [nn.ModuleList, layer_drop_list], ids=["ModuleList", "LayerDropList"]
)
List = Callable[[list[nn.Module]], nn.ModuleList]


def stack_of(kind: List, depth: int) -> Stack:
    return Stack(kind([AddBit(i) for i in range(depth)])).eval()


@KINDS
@pytest.mark.parametrize(
    "path",
    [
        "encoder.sentence_encoder",
        "w2v_encoder.w2v_model.encoder",
        "encoder.w2v_model.encoder",
        "encoder",
    ],
)
def test_the_encoder_is_found_where_a_family_has_it(path: str, kind: List) -> None:
    encoder, decoder = stack_of(kind, 6), stack_of(kind, 4)
    model = at(path, encoder)
    model.decoder = decoder
    assert list(depths(model).items()) == [("encoder", 6), ("decoder", 4)]
    with restricted(model, {"encoder": (1, 4), "decoder": (2,)}):
        assert (marks(encoder), marks(decoder)) == ([1, 4], [2])
    assert (marks(encoder), marks(decoder)) == ([0, 1, 2, 3, 4, 5], [0, 1, 2, 3])


def test_an_encoder_within_the_encoder_is_the_stack() -> None:
    outer, inner = stack_of(nn.ModuleList, 2), stack_of(nn.ModuleList, 6)
    outer.sentence_encoder = inner
    assert depths(holder(encoder=outer)) == {"encoder": 6}


@pytest.mark.parametrize(
    "model",
    [
        holder(encoder=holder(adaptor=stack_of(nn.ModuleList, 3))),
        holder(encoder=holder(layers=AddBit(0))),
        holder(sentence_encoder=stack_of(nn.ModuleList, 3)),
        holder(w2v_model=holder(encoder=stack_of(nn.ModuleList, 3))),
    ],
    ids=["adaptor", "no list", "nowhere", "half a path"],
)
def test_what_is_no_stack_is_none(model: nn.Module) -> None:
    assert depths(model) == {}


def languages(kind: List, *, shared: str = "") -> Any:
    """A model a language; all have the stack ``shared`` in common."""
    common = {name: stack_of(kind, 6) for name in ("encoder", "decoder")}
    own = [{name: stack_of(kind, 6) for name in common} for _ in range(3)]
    parts = [holder(**stacks | ({shared: common[shared]} if shared else {})) for stacks in own]
    return holder(models=nn.ModuleDict(dict(zip(("de-en", "fr-en", "nl-en"), parts, strict=True))))


def every_stack(model: Any) -> dict[str, list[int]]:
    parts = model.models.items()
    return {
        f"{pair} {name}": marks(getattr(part, name))
        for pair, part in parts
        for name in ("encoder", "decoder")
    }


@KINDS
@pytest.mark.parametrize("shared", ["", "encoder", "decoder"])
def test_all_languages_are_restricted_alike_and_given_back_whole(kind: List, shared: str) -> None:
    model = languages(kind, shared=shared)
    stacks = [module for module in model.modules() if isinstance(module, Stack)]
    lists, whole = [stack.layers for stack in stacks], every_stack(model)
    assert depths(model) == {"encoder": 6, "decoder": 6}
    with restricted(model, {"encoder": (0, 5), "decoder": (3,)}):
        assert every_stack(model) == {name: [3] if "decoder" in name else [0, 5] for name in whole}
    assert every_stack(model) == whole
    assert all(stack.layers is before for stack, before in zip(stacks, lists, strict=True))


def test_a_stack_that_languages_share_is_restricted_once() -> None:
    model = languages(nn.ModuleList, shared="encoder")
    give_back = restrict(model, {"encoder": (2, 3)})
    layers = model.models["de-en"].encoder.layers
    assert (len(layers), layers is model.models["fr-en"].encoder.layers) == (2, True)
    assert model.models["nl-en"].encoder.num_layers == 2
    give_back()
    assert (
        len(model.models["fr-en"].encoder.layers),
        model.models["fr-en"].encoder.num_layers,
    ) == (6, 6)


@KINDS
def test_a_restriction_that_one_language_cannot_bear_leaves_them_all_whole(kind: List) -> None:
    model = languages(kind)
    model.models["fr-en"].encoder = stack_of(kind, 3)
    whole = every_stack(model)
    with pytest.raises(ValueError), restricted(model, {"decoder": (0,), "encoder": (0, 4)}):
        pass
    assert every_stack(model) == whole


def test_a_wrapper_that_passes_attributes_on_hides_nothing() -> None:
    class Wrapper(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

        def __getattr__(self, name: str) -> Any:
            try:
                return super().__getattr__(name)
            except AttributeError:
                return getattr(self.module, name)

    model = languages(nn.ModuleList)
    with restricted(Wrapper(Wrapper(model)), {"encoder": (1,)}):
        assert every_stack(model)["fr-en encoder"] == [1]
    assert every_stack(model)["fr-en encoder"] == [0, 1, 2, 3, 4, 5]
