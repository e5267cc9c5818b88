# SPDX-License-Identifier: MIT
"""Old checkpoints: keys of 2019, options in ``args``; upgraded over the full depth, whatever is pruned after."""

from argparse import Namespace
from typing import Any

import pytest
import torch

from fairseq_layerdrop.pruning.config import model_section
from fairseq_layerdrop.pruning.plan import PruningPlan
from fairseq_layerdrop.pruning.surgery import prune_checkpoint
from fairseq_layerdrop.pruning.upgrade import upgrade_checkpoint, upgrade_state

DEPTH, DIM = 6, 2


def old_state() -> dict[str, torch.Tensor]:
    """A model as fairseq wrote it in 2019; in layer i every projection is 10 i + 1, 2, 3 for q, k, v, every norm i."""
    state = {"encoder.version": torch.tensor([2.0]), "decoder.version": torch.tensor([2.0])}
    for stack, norms in (("encoder", 2), ("decoder", 3)):
        state[f"{stack}.embed_tokens.weight"] = torch.full((4, DIM), 0.5)
        state[f"{stack}.layer_norm.weight"] = torch.ones(DIM)
        for i in range(DEPTH):
            values = torch.tensor([1.0, 2.0, 3.0]).repeat_interleave(DIM) + 10 * i
            state[f"{stack}.layers.{i}.self_attn.in_proj_weight"] = values[:, None].repeat(1, DIM)
            state[f"{stack}.layers.{i}.self_attn.in_proj_bias"] = values.clone()
            for n in range(norms):
                state[f"{stack}.layers.{i}.layer_norms.{n}.weight"] = torch.full((DIM,), i + n / 10)
    return state


def old_checkpoint() -> dict[str, Any]:
    """A checkpoint as fairseq wrote it in 2019."""
    options = {"encoder_layers": DEPTH, "decoder_layers": DEPTH, "arch": "transformer", "task": "translation"}
    args = Namespace(**options, data=["bin"], criterion="cross_entropy", user_dir="/home/somebody")
    return {"args": args, "model": old_state(), "optimizer_history": [{"num_updates": 3}], "extra_state": {}}


def test_the_three_projections_of_an_attention_come_apart() -> None:
    state = upgrade_state(old_state())
    for name, value in zip("qkv", (41.0, 42.0, 43.0), strict=True):
        for kind in ("weight", "bias"):
            assert state[f"decoder.layers.4.self_attn.{name}_proj.{kind}"].unique().tolist() == [value]
    assert not [key for key in state if "in_proj" in key]


@pytest.mark.parametrize(
    ("stack", "names"),
    [
        ("encoder", ["self_attn_layer_norm", "final_layer_norm"]),
        ("decoder", ["self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"]),
    ],
)
def test_numbered_norms_get_their_names(stack: str, names: list[str]) -> None:
    state = upgrade_state(old_state())
    for n, name in enumerate(names):
        assert state[f"{stack}.layers.5.{name}.weight"][0].item() == pytest.approx(5 + n / 10)
    assert not [key for key in state if "layer_norms" in key]


def test_a_separate_output_embedding_gets_its_name() -> None:
    output = torch.rand(4, DIM)
    state = upgrade_state(old_state() | {"decoder.embed_out": output})
    assert state["decoder.output_projection.weight"] is output
    assert "decoder.embed_out" not in state


def test_a_shared_output_embedding_is_the_same_tensor() -> None:
    state = upgrade_state(old_state())
    assert state["decoder.output_projection.weight"] is state["decoder.embed_tokens.weight"]


def test_an_adaptive_softmax_gets_no_output_projection() -> None:
    state = upgrade_state(old_state() | {"decoder.adaptive_softmax.head.weight": torch.ones(1)})
    assert "decoder.output_projection.weight" not in state


@pytest.mark.parametrize(("version", "there"), [(1.0, False), (2.0, False), (3.0, True)])
def test_the_decoder_s_last_norm_is_there_if_fairseq_reads_it(version: float, there: bool) -> None:
    state = upgrade_state(old_state() | {"decoder.version": torch.tensor([version])})
    assert ("decoder.layer_norm.weight" in state) == there
    assert "encoder.layer_norm.weight" in state


def test_todays_keys_come_back_with_the_same_tensors() -> None:
    today = upgrade_state(old_state() | {"decoder.version": torch.tensor([3.0])})
    again = upgrade_state(today)
    assert list(again) == list(today)
    assert all(again[key] is today[key] for key in today)


def test_an_old_checkpoint_is_pruned_at_layers_beyond_the_new_depth() -> None:
    """fairseq's own pruning upgrades the first two layers only, and fails on these."""
    plan = PruningPlan.from_specs({"encoder": "1,5", "decoder": "3,4"}, {"encoder": DEPTH, "decoder": DEPTH})
    small = prune_checkpoint(old_checkpoint(), plan, source="", version="")
    queries = {key: value[0].item() for key, value in small["model"].items() if key.endswith("self_attn.q_proj.bias")}
    assert queries == {
        "encoder.layers.0.self_attn.q_proj.bias": 11.0,
        "encoder.layers.1.self_attn.q_proj.bias": 51.0,
        "decoder.layers.0.self_attn.q_proj.bias": 31.0,
        "decoder.layers.1.self_attn.q_proj.bias": 41.0,
    }


def test_options_in_args_become_sections() -> None:
    checkpoint = old_checkpoint()
    upgraded = upgrade_checkpoint(checkpoint)
    assert upgraded["args"] is None
    assert model_section(upgraded)["_name"] == "transformer"
    assert (upgraded["cfg"]["task"]["_name"], upgraded["cfg"]["task"]["data"]) == ("translation", "bin")
    assert checkpoint["args"] is not None and "cfg" not in checkpoint  # the source is not changed


def test_a_checkpoint_with_sections_is_left_as_it_is() -> None:
    checkpoint = {"args": None, "cfg": {"model": {"_name": "transformer"}}, "model": {}}
    assert upgrade_checkpoint(checkpoint) == checkpoint


def test_what_is_written_of_args_is_plain_and_of_no_machine() -> None:
    plan = PruningPlan.from_specs({}, {"encoder": DEPTH, "decoder": DEPTH})
    cfg = prune_checkpoint(old_checkpoint(), plan, source="", version="")["cfg"]
    assert all(type(section) is dict and section["user_dir"] is None for section in cfg.values())


def test_parameters_alone_get_no_output_projection() -> None:
    """An EMA's own copies are the parameters, of which a shared one is there once."""
    parameters = {"decoder.embed_tokens.weight": torch.ones(4, DIM), "decoder.layers.0.fc1.weight": torch.ones(1)}
    assert list(upgrade_state(parameters)) == list(parameters)


def test_a_matrix_that_is_not_three_projections_is_named() -> None:
    with pytest.raises(ValueError, match=r"self_attn\.in_proj_weight must hold three projections, got \(4, 2\)"):
        upgrade_state({"encoder.layers.0.self_attn.in_proj_weight": torch.zeros(4, 2)})
