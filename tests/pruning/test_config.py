# SPDX-License-Identifier: MIT
"""The configuration of a pruned checkpoint is one that stock fairseq could have written."""

import copy
from argparse import Namespace
from collections.abc import Iterator
from typing import Any

import pytest
from builders import config

from fairseq_layerdrop.pruning.config import architecture, model_section, plain, stock_config, training_rates
from fairseq_layerdrop.pruning.plan import PruningPlan

PLAN = PruningPlan.parse("0,2,4/5", {"encoder": 6, "decoder": 6})

SOURCES = [{"ours": ours, "namespace": namespace} for ours in (False, True) for namespace in (False, True)]


def walk(value: Any) -> Iterator[Any]:
    """Everything in nested containers, the containers too."""
    yield value
    items = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    for item in items:
        yield from walk(item)


@pytest.fixture(params=SOURCES, ids=str)
def stock(request: pytest.FixtureRequest) -> dict[str, Any]:
    return stock_config(config(**request.param), PLAN)


def test_names_and_fields_of_ours_are_gone(stock: dict[str, Any]) -> None:
    keys = {key for value in walk(stock) if isinstance(value, dict) for key in value}
    assert {key for key in keys if key.startswith("layerdrop")} == set()
    assert keys & {"encoder_keep", "decoder_keep", "valid_plans"} == set()
    names = [section.get(name) for section in stock.values() if section for name in ("_name", "arch", "task")]
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
    assert [value["user_dir"] for value in walk(stock) if isinstance(value, dict) and value.get("user_dir")] == []


def test_everything_is_plain(stock: dict[str, Any]) -> None:
    assert {type(value) for value in walk(stock)} <= {dict, list, tuple, str, int, float, bool, type(None)}


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_the_namespace_style_differs_in_the_models_section_alone(source: dict[str, bool]) -> None:
    styled, flat = stock_config(config(**source), PLAN, style="namespace"), stock_config(config(**source), PLAN)
    assert isinstance(styled["model"], Namespace)
    # What reads a Namespace (BART, CTranslate2) asks it for the names, too.
    names = {"arch": "transformer", "task": "translation"}
    assert vars(styled["model"]) == names | flat["model"]
    assert {k: v for k, v in styled.items() if k != "model"} == {k: v for k, v in flat.items() if k != "model"}


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
def test_a_preset_of_ours_becomes_the_model_itself_for_its_sizes_are_in_the_options(preset: str) -> None:
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
