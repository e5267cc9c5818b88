# SPDX-License-Identifier: MIT
"""``layerdrop_bart``: what it has beyond the other families (test_every_family.py)."""

import copy
import functools
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SENTENCES
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_INV_REGISTRY
from fairseq.tasks import TASK_REGISTRY
from fairseq_programs import (
    SHORT,
    USER_DIR,
    WIDTH,
    Hypotheses,
    assert_same_hypotheses,
    assert_same_tensors,
    batch,
    build_model,
    build_shapes,
    config,
    dictionary,
    generate,
    layers_run,
    logged,
    prune,
    stacks,
    train,
    weights,
)
from test_transformer import values

import fairseq_layerdrop

fairseq_layerdrop.register()

SIZES = [*WIDTH, "--encoder-layers", "4", "--decoder-layers", "4"]
OURS = ["--arch", "layerdrop_bart", *SIZES]
HALF = ["--encoder-layerdrop", "0.5", "--decoder-layerdrop", "0.5"]
MOSTLY = ["--encoder-layerdrop", "0.9", "--decoder-layerdrop", "0.9"]
TASK = ["--user-dir", USER_DIR, "--task", "layerdrop_translation"]

# Each architecture: the stock one that it is made after.
ARCHITECTURES = {
    "layerdrop_bart": "bart_base",
    "layerdrop_bart_base": "bart_base",
    "layerdrop_bart_large": "bart_large",
}


def with_head(*flags: str, seed: int = 5) -> Any:
    """A model with a head of three classes that was trained elsewhere."""
    model = build_model(*OURS, *flags, seed=seed)
    model.register_classification_head("mnli", num_classes=3, inner_dim=24)
    return model


# Architectures


def test_every_architecture_is_known_to_these_tests() -> None:
    assert set(ARCH_MODEL_INV_REGISTRY["layerdrop_bart"]) == set(ARCHITECTURES)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architecture_has_the_values_of_its_stock_twin(name: str) -> None:
    stock, rates = ARCHITECTURES[name], {"encoder.layerdrop": 0.2, "decoder.layerdrop": 0.2}
    assert values(name) == values(stock) | rates
    ours, theirs = config("--arch", name).model, config("--arch", stock).model
    for option in ("pooler_activation_fn", "pooler_dropout"):
        assert ours[option] == getattr(theirs, option), option
    assert not ours.spectral_norm_classification_head


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architecture_is_built_from_the_values_of_its_stock_twin(name: str) -> None:
    ours, theirs = build_shapes("--arch", name), build_shapes("--arch", ARCHITECTURES[name])
    sets = Namespace()
    ARCH_CONFIG_REGISTRY[ARCHITECTURES[name]](sets)
    for option in sorted(vars(sets)):
        assert getattr(ours.args, option) == getattr(theirs.args, option), option
    assert {stack.layers.rates for stack in stacks(ours).values()} == {
        (0.2,) * theirs.args.encoder_layers
    }
    assert {name: tensor.shape for name, tensor in ours.state_dict().items()} == {
        name: tensor.shape for name, tensor in theirs.state_dict().items()
    }


def test_a_flag_overrides_the_architecture() -> None:
    model = config("--arch", "layerdrop_bart_large", "--encoder-layers", "9", *HALF).model
    assert (model.encoder_layers, model.encoder_layerdrop, model.decoder_layers) == (9, 0.5, 12)


def test_decoder_sizes_follow_the_encoder() -> None:
    model = config(
        "--arch", "layerdrop_bart", "--encoder-embed-dim", "24", "--encoder-ffn-embed-dim", "8"
    ).model
    assert (model.decoder_embed_dim, model.decoder_ffn_embed_dim) == (24, 8)
    assert (model.decoder_input_dim, model.decoder_output_dim) == (24, 24)


def test_all_embeddings_are_shared() -> None:
    model = build_model(*OURS)
    assert model.encoder.embed_tokens.weight is model.decoder.embed_tokens.weight
    assert model.decoder.output_projection.weight is model.decoder.embed_tokens.weight


# A task's name is among the options that BART's code reads


@pytest.mark.parametrize(
    ("task", "dictionaries"), [("translation", 2), ("denoising", 1), ("sentence_ranking", 1)]
)
def test_the_model_knows_its_task_whether_that_has_a_configuration_or_not(
    task: str, dictionaries: int
) -> None:
    """fairseq's older tasks, of which the last is one, keep a Namespace of all options instead."""
    cfg = config(*OURS, "--task", task)
    words = copy.deepcopy(dictionary())
    model = TASK_REGISTRY[task](cfg.task, *[words] * dictionaries).build_model(cfg.model)
    assert model.args.task == task
    model.load_state_dict(model.state_dict())  # where fairseq asks for it


def test_a_checkpoint_whose_dictionary_has_one_more_word_the_mask_is_loaded() -> None:
    """From denoising to translation, fairseq leaves the last row out."""
    model = build_model(*OURS, "--encoder-layers-to-keep", "0,2", "--decoder-layers-to-keep", "1")
    saved = build_model(*OURS, seed=6).state_dict()
    longer = {
        name: torch.cat([tensor, tensor[:1]])
        if "embed_tokens" in name or "output_projection" in name
        else tensor
        for name, tensor in saved.items()
    }
    model.load_state_dict(longer)
    assert torch.equal(model.encoder.embed_tokens.weight, saved["encoder.embed_tokens.weight"])


# Heads


def test_training_a_head_skips_layers_and_reaches_every_parameter() -> None:
    model = with_head(*MOSTLY).train()
    with layers_run(model) as run:
        logits, _ = model(**batch()["net_input"], classification_head_name="mnli")
    logits.square().sum().backward()
    assert logits.shape == (3, 3)
    assert 2 <= len(run["encoder"] + run["decoder"]) < 8
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_a_checkpoint_s_heads_are_loaded_where_asked_for_and_left_out_elsewhere() -> None:
    saved = with_head().state_dict()
    prune = ["--encoder-layers-to-keep", "every:2", "--decoder-layers-to-keep", "3"]
    for flags, heads in ((["--load-checkpoint-heads"], {"mnli"}), ([], set())):
        model = build_model(*OURS, *flags, *prune, seed=6)
        model.load_state_dict(saved)
        assert set(model.classification_heads) == heads
        for name, tensor in model.classification_heads.state_dict().items():
            assert torch.equal(tensor, saved[f"classification_heads.{name}"])


def test_a_new_head_keeps_its_weights_when_a_checkpoint_without_it_is_loaded() -> None:
    model = with_head("--encoder-layers-to-keep", "1,3", seed=6)
    before = {
        name: tensor.clone() for name, tensor in model.classification_heads.state_dict().items()
    }
    model.load_state_dict(build_model(*OURS).state_dict())
    assert_same_tensors(model.classification_heads.state_dict(), before)


# Generation


@pytest.mark.parametrize("training", [False, True])
def test_every_layer_is_told_the_beam_s_size(training: bool) -> None:
    """fairseq's loop over the decoder's layers sees all of them, in training (--eval-bleu), too."""
    model = build_model(*OURS, *MOSTLY).train(training)
    told: list[tuple[int, int]] = []
    for i in range(4):
        attention = model.decoder.layers[i].encoder_attn
        attention.set_beam_size = lambda beam, i=i: told.append((i, beam))
    model.set_beam_size(5)
    assert told == [(0, 5), (1, 5), (2, 5), (3, 5)]


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A tiny BART trained to translate with LayerDrop 0.5, and what that printed."""
    folder = tmp_path_factory.mktemp("bart")
    flags = [*TASK, *OURS, *HALF, "--dropout", "0.1", "--max-epoch", "8", "--valid-plans", "4+2"]
    return folder / "checkpoint_last.pt", train(data, folder, *flags)


@pytest.fixture(scope="module")
def generated(data: Path, trained: tuple[Path, str]) -> Callable[..., Hypotheses]:
    """``generated(*keep)``: what the trained model generates with these layers, cached.

    torch takes its file, as it takes that of the stock model that is made from it, where the plugin
    is loaded.
    """

    @functools.cache
    def run(*keep: str) -> Hypotheses:
        return generate(data, trained[0], *TASK, *keep, *SHORT)

    return run


def test_the_hub_s_interface_takes_the_trained_file(data: Path, trained: tuple[Path, str]) -> None:
    from fairseq_layerdrop.models.bart import LayerDropBART

    hub = LayerDropBART.from_pretrained(
        str(trained[0].parent), trained[0].name, str(data), bpe=None
    )
    assert hub.model.args.load_checkpoint_heads
    assert_same_tensors(hub.model.state_dict(), weights(trained[0]))


def test_training_skips_layers_and_validates_plans(trained: tuple[Path, str]) -> None:
    steps = logged(trained[1], "train_inner")
    for stack in ("encoder", "decoder"):
        assert 0.4 < sum(float(step[f"{stack}_keep"]) for step in steps) / len(steps) < 0.7
    valid = logged(trained[1], "valid")[-1]
    assert valid["valid_loss"] != valid["valid_loss_4-2"]


@pytest.mark.parametrize(
    "keep",
    [["--encoder-keep", "0,3", "--decoder-keep", "every:2"], []],
    ids=["0,3/every:2", "everything"],
)
def test_depth_on_demand_generates_what_the_pruned_file_does(
    data: Path,
    trained: tuple[Path, str],
    generated: Callable[..., Hypotheses],
    keep: list[str],
    tmp_path: Path,
) -> None:
    small = prune(trained[0], tmp_path / "small.pt", *keep)
    stock = generate(data, small, "--user-dir", USER_DIR, "--task", "translation", *SHORT)
    assert_same_hypotheses(generated(*keep), stock, sentences=SENTENCES["test"])
    assert not keep or generated(*keep) != generated()
