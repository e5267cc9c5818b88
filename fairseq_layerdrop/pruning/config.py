# SPDX-License-Identifier: MIT
"""A checkpoint's configuration: read what the model is, and rewrite it as stock fairseq's.

fairseq stores a configuration as a dictionary of sections (``model``, ``task``, ``common``, …), some of
which may be an ``argparse.Namespace`` of every option there was.
"""

import re
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fairseq_layerdrop.pruning.plan import PruningPlan

_OUR_NAME = re.compile(r"layerdrop_(transformer_lm|transformer|translation|language_modeling)(_.*)?")
_OUR_FIELD = re.compile(r"layerdrop_.*|encoder_keep|decoder_keep|valid_plans")
_NAMES = {"_name", "arch", "task", "criterion"}
_SIZES = [
    f"{stack}_{size}"
    for stack in ("encoder", "decoder")
    for size in ("layers", "embed_dim", "ffn_embed_dim", "attention_heads")
]
_FORMS = [
    *(f"{stack}_{form}" for stack in ("encoder", "decoder") for form in ("normalize_before", "learned_pos")),
    *("share_decoder_input_output_embed", "share_all_embeddings", "layernorm_embedding", "no_scale_embedding"),
    *("no_token_positional_embeddings", "no_cross_attention", "cross_self_attention", "no_decoder_final_norm"),
]
_RATES = ("encoder_layerdrop", "decoder_layerdrop")


def model_section(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The model's options, flat.

    Raises:
        ValueError: if the checkpoint has none in the form that fairseq writes since version 0.10.
    """
    cfg = checkpoint.get("cfg")
    model = plain(cfg.get("model")) if isinstance(cfg, Mapping) else None
    if not isinstance(model, dict):
        raise ValueError("the checkpoint has no configuration (options in cfg.model) to build a model from")
    return model


def training_rates(model: Mapping[str, Any]) -> dict[str, float]:
    """The LayerDrop rates that a model was trained with, by stack."""
    return {name.partition("_")[0]: float(model[name]) for name in _RATES if model.get(name) is not None}


def architecture(model: Mapping[str, Any]) -> str:
    """The architecture's name."""
    return str(model.get("_name") or model.get("arch"))


def model_flags(model: Mapping[str, Any]) -> str:
    """The flags of ``fairseq-train`` that build this model: its architecture, sizes and form."""
    flags = [f"--arch {architecture(model)}"]
    flags += [f"{_flag(name)} {model[name]}" for name in _SIZES if model.get(name) is not None]
    flags += [_flag(name) for name in _FORMS if model.get(name)]
    return " ".join(flags)


def stock_config(cfg: Mapping[str, Any], plan: PruningPlan, *, style: str = "plain") -> dict[str, Any]:
    """The configuration of the pruned model, as stock fairseq writes one.

    Names and fields of this package are taken out, depths are those of the plan, the keep-lists ``None`` and
    the rates 0 (so that fairseq builds an ordinary layer list).

    Args:
        cfg: the source's configuration.
        plan: what stays.
        style: ``plain`` containers, which ``torch.load`` takes with its safe defaults; ``namespace`` puts the
            model's options into an ``argparse.Namespace``, which CTranslate2's converter asks for.
    """
    stock: dict[str, Any] = plain(cfg)
    for name in ("model", "task", "criterion"):
        if isinstance(stock.get(name), dict):
            stock[name] = _stock_section(stock[name])
    for section in stock.values():
        if isinstance(section, dict) and "user_dir" in section:
            section["user_dir"] = None
    model = stock["model"]
    for stack, selection in plan.selections.items():
        model[f"{stack}_layers"] = len(selection.kept)
        model[f"{stack}_layers_to_keep"] = None
    model.update({name: 0.0 for name in _RATES if name in model})
    if style == "namespace":
        stock["model"] = Namespace(**model)
    return stock


def plain(value: Any) -> Any:
    """The same in dictionaries, lists, tuples, tensors and scalars; what is none of these becomes ``None``."""
    if isinstance(value, Namespace):
        return plain(vars(value))
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(plain(item) for item in value)
    return value if value is None or isinstance(value, (str, bool, int, float, Tensor)) else None


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _stock_section(section: dict[str, Any]) -> dict[str, Any]:
    stock = {key: value for key, value in section.items() if not _OUR_FIELD.fullmatch(key)}
    if _OUR_NAME.fullmatch(str(stock.get("_name"))) and "arch" not in stock:
        stock.pop("seed", None)  # the flat model's copy of common.seed, for its masks
    for key in _NAMES & stock.keys():
        ours = _OUR_NAME.fullmatch(str(stock[key]))
        stock[key] = ours[1] if ours else stock[key]
    return stock
