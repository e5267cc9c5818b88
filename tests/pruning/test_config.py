# SPDX-License-Identifier: MIT
"""The configuration of a pruned checkpoint is one that stock fairseq could have written."""

import copy
import shlex
from argparse import Namespace
from collections.abc import Iterator
from typing import Any

import pytest
from builders import config, family_checkpoint
from fairseq.models import ARCH_MODEL_INV_REGISTRY
from fairseq_programs import config as parsed

from fairseq_layerdrop.pruning.config import (
    architecture,
    config_style,
    in_style,
    model_section,
    plain,
    stock_config,
    training_rates,
)
from fairseq_layerdrop.pruning.flags import model_flags
from fairseq_layerdrop.pruning.plan import PruningPlan

PLAN = PruningPlan.parse("0,2,4/5", {"encoder": 6, "decoder": 6})


def written(cfg: dict[str, Any], style: str | None = None) -> dict[str, Any]:
    """The configuration of a pruned model as it is in its file."""
    return in_style(stock_config(cfg, PLAN), style)


SOURCES = [
    {"ours": ours, "namespace": namespace} for ours in (False, True) for namespace in (False, True)
]


def walk(value: Any) -> Iterator[Any]:
    """Everything in nested containers, the containers too."""
    yield value
    items = (
        value.values()
        if isinstance(value, dict)
        else value
        if isinstance(value, (list, tuple))
        else ()
    )
    for item in items:
        yield from walk(item)


@pytest.fixture(params=SOURCES, ids=str)
def stock(request: pytest.FixtureRequest) -> dict[str, Any]:
    return stock_config(config(**request.param), PLAN)


def test_names_and_fields_of_ours_are_gone(stock: dict[str, Any]) -> None:
    keys = {key for value in walk(stock) if isinstance(value, dict) for key in value}
    assert {key for key in keys if key.startswith("layerdrop")} == set()
    assert keys & {"encoder_keep", "decoder_keep", "valid_plans"} == set()
    names = [
        section.get(name)
        for section in stock.values()
        if section
        for name in ("_name", "arch", "task")
    ]
    assert not any("layerdrop" in str(name) for name in names)


def test_stock_names_take_their_place(stock: dict[str, Any]) -> None:
    assert stock["model"]["_name"] == "transformer"
    assert stock["model"].get("arch", "transformer") == "transformer"
    assert stock["model"].get("task", "translation") == "translation"
    assert stock["task"]["_name"] == "translation"
    assert stock["criterion"]["_name"] == "cross_entropy"


def test_depths_are_the_plans_and_nothing_is_left_to_keep_or_drop(stock: dict[str, Any]) -> None:
    model = stock["model"]
    assert (model["encoder_layers"], model["decoder_layers"]) == (3, 1)
    assert (model["encoder_layers_to_keep"], model["decoder_layers_to_keep"]) == (None, None)
    assert (model["encoder_layerdrop"], model["decoder_layerdrop"]) == (0.0, 0.0)


def test_no_section_knows_a_user_dir(stock: dict[str, Any]) -> None:
    assert [
        value["user_dir"]
        for value in walk(stock)
        if isinstance(value, dict) and value.get("user_dir")
    ] == []


def test_everything_is_plain(stock: dict[str, Any]) -> None:
    assert {type(value) for value in walk(stock)} <= {
        dict,
        list,
        tuple,
        str,
        int,
        float,
        bool,
        type(None),
    }


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_the_namespace_style_differs_in_the_models_section_alone(source: dict[str, bool]) -> None:
    styled, flat = written(config(**source), "namespace"), stock_config(config(**source), PLAN)
    assert isinstance(styled["model"], Namespace)
    # What reads a Namespace (BART, CTranslate2) asks it for the names, too.
    names = {"arch": "transformer", "task": "translation"}
    assert vars(styled["model"]) == names | flat["model"]
    assert {k: v for k, v in styled.items() if k != "model"} == {
        k: v for k, v in flat.items() if k != "model"
    }


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_the_source_is_not_changed(source: dict[str, bool]) -> None:
    cfg = config(**source)
    before = copy.deepcopy(cfg)
    stock_config(cfg, PLAN)
    assert cfg == before


@pytest.mark.parametrize("ours", [False, True])
def test_a_namespace_keeps_its_own_fields(ours: bool) -> None:
    model = stock_config(config(ours=ours, namespace=True), PLAN)["model"]
    assert (model["seed"], model["save_dir"], model["dropout"]) == (3, "layerdrop_transformer", 0.1)


def test_the_other_sections_are_copied() -> None:
    stock = stock_config(config(ours=True), PLAN)
    assert stock["checkpoint"] == {"_name": None, "save_dir": "layerdrop_transformer"}
    assert stock["common"] == {"_name": None, "seed": 7, "user_dir": None, "log_format": "json"}
    assert stock["optimizer"] == {"_name": "adam", "adam_betas": "(0.9, 0.98)", "lr": [0.001]}


def test_our_models_copy_of_the_seed_goes() -> None:
    assert "seed" not in stock_config(config(ours=True), PLAN)["model"]


@pytest.mark.parametrize("preset", ["", "_iwslt_de_en", "_wmt_en_de_big", "_wmt_en_de_big_12_6"])
def test_a_preset_of_ours_becomes_the_model_itself_for_its_sizes_are_in_the_options(
    preset: str,
) -> None:
    cfg = config(ours=True)
    cfg["model"]["_name"] = f"layerdrop_transformer{preset}"
    assert architecture(stock_config(cfg, PLAN)["model"]) == "transformer"


def test_another_librarys_names_are_left_alone() -> None:
    cfg = config()
    cfg["task"]["_name"] = "my_layerdrop_translation"
    assert stock_config(cfg, PLAN)["task"]["_name"] == "my_layerdrop_translation"


def test_a_model_of_one_stack_gets_the_options_of_that_stack() -> None:
    plan = PruningPlan.parse("0,4", {"decoder": 8})
    model = stock_config(config(encoder=0, decoder=8), plan)["model"]
    assert model["decoder_layers"] == 2
    assert [key for key in model if key.startswith("encoder")] == []


def test_a_second_pass_changes_nothing() -> None:
    once = stock_config(config(ours=True), PLAN)
    whole = PruningPlan.parse("all/all", {"encoder": 3, "decoder": 1})
    assert stock_config(once, whole) == once


@pytest.mark.parametrize(
    "checkpoint", [{}, {"cfg": None}, {"cfg": {}}, {"cfg": {"model": None}}, {"args": Namespace()}]
)
def test_a_checkpoint_without_configuration_is_refused(checkpoint: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no configuration"):
        model_section(checkpoint)


@pytest.mark.parametrize("namespace", [False, True])
def test_rates_and_architecture_are_read_from_either_form(namespace: bool) -> None:
    model = model_section({"cfg": config(ours=True, namespace=namespace)})
    assert training_rates(model) == {"encoder": 0.2, "decoder": 0.3}
    assert architecture(model) == "layerdrop_transformer"


def test_a_model_that_knows_no_layerdrop_has_no_rates() -> None:
    assert training_rates({"_name": "transformer", "encoder_layerdrop": None}) == {}


def test_plain_reaches_into_everything() -> None:
    nested = {"a": Namespace(b=[Namespace(c=1), (Namespace(d=None), 2.0)])}
    assert plain(nested) == {"a": {"b": [{"c": 1}, ({"d": None}, 2.0)]}}


# The layer of the alignment


def aligned(layer: Any, spec: str = "0,2,4,5", **stacks: int) -> dict[str, Any]:
    """The options of a model with an alignment layer, pruned to these layers of its decoder."""
    cfg = config(**stacks)
    cfg["model"] |= {"_name": "transformer_align", "alignment_layer": layer}
    depths = {stack: n for stack, n in {"encoder": 6, "decoder": 6, **stacks}.items() if n}
    return stock_config(
        cfg, PruningPlan.from_specs({"decoder": spec} if "decoder" in depths else {}, depths)
    )["model"]


@pytest.mark.parametrize(("layer", "new"), [(0, 0), (2, 1), (4, 2), (5, 3)])
def test_the_alignment_is_that_of_the_same_layer_at_its_new_place(layer: int, new: int) -> None:
    model = aligned(layer)
    assert (model["alignment_layer"], model["decoder_layers"]) == (new, 4)


@pytest.mark.parametrize("layer", [1, 3])
def test_a_plan_that_removes_the_layer_of_the_alignment_is_refused(layer: int) -> None:
    with pytest.raises(ValueError) as error:
        aligned(layer)
    wanted = f"decoder: the alignment is layer {layer}'s attention, so it must stay; got 0,2,4,5"
    assert str(error.value) == wanted


@pytest.mark.parametrize("layer", [6, 9, -1, None], ids=str)
def test_an_alignment_that_is_no_layers_is_left_alone(layer: int | None) -> None:
    assert aligned(layer)["alignment_layer"] == layer


@pytest.mark.parametrize("layer", range(6))
def test_a_whole_decoder_keeps_its_alignment(layer: int) -> None:
    assert aligned(layer, "all")["alignment_layer"] == layer


def test_a_model_without_a_decoder_has_no_alignment_to_lose() -> None:
    assert aligned(4, encoder=6, decoder=0)["alignment_layer"] == 4


def test_an_alignment_is_moved_twice_by_two_prunings() -> None:
    cfg = config()
    cfg["model"]["alignment_layer"] = 4
    once = stock_config(cfg, PruningPlan.parse("all/1,2,4,5", {"encoder": 6, "decoder": 6}))
    twice = stock_config(once, PruningPlan.parse("all/2,3", {"encoder": 6, "decoder": 4}))
    assert (once["model"]["alignment_layer"], twice["model"]["alignment_layer"]) == (2, 0)


# Options elsewhere than in the model's own section


def nested() -> dict[str, Any]:
    """The options of a model with fairseq's ``TransformerConfig``: a section a stack."""
    stacks = {
        stack: {"layers": 6, "embed_dim": 4, "layerdrop": rate, "layers_to_keep": [0, 1]}
        for stack, rate in (("encoder", 0.2), ("decoder", 0.3))
    }
    return {
        "model": {"_name": "my_transformer", "dropout": 0.1, **stacks},
        "task": {"_name": "translation"},
    }


def test_options_in_a_section_a_stack_stay_there() -> None:
    model = stock_config(nested(), PLAN)["model"]
    assert model == {
        "_name": "my_transformer",
        "dropout": 0.1,
        "encoder": {"layers": 3, "embed_dim": 4, "layerdrop": 0.0, "layers_to_keep": None},
        "decoder": {"layers": 1, "embed_dim": 4, "layerdrop": 0.0, "layers_to_keep": None},
    }


def test_rates_are_read_from_a_section_a_stack() -> None:
    assert training_rates(nested()["model"]) == {"encoder": 0.2, "decoder": 0.3}


@pytest.mark.parametrize("other", ["a name", {"adaptor": 3}, None], ids=str)
def test_what_is_only_called_like_a_stack_is_left_alone(other: Any) -> None:
    cfg = config()
    cfg["model"]["encoder"] = copy.deepcopy(other)
    model = stock_config(cfg, PLAN)["model"]
    assert (model["encoder"], model["encoder_layers"]) == (other, 3)


@pytest.mark.parametrize("namespace", [False, True])
@pytest.mark.parametrize("family", ["wav2vec_ctc", "wav2vec_seq2seq"])
def test_the_encoder_of_a_model_within_has_its_options_there(family: str, namespace: bool) -> None:
    cfg = family_checkpoint(family)["cfg"]
    outer = {key: value for key, value in cfg["model"].items() if key.startswith("decoder")}
    assert training_rates(cfg["model"]) == (
        {"encoder": 0.2, "decoder": 0.3} if outer else {"encoder": 0.2}
    )
    if namespace:
        cfg["model"] = Namespace(**cfg["model"])
    specs, depths = {"encoder": "0,2,4", "decoder": "5"}, {"encoder": 6, "decoder": 6}
    stacks = ["encoder", "decoder"] if outer else ["encoder"]
    plan = PruningPlan.from_specs({s: specs[s] for s in stacks}, {s: depths[s] for s in stacks})
    model = stock_config(cfg, plan)["model"]
    inner = model["w2v_args"]["model"]
    assert (
        inner["encoder_layers"],
        inner["encoder_layerdrop"],
        inner["encoder_layers_to_keep"],
    ) == (3, 0.0, None)
    assert inner["_name"] == "wav2vec2"
    assert {key: value for key, value in model.items() if key.startswith("encoder")} == {}
    told = {"decoder_layers": 1, "decoder_layerdrop": 0.0, "decoder_layers_to_keep": None}
    assert {key: model[key] for key in told if key in model} == (told if outer else {})


def test_a_model_within_whose_options_are_flat_has_them_there() -> None:
    cfg = {
        "model": {"_name": "wav2vec_ctc", "w2v_args": {"arch": "wav2vec2", "encoder_layers": 6}},
        "task": None,
    }
    model = stock_config(cfg, PruningPlan.parse("0,1", {"encoder": 6}))["model"]
    assert model["w2v_args"] == {"arch": "wav2vec2", "encoder_layers": 2}


# The style that a family can load


def named(name: str, task: Any = None) -> dict[str, Any]:
    cfg = config()
    cfg["model"]["_name"] = name
    return cfg | ({"task": task} if task else {})


@pytest.mark.parametrize(
    "name", ["bart_large", "mbart_large", "layerdrop_bart", "layerdrop_bart_base"]
)
def test_bart_gets_a_namespace_unless_plain_is_asked_for(name: str) -> None:
    asked, unasked = (written(named(name), style)["model"] for style in ("plain", None))
    assert (type(asked), type(unasked)) == (dict, Namespace)
    assert vars(unasked) == {"arch": asked["_name"], "task": "translation"} | asked


@pytest.mark.parametrize("style", ["plain", "namespace"])
@pytest.mark.parametrize("name", ["transformer", "bart_large", "roberta"])
def test_the_style_that_is_asked_for_is_the_one(name: str, style: str) -> None:
    kind = {"plain": dict, "namespace": Namespace}[style]
    assert type(written(named(name), style)["model"]) is kind


@pytest.mark.parametrize("name", ["bartender", "my_bart", "mmbart", "transformer_bart"])
def test_a_model_that_is_only_called_like_bart_is_plain(name: str) -> None:
    assert config_style({"_name": name}) == "plain"


STYLE_OF = {
    "bart": "namespace",
    "transformer": "plain",
    "transformer_lm": "plain",
    "roberta": "plain",
}


@pytest.mark.parametrize("model", STYLE_OF)
def test_every_architecture_of_a_family_has_its_style(model: str) -> None:
    architectures = ARCH_MODEL_INV_REGISTRY[model]
    assert len(architectures) > 3
    ours = ARCH_MODEL_INV_REGISTRY.get(f"layerdrop_{model}", [])
    styles = {name: config_style({"_name": name}) for name in [model, *architectures, *ours]}
    assert styles == dict.fromkeys(styles, STYLE_OF[model])


@pytest.mark.parametrize("name", ["layerdrop_bart", "layerdrop_bart_base", "layerdrop_bart_large"])
def test_our_bart_becomes_an_architecture_that_there_is(name: str) -> None:
    model = written(named(name))["model"]
    assert (model._name, model.arch) == ("bart_base", "bart_base")
    assert model.arch in ARCH_MODEL_INV_REGISTRY["bart"]


@pytest.mark.parametrize("kind", ["roberta", "roberta_base", "roberta_large", "roberta_large_48"])
def test_our_roberta_becomes_roberta(kind: str) -> None:
    tasks = {
        "masked_lm": {"_name": "layerdrop_masked_lm"},
        "sentence_prediction": {"_name": "layerdrop_sentence_prediction"},
    }
    for task, section in tasks.items():
        stock = stock_config(named(f"layerdrop_{kind}", section), PLAN)
        assert (stock["model"]["_name"], stock["task"]["_name"]) == ("roberta", task)


@pytest.mark.parametrize("task", [{"_name": "denoising"}, "denoising"], ids=str)
def test_a_namespace_has_the_names_of_architecture_and_task(task: Any) -> None:
    model = written(named("bart_large", task))["model"]
    assert (model.arch, model.task) == ("bart_large", "denoising")


def test_a_namespace_keeps_the_names_that_it_has() -> None:
    cfg = config(ours=True, namespace=True)
    cfg["model"].arch = "layerdrop_transformer_iwslt_de_en"
    model = written(cfg, "namespace")["model"]
    assert (model.arch, model.task, model._name) == ("transformer", "translation", "transformer")


# Flags to train on


def options_of(*flags: str) -> dict[str, Any]:
    """What ``fairseq-train`` makes of the flags of a model."""
    return plain(parsed(*flags).model)


MASKED, PLAIN_LM = ("--task", "masked_lm"), ("--task", "language_modeling")
TINY = ("--encoder-layers", "3", "--encoder-embed-dim", "24", "--encoder-ffn-embed-dim", "40")
REGULARISED = (
    "--activation-fn",
    "gelu",
    "--dropout",
    "0.3",
    "--attention-dropout",
    "0.2",
    "--activation-dropout",
    "0.15",
)
POOLED = ("--pooler-activation-fn", "relu", "--pooler-dropout", "0.25")
LONG = ("--max-source-positions", "90", "--max-target-positions", "80")
ADAPTIVE = (
    "--adaptive-softmax-cutoff",
    "8,12",
    "--adaptive-softmax-dropout",
    "0.1",
    "--adaptive-softmax-factor",
    "2",
)
ADAPTIVE_INPUT = (
    "--adaptive-input",
    "--adaptive-input-cutoff",
    "8,12",
    "--adaptive-input-factor",
    "2",
)
NOISE = (
    "--quant-noise-pq",
    "0.1",
    "--quant-noise-pq-block-size",
    "4",
    "--quant-noise-scalar",
    "0.1",
)
CHARACTERS = (
    "--character-embeddings",
    "--character-filters",
    "[(1, 4), (2, 8)]",
    "--character-embedding-dim",
    "6",
)
MODELS = {
    "changed transformer": (
        "transformer",
        (),
        (
            *TINY,
            *REGULARISED,
            *LONG,
            *ADAPTIVE,
            *NOISE,
            "--decoder-output-dim",
            "20",
            "--merge-src-tgt-embed",
        ),
    ),
    "changed roberta": (
        "roberta",
        MASKED,
        (*TINY, *REGULARISED, *POOLED, "--spectral-norm-classification-head"),
    ),
    "changed bart": ("bart_base", (), (*TINY, *REGULARISED, *POOLED, *LONG)),
    "changed transformer_lm": (
        "transformer_lm",
        PLAIN_LM,
        (
            *REGULARISED,
            *ADAPTIVE,
            *ADAPTIVE_INPUT,
            "--decoder-input-dim",
            "24",
            "--decoder-output-dim",
            "20",
        ),
    ),
    "characters": (
        "transformer_lm",
        PLAIN_LM,
        (*CHARACTERS, "--char-embedder-highway-layers", "1", "--scale-heads"),
    ),
    "changed multilingual": (
        "multilingual_transformer",
        ("--task", "multilingual_translation"),
        (*TINY, "--share-encoders", "--share-decoder-embeddings"),
    ),
    "roberta": ("roberta", MASKED, ("--untie-weights-roberta", *TINY)),
    "roberta_base": (
        "roberta_base",
        MASKED,
        ("--encoder-normalize-before", "--encoder-attention-heads", "2"),
    ),
    "roberta_prenorm": ("roberta_prenorm", MASKED, TINY),
    "xlm": ("xlm", MASKED, ()),
    "transformer_align": (
        "transformer_align",
        (),
        ("--alignment-layer", "2", "--share-all-embeddings"),
    ),
    "transformer": (
        "transformer_iwslt_de_en",
        (),
        ("--decoder-learned-pos", "--layernorm-embedding", *TINY),
    ),
    "transformer_lm": (
        "transformer_lm",
        PLAIN_LM,
        ("--decoder-layers", "2", "--share-decoder-input-output-embed"),
    ),
    "transformer_lm_gpt2": ("transformer_lm_gpt2_small", PLAIN_LM, ("--decoder-layers", "2")),
    "bart": ("bart_base", (), ("--decoder-layers", "2", "--encoder-normalize-before")),
    "mbart": ("mbart_large", (), ()),
    "multilingual": ("multilingual_transformer", ("--task", "multilingual_translation"), TINY),
}


@pytest.mark.parametrize("case", MODELS)
def test_the_flags_of_a_model_make_the_same_model_in_fairseq(case: str) -> None:
    name, task, flags = MODELS[case]
    model = options_of("--arch", name, *task, *flags)
    assert options_of(*shlex.split(model_flags(model)), *task) == model


def test_the_flags_of_a_pruned_alignment_name_its_new_layer() -> None:
    model = options_of("--arch", "transformer_align", "--alignment-layer", "4")
    plan = PruningPlan.parse("all/0,4", {"encoder": 6, "decoder": 6})
    small = stock_config({"model": model}, plan)["model"]
    assert "--alignment-layer 1" in model_flags(small)
    assert options_of(*shlex.split(model_flags(small)))["alignment_layer"] == 1


def test_only_a_model_with_an_alignment_has_its_flag() -> None:
    assert "alignment" not in model_flags(config()["model"])
