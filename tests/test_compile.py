# SPDX-License-Identifier: MIT
"""``torch.compile``: evaluation says what it said, and compiled training drops what training drops.

fairseq's own models branch on their tensors, so that they compile in pieces, with ours or without;
a list of layers, and each layer, compile whole.
"""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from fairseq_programs import WIDTH, batch, build_model, loss_of
from torch import Tensor, nn

from fairseq_layerdrop.modules.layer_drop import LayerDropList

HALF = ["--encoder-layerdrop", "0.5", "--decoder-layerdrop", "0.5", "--layerdrop-min-layers", "0"]
DEPTH = ["--encoder-layers", "3", "--decoder-layers", "3", "--dropout", "0"]
LM = [
    *("--task", "language_modeling", "--decoder-embed-dim", "32", "--decoder-ffn-embed-dim", "32"),
    *("--decoder-attention-heads", "2", "--decoder-input-dim", "32", "--decoder-output-dim", "32"),
]
FAMILIES = {
    "transformer": lambda ours: (*WIDTH, *DEPTH, *(HALF if ours else [])),
    "transformer_lm": lambda ours: (*LM, *DEPTH[2:], *(HALF[2:] if ours else [])),
}
Compile = Callable[[Any, str], Any]


@pytest.fixture(autouse=True)
def nothing_compiled() -> Iterator[None]:
    """A recompilation that torch counts would be another test's."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def build(family: str, *, ours: bool) -> Any:
    return build_model("--arch", f"layerdrop_{family}" if ours else family, *FAMILIES[family](ours))


def logits(model: Any, family: str) -> Tensor:
    inputs = batch()["net_input"]
    given = inputs if family == "transformer" else {"src_tokens": inputs["prev_output_tokens"]}
    with torch.no_grad():
        found: Tensor = model(**given)[0]
    return found


def lists(model: Any) -> list[LayerDropList]:
    return [module for module in model.modules() if isinstance(module, LayerDropList)]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_compiled_model_says_the_same_in_evaluation(family: str) -> None:
    model = build(family, ours=True).eval()
    state, expected = torch.get_rng_state(), logits(model, family)
    found = logits(torch.compile(model, backend="eager"), family)
    assert torch.allclose(found, expected, atol=1e-5)
    assert expected.std() > 0.01
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_stack_of_layers_is_one_graph_in_evaluation(family: str) -> None:
    """A random draw, or a branch on a tensor, would break the graph; ``fullgraph`` refuses it."""
    layers = build(family, ours=True).eval().decoder.layers
    skips = [layer.encoder_attn is not None for layer in layers]

    def run(x: Tensor) -> Tensor:
        with layers.running(layers.draw()):
            for layer in layers:
                x = layer(x, encoder_out=x if any(skips) else None)[0]
        return x

    x = torch.randn(5, 2, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.allclose(
            torch.compile(run, backend="eager", fullgraph=True)(x), run(x), atol=1e-6
        )


def whole(model: Any, backend: str) -> Any:
    return torch.compile(model, backend=backend)


def layer_by_layer(model: Any, backend: str) -> Any:
    for layers in lists(model):
        for layer in layers:
            layer.compile(backend=backend)
    return model


def layers_of_the_encoder(model: Any, backend: str) -> Any:
    for layer in model.encoder.layers:
        layer.compile(backend=backend)
    return model


def assert_trained_alike(compile_: Compile, backend: str, updates: int) -> list[int]:
    """Losses and gradients of updates, by a model and its compiled copy; graphs after each."""
    plain = build("transformer", ours=True).train()
    copied = copy.deepcopy(plain)
    compiled, graphs, masks = compile_(copied, backend), [], set()
    for update in range(updates):
        for layers in (*lists(plain), *lists(copied)):
            layers.set_num_updates(update)
        plain.zero_grad()
        copied.zero_grad()
        expected, found = loss_of(plain), loss_of(compiled)
        expected.backward()
        found.backward()
        assert float(found) == pytest.approx(float(expected), abs=1e-5)
        masks.add(float(expected))
        for (name, one), (_, other) in zip(
            plain.named_parameters(), copied.named_parameters(), strict=True
        ):
            assert other.grad is not None, f"{name} has no gradient in update {update}"
            assert torch.allclose(one.grad, other.grad, atol=1e-5), name
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert len(masks) > updates / 2, "each update draws its own layers"
    return graphs


def test_an_encoder_whose_layers_are_compiled_trains_as_it_does_and_no_draw_compiles_it_again() -> (
    None
):
    torch._dynamo.utils.counters.clear()
    graphs = assert_trained_alike(layers_of_the_encoder, "aot_eager", updates=12)
    assert graphs[-1] <= 3, "one, and one more where the layer is the first that runs"


@pytest.mark.slow
@pytest.mark.parametrize("compile_", [whole, layer_by_layer])
@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
def test_a_compiled_model_trains_as_it_does(compile_: Compile, backend: str) -> None:
    assert_trained_alike(compile_, backend, updates=12)


def test_a_skipped_layer_has_gradients_of_zero_where_the_loop_is_compiled() -> None:
    """AOTAutograd gives unused parameters no gradient, which other ranks would wait for."""
    layers = LayerDropList([nn.Linear(4, 4) for _ in range(3)], rates=[0.5] * 3)

    def run(x: Tensor, active: tuple[int, ...]) -> Tensor:
        with layers.running(active):
            for layer in layers:
                x = layer(x)
        return x

    compiled = torch.compile(run, backend="aot_eager")
    for active in ((0, 2), (1,), ()):
        layers.zero_grad()
        x = torch.ones(2, 4, requires_grad=True)
        assert torch.equal(compiled(x, active), run(x, active))
        compiled(x, active).sum().backward()
        for i, layer in enumerate(layers):
            assert layer.weight.grad is not None and bool(layer.weight.grad.any()) == (i in active)


def test_the_layers_of_a_stock_model_export() -> None:
    """The whole model does not: fairseq's forward branches on its tensors."""

    class Layers(nn.Module):
        def __init__(self, layers: nn.ModuleList) -> None:
            super().__init__()
            self.layers = layers

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = layer(x, None)
            return x

    layers = Layers(build("transformer", ours=False).eval().encoder.layers)
    x = torch.randn(5, 2, 32, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(torch.export.export(layers, (x,)).module()(x), layers(x), atol=1e-6)
