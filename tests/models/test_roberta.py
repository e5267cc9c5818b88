# SPDX-License-Identifier: MIT
"""``layerdrop_roberta`` beyond test_every_family.py: heads, positions, old names."""

from argparse import Namespace
from typing import Any

import pytest
import torch
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_INV_REGISTRY
from fairseq_programs import (
    WIDTH,
    assert_same_tensors,
    batch,
    build_model,
    build_shapes,
    config,
    layers_run,
    stacks,
)

import fairseq_layerdrop

fairseq_layerdrop.register()

TASK = ["--task", "layerdrop_masked_lm", "--tokens-per-sample", "16"]
OURS = ["--arch", "layerdrop_roberta", *TASK, *WIDTH[:6], "--encoder-layers", "4"]
HALF = ["--encoder-layerdrop", "0.5"]
HEADS = ["--load-checkpoint-heads"]

# Each architecture: the stock one that it is made after, its depth and its rate.
ARCHITECTURES = {
    "layerdrop_roberta": ("roberta", 12, 0.2),
    "layerdrop_roberta_base": ("roberta_base", 12, 0.2),
    "layerdrop_roberta_large": ("roberta_large", 24, 0.2),
    "layerdrop_roberta_large_48": ("roberta_large", 48, 0.5),
}


def source() -> dict[str, torch.Tensor]:
    """What a model without a decoder is fed."""
    return {
        name: tensor
        for name, tensor in batch()["net_input"].items()
        if name != "prev_output_tokens"
    }


def with_head(*flags: str, seed: int = 5) -> Any:
    """A model with a head of three classes that was trained elsewhere."""
    model = build_model(*OURS, *flags, seed=seed)
    model.register_classification_head("mnli", num_classes=3, inner_dim=24)
    return model


# Architectures


def test_every_architecture_is_known_to_these_tests() -> None:
    assert set(ARCH_MODEL_INV_REGISTRY["layerdrop_roberta"]) == set(ARCHITECTURES)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architecture_is_built_from_the_values_of_its_stock_twin(name: str) -> None:
    stock, layers, rate = ARCHITECTURES[name]
    ours = build_shapes("--arch", name, *TASK)
    theirs = build_shapes("--arch", stock, *TASK, "--encoder-layers", str(layers))
    assert stacks(ours)["encoder"].layers.rates == (rate,) * layers
    sets = Namespace()
    ARCH_CONFIG_REGISTRY[stock](sets)
    for option in sorted({*vars(sets), "max_positions"} - {"encoder_layerdrop"}):
        assert getattr(ours.args, option) == getattr(theirs.args, option), option
    assert {name: tensor.shape for name, tensor in ours.state_dict().items()} == {
        name: tensor.shape for name, tensor in theirs.state_dict().items()
    }


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architecture_s_configuration_says_the_values_of_its_stock_twin(name: str) -> None:
    """What is written into the checkpoint, that is: a reader need not know the architecture."""
    stock, layers, rate = ARCHITECTURES[name]
    ours, theirs = (
        dict(config("--arch", name, *TASK).model),
        vars(config("--arch", stock, *TASK).model),
    )
    assert (ours.pop("encoder_layers"), ours.pop("encoder_layerdrop")) == (layers, rate)
    assert (ours.pop("_name"), ours.pop("layerdrop_min_layers")) == (name, 1)
    assert ours == {option: theirs.get(option, default) for option, default in ours.items()}


def test_a_flag_overrides_the_architecture() -> None:
    model = config(
        "--arch", "layerdrop_roberta_large_48", *TASK, "--encoder-layers", "9", *HALF
    ).model
    assert (model.encoder_layers, model.encoder_layerdrop, model.encoder_embed_dim) == (
        9,
        0.5,
        1024,
    )


@pytest.mark.parametrize(("flags", "positions"), [([], 16), (["--max-positions", "40"], 40)])
def test_there_are_as_many_positions_as_tokens_in_a_sample_unless_told_otherwise(
    flags: list[str], positions: int
) -> None:
    model = build_model(*OURS, *flags)
    assert (
        model.encoder.sentence_encoder.embed_positions.num_embeddings == positions + 2
    )  # fairseq counts from 2
    assert model.max_positions() == positions


def test_the_output_s_weights_are_the_embedding_s_unless_untied() -> None:
    tied, untied = build_model(*OURS), build_model(*OURS, "--untie-weights-roberta")
    assert tied.encoder.lm_head.weight is tied.encoder.sentence_encoder.embed_tokens.weight
    assert untied.encoder.lm_head.weight is not untied.encoder.sentence_encoder.embed_tokens.weight


# Masked tokens


def test_training_projects_only_the_masked_tokens_whatever_was_skipped() -> None:
    model = build_model(*OURS, *HALF).train()
    masked = torch.zeros(3, 6, dtype=torch.bool)
    masked[0, 1] = masked[2, 3] = True
    logits, _ = model(**source(), masked_tokens=masked)
    assert logits.shape == (2, len(model.encoder.dictionary))


# Heads


def test_training_a_head_skips_layers_and_reaches_what_it_reads() -> None:
    model = with_head("--encoder-layerdrop", "0.9").train()
    with layers_run(model) as run:
        logits, _ = model(**source(), features_only=True, classification_head_name="mnli")
    logits.square().sum().backward()
    assert logits.shape == (3, 3)
    assert len(run["encoder"]) < 4
    unreached = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert all(name.startswith("encoder.lm_head.") for name in unreached)


@pytest.mark.parametrize(
    "flags", [[], ["--encoder-layers-to-keep", "every:2"]], ids=["whole", "pruned"]
)
def test_a_checkpoint_s_heads_are_loaded_where_asked_for(flags: list[str]) -> None:
    saved = with_head().state_dict()
    model = build_model(*OURS, *flags, *HEADS, seed=6)
    model.load_state_dict(saved)
    assert_same_tensors(
        model.classification_heads.state_dict(),
        {
            name.removeprefix("classification_heads."): saved[name]
            for name in saved
            if "heads" in name
        },
    )
    assert model(**source(), features_only=True, classification_head_name="mnli")[0].shape == (3, 3)


def test_a_checkpoint_s_heads_are_left_out_elsewhere() -> None:
    model = build_model(*OURS, "--encoder-layers-to-keep", "every:2", seed=6)
    model.load_state_dict(with_head().state_dict())
    assert len(model.classification_heads) == 0


def test_a_new_head_keeps_its_weights_when_a_checkpoint_without_it_is_loaded() -> None:
    """Where fine-tuning starts."""
    model = with_head("--encoder-layers-to-keep", "1,3", seed=6)
    before = {
        name: tensor.clone() for name, tensor in model.classification_heads.state_dict().items()
    }
    model.load_state_dict(build_model(*OURS).state_dict())
    assert_same_tensors(model.classification_heads.state_dict(), before)


def test_the_regularization_of_a_head_s_training_covers_every_layer() -> None:
    """fairseq's loops over the list of layers see all of them in training, too."""
    model = build_model(
        *OURS, *HALF, "--ffn-reg-scale-factor", "1", "--mha-reg-scale-factor", "1"
    ).train()
    layers = list(stacks(model)["encoder"].layers.children())
    ffn = sum(
        p.abs().sum()
        for layer in layers
        for part in (layer.fc1, layer.fc2)
        for p in part.parameters()
    )
    attention = [
        (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj) for layer in layers
    ]
    heads = sum(p.abs().sum() for parts in attention for part in parts for p in part.parameters())
    torch.testing.assert_close(model._get_adaptive_ffn_loss(), ffn)
    torch.testing.assert_close(model._get_adaptive_head_loss(), heads)


# Old checkpoints


@pytest.mark.parametrize("spec", ["all", "0,3"])
def test_a_checkpoint_of_2019_called_the_encoder_a_decoder(spec: str) -> None:
    saved = build_model(*OURS).state_dict()
    old = {
        name.replace("encoder.", "decoder.", 1).replace(
            ".layernorm_embedding.", ".emb_layer_norm."
        ): tensor
        for name, tensor in saved.items()
    }
    assert not old.keys() & saved.keys()
    new, model = (
        build_model(*OURS, "--encoder-layers-to-keep", spec, seed=seed) for seed in (6, 7)
    )
    new.load_state_dict(saved)
    model.load_state_dict(old)
    assert_same_tensors(model.state_dict(), new.state_dict())
