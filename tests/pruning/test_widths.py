# SPDX-License-Identifier: MIT
"""Below the layer: which heads, units and sub-layers go, and what is left of the matrices."""

import json
from typing import Any

import pytest
import torch
from builders import DIM, FFN, cut, model_options, model_state, training_checkpoint
from torch import Tensor

from fairseq_layerdrop.pruning.plan import PruningPlan
from fairseq_layerdrop.pruning.shape_config import config_for_shapes, head_dims
from fairseq_layerdrop.pruning.widths import (
    choose,
    how_many,
    narrow,
    parse_sublayers,
    shapes,
    sublayers,
)

DIMS = {"encoder": 2, "decoder": 2}  # two heads
WHOLE = PruningPlan.parse("all/all", {"encoder": 2, "decoder": 2})
PATHS = {"encoder": "encoder.layers", "decoder": "decoder.layers"}


def state() -> dict[str, Tensor]:
    """A 2+2 model with random weights."""
    generator = torch.Generator().manual_seed(3)
    return {key: torch.randn(t.shape, generator=generator) for key, t in model_state(2, 2).items()}


def checkpoint(**options: Any) -> dict[str, Any]:
    made = training_checkpoint(2, 2)
    heads = {
        f"{stack}_{name}": n
        for stack in DIMS
        for name, n in (("attention_heads", 2), ("ffn_embed_dim", FFN))
    }
    made["cfg"]["model"] |= heads | options
    return made | {"model": state()}


@pytest.mark.parametrize(
    ("asked", "total", "count"),
    [("4", 16, 4), ("0.3", 16, 5), ("0.5", 3, 2), ("0.01", 4, 1), ("1.0", 7, 7), ("7", 7, 7)],
)
def test_a_number_is_a_number_and_a_share_is_rounded(asked: str, total: int, count: int) -> None:
    assert how_many(asked, total) == count


@pytest.mark.parametrize("asked", ["0", "-1", "9", "1.5", "0.0", "half", "-0.5", "nan", "inf"])
def test_a_number_that_cannot_stay_is_refused(asked: str) -> None:
    with pytest.raises(ValueError, match=f"a number up to 8, or a share like 0.5, got {asked}"):
        how_many(asked, 8)


def test_the_sub_layers_of_a_model_are_found() -> None:
    found = list(sublayers(model_state(1, 1)))
    assert sorted(found) == [
        *("decoder.layers.0.encoder_attn", "decoder.layers.0.ffn", "decoder.layers.0.self_attn"),
        *("encoder.layers.0.ffn", "encoder.layers.0.self_attn"),
    ]


def test_sub_layers_are_named_by_stack_layer_and_name() -> None:
    found = parse_sublayers("encoder:1.ffn, decoder:0.encoder_attn", PATHS)
    assert found == {"encoder.layers.1.ffn", "decoder.layers.0.encoder_attn"}


@pytest.mark.parametrize(
    "item", ["encoder.1.ffn", "encoder:1", "middle:1.ffn", "encoder:x.ffn", "encoder:1.fc1", ""]
)
def test_what_is_no_sub_layer_is_refused(item: str) -> None:
    with pytest.raises(ValueError, match="a sub-layer is like encoder"):
        parse_sublayers(f"encoder:0.ffn,{item}", PATHS)


def test_a_sub_layer_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match=r"encoder\.layers\.7\.ffn"):
        choose(state(), DIMS, without=parse_sublayers("encoder:7.ffn", PATHS))


def test_the_heaviest_heads_stay() -> None:
    weights = state()
    chosen = choose(weights, DIMS, heads="1").heads
    for path, kept in chosen.items():
        mass = [
            sum(
                weights[f"{path}.{name}_proj.weight"][2 * h : 2 * h + 2].abs().sum()
                for name in "qkv"
            )
            + weights[f"{path}.out_proj.weight"][:, 2 * h : 2 * h + 2].abs().sum()
            for h in (0, 1)
        ]
        assert kept == ((0,) if mass[0] > mass[1] else (1,))
    assert len(chosen) == 6 and set(chosen.values()) == {(0,), (1,)}


def test_the_heaviest_units_stay_in_their_order() -> None:
    weights = state()
    for path, kept in choose(weights, DIMS, ffn="3").units.items():
        layer = path.removesuffix(".ffn")
        mass = weights[f"{layer}.fc1.weight"].abs().sum(1) + weights[
            f"{layer}.fc2.weight"
        ].abs().sum(0)
        assert kept == tuple(sorted(mass.topk(3).indices.tolist()))


def test_scores_come_before_magnitudes() -> None:
    scores = {path: [1.0, 2.0] for path in sublayers(state()) if "attn" in path}
    assert set(choose(state(), DIMS, heads="1", scores=scores).heads.values()) == {(1,)}
    with pytest.raises(
        ValueError, match=r"the importance of encoder\.layers\.0\.ffn, .* is not known"
    ):
        choose(state(), DIMS, ffn="1", scores=scores)


def test_what_stays_are_the_rows_and_columns_of_the_kept() -> None:
    weights = state()
    widths = choose(weights, DIMS, heads="1", ffn="0.5")
    small = narrow(weights, DIMS, widths)
    assert small.keys() == weights.keys()
    path = "decoder.layers.1.encoder_attn"
    (head,) = widths.heads[path]
    rows = [2 * head, 2 * head + 1]
    for name in "qkv":
        assert torch.equal(
            small[f"{path}.{name}_proj.weight"], weights[f"{path}.{name}_proj.weight"][rows]
        )
        assert torch.equal(
            small[f"{path}.{name}_proj.bias"], weights[f"{path}.{name}_proj.bias"][rows]
        )
    assert torch.equal(
        small[f"{path}.out_proj.weight"], weights[f"{path}.out_proj.weight"][:, rows]
    )
    units = list(widths.units["encoder.layers.0.ffn"])
    assert torch.equal(
        small["encoder.layers.0.fc1.weight"], weights["encoder.layers.0.fc1.weight"][units]
    )
    assert torch.equal(
        small["encoder.layers.0.fc2.weight"], weights["encoder.layers.0.fc2.weight"][:, units]
    )
    for key in (
        "encoder.layers.0.fc2.bias",
        f"{path}.out_proj.bias",
        "encoder.layers.0.final_layer_norm.weight",
    ):
        assert small[key] is weights[key]


@pytest.mark.parametrize("part", ["self_attn", "encoder_attn", "ffn"])
def test_a_sub_layer_goes_with_its_norm(part: str) -> None:
    weights = state()
    small = narrow(
        weights, DIMS, choose(weights, DIMS, without=frozenset({f"decoder.layers.1.{part}"}))
    )
    names = (
        ("fc1.", "fc2.", "final_layer_norm.")
        if part == "ffn"
        else (f"{part}.", f"{part}_layer_norm.")
    )
    gone = {
        key
        for key in weights
        if key.startswith(tuple(f"decoder.layers.1.{name}" for name in names))
    }
    assert weights.keys() - small.keys() == gone != set()


def test_the_shapes_are_those_of_the_matrices() -> None:
    weights = state()
    assert shapes(weights, DIMS) == {"encoder": [[2, 0, FFN]] * 2, "decoder": [[2, 2, FFN]] * 2}
    widths = choose(
        weights, DIMS, heads="1", ffn="3", without=frozenset({"decoder.layers.0.self_attn"})
    )
    narrowed = {"encoder": [[1, 0, 3]] * 2, "decoder": [[0, 1, 3], [1, 1, 3]]}
    assert shapes(narrow(weights, DIMS, widths), DIMS) == narrowed


# The configuration


def test_ffns_that_are_alike_are_stock_fairseqs() -> None:
    widths = choose(state(), DIMS, ffn="3")
    small = cut(checkpoint(), WHOLE, source="s", version="0", widths=widths)
    model = small["cfg"]["model"]
    assert (model["_name"], model["encoder_ffn_embed_dim"], model["decoder_ffn_embed_dim"]) == (
        "transformer",
        3,
        3,
    )
    assert "layerdrop_shapes" not in model


@pytest.mark.parametrize(
    "options", [{"heads": "1"}, {"without": frozenset({"encoder.layers.1.ffn"})}]
)
def test_what_stock_fairseq_cannot_hold_names_our_architecture(options: dict[str, Any]) -> None:
    small = cut(
        checkpoint(), WHOLE, source="s", version="0", widths=choose(state(), DIMS, **options)
    )
    model = small["cfg"]["model"]
    assert model["_name"] == "layerdrop_transformer"
    assert json.loads(model["layerdrop_shapes"]) == shapes(small["model"], DIMS)
    assert small["extra_state"]["layerdrop"]["steps"][0]["inside"]["without"] == sorted(
        options.get("without", [])
    )


def test_shapes_stay_true_when_layers_go_afterwards() -> None:
    widths = choose(state(), DIMS, heads="1", without=frozenset({"encoder.layers.0.ffn"}))
    once = cut(checkpoint(), WHOLE, source="s", version="0", widths=widths)
    plan = PruningPlan.parse("1/0", {"encoder": 2, "decoder": 2})
    twice = cut(once, plan, source="s", version="0")
    assert json.loads(twice["cfg"]["model"]["layerdrop_shapes"]) == {
        "encoder": [[1, 0, FFN]],
        "decoder": [[1, 1, FFN]],
    }


@pytest.mark.parametrize(
    "name", ["transformer_align", "multilingual_transformer", "wav2vec2", "somebodys"]
)
def test_an_architecture_that_we_have_no_layers_of_is_refused(name: str) -> None:
    cfg = {
        "model": model_options(2, 2)
        | {"_name": name, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    }
    with pytest.raises(ValueError, match=f"unequal FFNs or missing sub-layers of {name}"):
        config_for_shapes(
            cfg, {"encoder": [[1, 0, 4]] * 2, "decoder": [[2, 2, 4]] * 2}, missing=False
        )


def test_the_dimension_of_a_head_does_not_change() -> None:
    assert head_dims({"encoder_embed_dim": DIM, "encoder_attention_heads": 2}) == {"encoder": 2}
    with pytest.raises(ValueError, match="number of attention heads"):
        head_dims({"encoder_embed_dim": DIM})


def test_the_ema_gets_the_same_shapes_and_the_optimizer_is_refused() -> None:
    made = checkpoint()
    made["extra_state"]["ema"] = state()
    widths = choose(state(), DIMS, heads="1", ffn="2")
    small = cut(made, WHOLE, source="s", version="0", widths=widths)
    ema = small["extra_state"]["ema"]
    assert {key: t.shape for key, t in ema.items()} == {
        key: t.shape for key, t in small["model"].items()
    }
    with pytest.raises(ValueError, match="optimizer's state of layers that get other shapes"):
        cut(made, WHOLE, source="s", version="0", widths=widths, keep_optimizer=True)
