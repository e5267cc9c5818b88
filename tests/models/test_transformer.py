# SPDX-License-Identifier: MIT
"""``layerdrop_transformer`` against fairseq's own ``transformer`` of the same sizes."""

import dataclasses
import logging
from typing import Any

import pytest
import torch
from fairseq.models import ARCH_MODEL_INV_REGISTRY
from fairseq.models.transformer import TransformerConfig
from fairseq_programs import (
    WIDTH,
    after_training,
    assert_same_tensors,
    batch,
    build_model,
    build_task,
    config,
    draws,
    gradients,
    layers_run,
    loss_of,
)

import fairseq_layerdrop

fairseq_layerdrop.register()

SIZES = [*WIDTH, "--encoder-layers", "4", "--decoder-layers", "4"]
OURS = ["--arch", "layerdrop_transformer", *SIZES]
STOCK = ["--arch", "transformer", *SIZES]
HALF = ["--encoder-layerdrop", "0.5", "--decoder-layerdrop", "0.5"]
NEVER = ["--encoder-layerdrop", "0", "--decoder-layerdrop", "0"]
MOSTLY = ["--encoder-layerdrop", "0.9", "--decoder-layerdrop", "0.9"]
PRE_NORM = ["--encoder-normalize-before", "--decoder-normalize-before"]

# Each architecture: the stock one that it is made after, and its depths.
ARCHITECTURES = {
    "layerdrop_transformer": ("transformer", 6, 6),
    "layerdrop_transformer_iwslt_de_en": ("transformer_iwslt_de_en", 6, 6),
    "layerdrop_transformer_wmt_en_de_big": ("transformer_wmt_en_de_big", 6, 6),
    "layerdrop_transformer_wmt_en_de_big_12_6": ("transformer_wmt_en_de_big", 12, 6),
    "layerdrop_transformer_cnn_dm": ("transformer", 6, 6),
    "layerdrop_transformer_cnn_dm_6_8": ("transformer", 6, 8),
}
every_architecture = pytest.mark.parametrize(
    "name", ARCH_MODEL_INV_REGISTRY["layerdrop_transformer"]
)


def depth(layers: int) -> list[str]:
    """The flags for this many layers on both sides."""
    return ["--encoder-layers", str(layers), "--decoder-layers", str(layers)]


def values(architecture: str) -> dict[str, Any]:
    """What an architecture sets, in nested names: ``encoder.layers``, ``dropout``, …"""
    nested = dataclasses.asdict(
        TransformerConfig.from_namespace(config("--arch", architecture).model)
    )
    flat = {
        f"{section}.{key}" if isinstance(fields, dict) else section: value
        for section, fields in nested.items()
        for key, value in (fields.items() if isinstance(fields, dict) else [("", fields)])
    }
    return {key: value for key, value in flat.items() if not key.endswith("_name")}


# Architectures


def test_every_architecture_is_known_to_these_tests() -> None:
    assert set(ARCH_MODEL_INV_REGISTRY["layerdrop_transformer"]) == set(ARCHITECTURES)


@every_architecture
def test_architecture_trains_and_saves_a_stock_state_dict(name: str) -> None:
    stock, encoder_layers, decoder_layers = ARCHITECTURES[name]
    sizes = [
        *WIDTH,
        "--encoder-layers",
        str(encoder_layers),
        "--decoder-layers",
        str(decoder_layers),
    ]
    model = build_model("--arch", name, *WIDTH, *HALF).train()
    loss = loss_of(model)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(parameter.grad is not None for parameter in model.parameters())
    saved, expected = model.state_dict(), build_model("--arch", stock, *sizes).state_dict()
    assert {key: tensor.shape for key, tensor in saved.items()} == {
        key: t.shape for key, t in expected.items()
    }


@every_architecture
def test_architecture_has_the_values_of_its_stock_twin(name: str) -> None:
    stock, encoder_layers, decoder_layers = ARCHITECTURES[name]
    ours, theirs = values(name), values(stock)
    assert (ours.pop("encoder.layers"), ours.pop("decoder.layers")) == (
        encoder_layers,
        decoder_layers,
    )
    assert (ours.pop("encoder.layerdrop"), ours.pop("decoder.layerdrop")) == (0.2, 0.2)
    assert ours == {key: theirs[key] for key in ours}
    assert len(theirs) == len(ours) + 4


@every_architecture
def test_architecture_has_as_many_parameters_as_its_stock_twin(name: str) -> None:
    stock, encoder_layers, decoder_layers = ARCHITECTURES[name]
    depths = ["--encoder-layers", str(encoder_layers), "--decoder-layers", str(decoder_layers)]
    with torch.device("meta"):
        ours, theirs = build_model("--arch", name), build_model("--arch", stock, *depths)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


def test_a_flag_overrides_the_architecture() -> None:
    model = config(
        "--arch", "layerdrop_transformer_wmt_en_de_big_12_6", "--encoder-layers", "9", *HALF
    ).model
    assert (model.encoder_layers, model.encoder_layerdrop) == (9, 0.5)


def test_decoder_sizes_follow_the_encoder() -> None:
    model = config(
        "--arch",
        "layerdrop_transformer",
        "--encoder-embed-dim",
        "8",
        "--encoder-ffn-embed-dim",
        "24",
    ).model
    assert (model.decoder_embed_dim, model.decoder_ffn_embed_dim) == (8, 24)
    assert (model.decoder_input_dim, model.decoder_output_dim) == (8, 8)


def test_all_embeddings_can_be_shared() -> None:
    model = build_model(*OURS, "--share-all-embeddings")
    assert model.encoder.embed_tokens.weight is model.decoder.embed_tokens.weight
    assert model.decoder.output_projection.weight is model.decoder.embed_tokens.weight


def test_the_decoder_s_input_and_output_embeddings_can_be_shared() -> None:
    model = build_model(*OURS, "--share-decoder-input-output-embed")
    assert model.encoder.embed_tokens.weight is not model.decoder.embed_tokens.weight
    assert model.decoder.output_projection.weight is model.decoder.embed_tokens.weight


def test_hydra_s_model_group_composes_and_builds() -> None:
    from fairseq.dataclass.initialize import hydra_init
    from hydra import compose, initialize_config_module
    from hydra.core.global_hydra import GlobalHydra

    hydra_init()
    GlobalHydra.instance().clear()
    sizes = [
        "model.encoder_embed_dim=8",
        "model.encoder_layers=3",
        "model.encoder_layerdrop=0.3",
        "common.seed=9",
    ]
    with initialize_config_module("fairseq.config"):
        cfg = compose(
            "config",
            overrides=["model=layerdrop_transformer", "task=layerdrop_translation", *sizes],
        )
    model = build_task(cfg).build_model(cfg.model)
    assert len(model.encoder.layers) == 3
    assert model.encoder.layers.rates == (0.3,) * 3
    assert model.encoder.layers.seed == 9
    assert model.decoder.embed_tokens.embedding_dim == 8


# The same as stock fairseq, wherever nothing is dropped


@pytest.mark.parametrize("style", [[], PRE_NORM], ids=["post-norm", "pre-norm"])
def test_rate_zero_trains_as_stock_does_to_the_bit(style: list[str]) -> None:
    samples = [batch(seed=update) for update in range(3)]
    stock, ours = (
        after_training(samples, *flags, *style, "--dropout", "0.1")
        for flags in (STOCK, [*OURS, *NEVER])
    )
    assert ours[0] == stock[0]
    assert_same_tensors(ours[1], stock[1])


def test_rate_zero_has_stock_s_gradients_to_the_bit() -> None:
    stock, ours = (
        build_model(*flags, "--dropout", "0.1").train() for flags in (STOCK, [*OURS, *NEVER])
    )
    torch.manual_seed(1)
    expected = gradients(stock)
    torch.manual_seed(1)
    assert_same_tensors(gradients(ours), expected)


@pytest.mark.parametrize("rates", [NEVER, HALF], ids=["rate 0", "rate 0.5"])
def test_evaluation_gives_stock_s_outputs_to_the_bit(rates: list[str]) -> None:
    stock, ours = build_model(*STOCK).eval(), build_model(*OURS, *rates, seed=6).eval()
    ours.load_state_dict(stock.state_dict())
    for one, two in zip(ours(**batch()["net_input"]), stock(**batch()["net_input"]), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0)


def test_evaluation_draws_nothing() -> None:
    model = build_model(*OURS, *HALF).eval()
    before = torch.get_rng_state()
    model(**batch()["net_input"])
    assert torch.equal(torch.get_rng_state(), before)
    with layers_run(model) as run:
        model(**batch()["net_input"])
    assert run == {"encoder": [0, 1, 2, 3], "decoder": [0, 1, 2, 3]}


def test_training_draws_its_layers_from_a_generator_of_its_own() -> None:
    model = build_model(*OURS, *HALF, "--dropout", "0").train()
    before = torch.get_rng_state()
    with layers_run(model) as run:
        loss_of(model).backward()
    assert len(run["encoder"] + run["decoder"]) < 8
    assert torch.equal(torch.get_rng_state(), before)


# Attention and hidden states


@pytest.mark.parametrize("alignment_layer", [None, 0, 1, 2])
def test_attention_is_there_whatever_was_dropped(alignment_layer: int | None) -> None:
    model = build_model(*OURS, *depth(3), *MOSTLY, "--layerdrop-min-layers", "1").train()
    for update in range(50):
        model.set_num_updates(update)
        _, extra = model(**batch()["net_input"], alignment_layer=alignment_layer)
        attention = extra["attn"][0]
        torch.testing.assert_close(attention.sum(-1), torch.ones(3, 6))


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training at rate 0"])
@pytest.mark.parametrize("alignment_layer", [None, 0, 1, 2])
def test_attention_is_stock_s_where_nothing_is_dropped(
    alignment_layer: int | None, training: bool
) -> None:
    flags = [*depth(3), "--dropout", "0"]
    models = [
        build_model(*STOCK, *flags),
        build_model(*OURS, *flags, *(NEVER if training else HALF)),
    ]
    stock, ours = (
        model.train(training)(**batch()["net_input"], alignment_layer=alignment_layer)[1]["attn"][0]
        for model in models
    )
    assert torch.equal(ours, stock)


def test_attention_comes_from_the_last_layer_that_ran_up_to_the_one_asked() -> None:
    model = build_model(*OURS, "--dropout", "0", *NEVER).train()
    inputs = batch()["net_input"]

    def attention(kept: tuple[int, ...], alignment_layer: int) -> torch.Tensor:
        model.decoder.layers.keep = kept
        return model(**inputs, alignment_layer=alignment_layer)[1]["attn"][0]

    assert torch.equal(attention((0, 1, 3), 2), attention((0, 1, 3), 1))
    assert torch.equal(attention((2, 3), 1), attention((2, 3), 2))
    assert not torch.equal(attention((0, 1, 3), 2), attention((0, 1, 3), 3))


def test_hidden_states_always_number_depth_plus_one() -> None:
    model = build_model(*OURS, *depth(3), *MOSTLY).train()
    for update in range(20):
        model.set_num_updates(update)
        inputs = batch()["net_input"]
        states = model.encoder(
            inputs["src_tokens"], inputs["src_lengths"], return_all_hiddens=True
        )["encoder_states"]
        _, extra = model(**inputs)
        assert (len(states), len(extra["inner_states"])) == (4, 4)


def test_a_dropped_layer_passes_its_input_on() -> None:
    model = build_model(*OURS, *depth(3), *MOSTLY).train()
    inputs = batch()["net_input"]
    with layers_run(model) as run:
        states = model.encoder(
            inputs["src_tokens"], inputs["src_lengths"], return_all_hiddens=True
        )["encoder_states"]
    unchanged = [i for i in range(3) if torch.equal(states[i], states[i + 1])]
    assert sorted(unchanged + run["encoder"]) == [0, 1, 2]


# Which layers run


def test_at_least_the_minimum_runs() -> None:
    seen = draws(build_model(*OURS, *MOSTLY, "--layerdrop-min-layers", "2"), range(50))
    assert {len(run) for run in seen["encoder"]} >= {2, 3}
    assert min(len(run) for run in seen["encoder"] + seen["decoder"]) == 2


def test_by_default_one_layer_runs_at_least() -> None:
    always = ["--encoder-layerdrop", "1", "--decoder-layerdrop", "1"]
    seen = draws(build_model(*OURS, *depth(3), *always), range(20))
    assert {len(run) for run in seen["encoder"] + seen["decoder"]} == {1}


def test_a_minimum_of_zero_allows_that_nothing_runs() -> None:
    always = ["--encoder-layerdrop", "1", "--decoder-layerdrop", "1", "--layerdrop-min-layers", "0"]
    model = build_model(*OURS, *depth(3), *always).train()
    with layers_run(model) as run:
        loss = loss_of(model)
    loss.backward()
    assert run == {"encoder": [], "decoder": []}
    assert torch.isfinite(loss)
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    for stack in (model.encoder, model.decoder):
        assert not any(parameter.grad.any() for parameter in stack.layers.parameters())
    assert model.decoder.embed_tokens.weight.grad.any()


def test_a_skipped_layer_s_gradients_are_zero() -> None:
    model = build_model(*OURS, *HALF).train()
    with layers_run(model) as run:
        loss_of(model).backward()
    for stack, ran in run.items():
        moved = [
            i
            for i, layer in enumerate(getattr(model, stack).layers)
            if any(p.grad.any() for p in layer.parameters())
        ]
        assert moved == ran


def test_one_seed_and_update_run_the_same_layers() -> None:
    flags = [*OURS, *HALF, "--seed", "4"]
    assert draws(build_model(*flags), range(10), 2) == draws(
        build_model(*flags, seed=8), range(10), 2
    )


def test_an_update_runs_the_same_layers_wherever_the_run_began() -> None:
    flags = [*OURS, *HALF]
    straight, resumed = (
        draws(build_model(*flags), range(10), 2),
        draws(build_model(*flags), range(6, 10), 2),
    )
    assert {stack: seen[12:] for stack, seen in straight.items()} == resumed


def test_another_seed_runs_other_layers() -> None:
    one, two = (draws(build_model(*OURS, *HALF, "--seed", seed), range(10)) for seed in ("4", "5"))
    assert one["encoder"] != two["encoder"]
    assert one["decoder"] != two["decoder"]


def test_updates_and_micro_batches_run_different_layers() -> None:
    seen = draws(build_model(*OURS, *HALF), range(10), 2)["encoder"]
    assert seen[0::2] != seen[1::2]
    assert len(set(seen[0::2])) > 5


def test_encoder_and_decoder_draw_apart() -> None:
    seen = draws(build_model(*OURS, *HALF), range(10))
    assert seen["encoder"] != seen["decoder"]


def test_being_told_the_same_update_again_does_not_repeat_a_draw() -> None:
    one, two = build_model(*OURS, *HALF).train(), build_model(*OURS, *HALF).train()
    drawn = []
    for model, calls in ((one, 1), (two, 3)):
        for _ in range(6):
            for _ in range(calls):
                model.set_num_updates(7)
            drawn.append(model.encoder.layers.draw().active)
    assert drawn[:6] == drawn[6:]
    assert len(set(drawn)) > 1


@pytest.mark.parametrize("style", [[], PRE_NORM], ids=["post-norm", "pre-norm"])
def test_checkpointed_activations_give_the_same_gradients(style: list[str]) -> None:
    flags = [*OURS, *HALF, *style, "--dropout", "0"]
    plain, checkpointed = (
        build_model(*flags).train(),
        build_model(*flags, "--checkpoint-activations").train(),
    )
    for model in (plain, checkpointed):
        model.set_num_updates(2)
    expected = gradients(plain)
    for name, gradient in gradients(checkpointed).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-6, atol=1e-7)


# What the user is told


def test_bad_flags_are_refused_in_one_message_that_names_all() -> None:
    flags = [
        "--encoder-layerdrop",
        "1.5",
        "--decoder-layerdrop",
        "-0.1",
        "--layerdrop-min-layers",
        "-1",
    ]
    with pytest.raises(ValueError) as refused:
        build_model(*OURS, *flags)
    message = str(refused.value)
    assert "--encoder-layerdrop" in message and "1.5" in message
    assert "--decoder-layerdrop" in message and "-0.1" in message
    assert "--layerdrop-min-layers" in message and "-1" in message


@pytest.mark.parametrize("flag", ["--encoder-layerdrop", "--decoder-layerdrop"])
@pytest.mark.parametrize("rate", ["1.5", "-0.1", "nan"])
def test_a_rate_that_is_no_probability_is_refused_by_name(flag: str, rate: str) -> None:
    with pytest.raises(ValueError, match=rf"{flag}.*{rate}"):
        build_model(*OURS, flag, rate)


def test_layerdrop_off_is_warned_of_once_when_training_begins(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def warnings() -> list[str]:
        return [r.getMessage() for r in caplog.records if "LayerDrop is off" in r.getMessage()]

    model = build_model(*OURS, *NEVER)
    model.set_num_updates(0)
    assert warnings() == []
    for update in range(2):
        model.train().set_num_updates(update)
    assert len(warnings()) == 1
    assert "--encoder-layerdrop" in warnings()[0]


def test_layerdrop_on_is_not_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    build_model(*OURS, "--encoder-layerdrop", "0", "--decoder-layerdrop", "0.2").set_num_updates(0)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_the_log_tells_the_asked_and_the_effective_rate(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="fairseq_layerdrop")
    build_model(*OURS, *depth(2), *HALF).train().set_num_updates(0)
    lines = [
        record.getMessage() for record in caplog.records if "effective rate" in record.getMessage()
    ]
    assert [line.split(",")[1].split(":")[0].strip() for line in lines] == ["encoder", "decoder"]
    # Two layers at rate 0.5, at least one of which runs: 4/3 layers a step, that is a rate of 1/3.
    assert all("asked rate 0.5" in line and "effective rate 0.3333" in line for line in lines)


# Layers to keep


@pytest.mark.parametrize("spec", ["0,2", "every:2", "[0, 2]"])
def test_layers_to_keep_from_the_command_line_build_the_small_model(spec: str) -> None:
    model = build_model(*OURS, "--encoder-layers-to-keep", spec, "--decoder-layers-to-keep", spec)
    assert (len(model.encoder.layers), len(model.decoder.layers)) == (2, 2)


@pytest.mark.parametrize("spec", ["1,3", [1, 3], "last:3"])
def test_a_full_state_dict_is_loaded_pruned(spec: str | list[int]) -> None:
    kept = {"1,3": [1, 3], "last:3": [1, 2, 3]}.get(str(spec), [1, 3])
    full = build_model(*OURS)
    cfg = config(*OURS)
    cfg.model.encoder_layers_to_keep = spec
    small = build_task(cfg).build_model(cfg.model)
    small.load_state_dict(full.state_dict(), strict=True, model_cfg=cfg.model)
    assert len(small.encoder.layers) == len(kept)
    for new, old in enumerate(kept):
        assert_same_tensors(
            small.encoder.layers[new].state_dict(), full.encoder.layers[old].state_dict()
        )
    assert_same_tensors(
        small.decoder.state_dict(), full.decoder.state_dict()
    )  # not named: it stays whole


def test_the_small_model_computes_what_the_full_one_does_restricted() -> None:
    full = build_model(*OURS, *HALF).eval()
    small = build_model(
        *OURS, "--encoder-layers-to-keep", "0,3", "--decoder-layers-to-keep", "1"
    ).eval()
    small.load_state_dict(full.state_dict())
    full.encoder.layers.keep, full.decoder.layers.keep = (0, 3), (1,)
    assert torch.equal(small(**batch()["net_input"])[0], full(**batch()["net_input"])[0])


def test_a_small_state_dict_is_not_pruned_again() -> None:
    flags = [*OURS, "--encoder-layers-to-keep", "0,2", "--decoder-layers-to-keep", "1,2"]
    saved, again = build_model(*flags), build_model(*flags, seed=8)
    again.load_state_dict(saved.state_dict())
    assert_same_tensors(again.state_dict(), saved.state_dict())


def test_layers_to_keep_that_do_not_exist_are_refused_by_stack_and_range() -> None:
    with pytest.raises(ValueError, match=r"decoder: .*0-3.*7"):
        build_model(*OURS, "--decoder-layers-to-keep", "0,7")
