# SPDX-License-Identifier: MIT
"""Options that depend on the depth go with the layers, or are refused by name."""

from typing import Any

import pytest
from builders import config

from fairseq_layerdrop.pruning.config import stock_config
from fairseq_layerdrop.pruning.plan import PruningPlan

SIX = {"encoder": 6, "decoder": 6}


def cut(options: dict[str, Any], encoder: str = "0,3", decoder: str = "0,2,5") -> dict[str, Any]:
    """The model's options with these layers left of 6+6."""
    cfg = config()
    cfg["model"] |= options
    plan = PruningPlan.from_specs({"encoder": encoder, "decoder": decoder}, SIX)
    model: dict[str, Any] = stock_config(cfg, plan)["model"]
    return model


@pytest.mark.parametrize(
    ("name", "full", "small"),
    [
        ("encoder_kernel_size_list", [3, 7, 15, 31, 31, 31], [3, 31]),
        ("decoder_kernel_size_list", (3, 7, 15, 31, 31, 63), (3, 15, 63)),
        ("decoder_kernel_size_list", [3], [3]),  # one for all
        ("adaptive_softmax_cutoff", [1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6]),  # of words
        ("early_exit", "6,6,6", "3,3,3"),
        ("early_exit", "1,3,6", "1,2,3"),
        ("decoder_cross_layers", 4, 2),
        ("adp_trf_idx", "2:5", "1:2"),
        ("adp_trf_idx", "all", "all"),
        ("alignment_layer", 5, 2),
        ("decoder_transformer_layers", 6, 3),
        ("decoder_transformer_layers", 4, 4),  # of another stack
    ],
)
def test_an_option_is_cut_with_the_layers(name: str, full: Any, small: Any) -> None:
    assert cut({name: full})[name] == small


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"early_exit": "1,3,6"}, r"--early-exit.*got 1,2,5"),
        ({"alignment_layer": 4}, "layer 4's attention"),
        ({"_name": "lstm"}, "an LSTM's encoder and decoder have the same depth"),
        ({"_name": "roberta_enc_dec"}, "as deep as its encoder: .* got 2 and 3"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        cut(options, decoder="1,2,5")


def test_an_architecture_of_ones_own_for_a_model_of_this_package_becomes_stock() -> None:
    cfg = config(ours=True)
    cfg["model"]["_name"] = "my_transformer"
    model = stock_config(cfg, PruningPlan.from_specs({}, SIX))["model"]
    assert model["_name"] == "transformer"
    assert not [name for name in model if name.startswith("layerdrop_") or name == "seed"]
