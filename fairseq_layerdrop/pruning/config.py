# SPDX-License-Identifier: MIT
"""A checkpoint's configuration: read what the model is, and rewrite it as stock fairseq's.

fairseq stores a configuration as a dictionary of sections (``model``, ``task``, ``common``, …),
some of which may be an ``argparse.Namespace`` of every option there was.
"""

import re
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fairseq_layerdrop.pruning.depth_options import check_depths, cut_indices, cut_options
from fairseq_layerdrop.pruning.plan import STACKS, PruningPlan

_OUR_NAME = re.compile(
    r"layerdrop_(transformer_lm|transformer|roberta|bart"
    r"|translation|language_modeling|masked_lm|sentence_prediction)(_.*)?"
)
_NO_ARCHITECTURE = {"bart": "bart_base"}
"""Models that have no architecture of their own name, and the one to take."""
OUR_FIELD = re.compile(
    r"layerdrop_.*|(sublayer|head|ffn|weight)drop|ffndrop_blocks|share_layers|encoder_keep|decoder_keep|(valid|train)_plans.*"
    r"|distill_.*"
)
_DISTILLATION = "layerdrop_distill"
CRITERION_FIELDS = {
    "label_smoothed_cross_entropy": (
        "label_smoothing",
        "report_accuracy",
        "ignore_prefix_size",
        "sentence_avg",
    ),
    "cross_entropy": ("sentence_avg",),
    "adaptive_loss": ("sentence_avg", "ddp_backend"),
    "masked_lm": ("tpu",),
    "sentence_prediction": (
        *("classification_head_name", "regression_target"),
        *("report_mcc", "report_acc_and_f1", "report_pearson_and_spearman"),
    ),
}
"""The criterions that self-distillation wraps, and their own fields."""
_NAMES = {"_name", "arch", "task", "criterion"}
_SCALARS = (str, bytes, bool, int, float, complex, torch.dtype)
# fairseq's BART reads options that only a Namespace hands on to its code (args.task,
# args.load_checkpoint_heads).
_NEEDS_NAMESPACE = re.compile(r"m?bart(_.*)?")


def model_section(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The model's options, flat.

    Raises:
        ValueError: if the checkpoint has none in the form that fairseq writes since version 0.10.
    """
    cfg = checkpoint.get("cfg")
    model = plain(cfg.get("model")) if isinstance(cfg, Mapping) else None
    if not isinstance(model, dict):
        raise ValueError(
            "the checkpoint has no configuration (options in cfg.model) to build a model from"
        )
    return model


def training_rates(model: Mapping[str, Any]) -> dict[str, float | list[float]]:
    """The LayerDrop rates of a training, by stack: one number, or one for each layer."""
    rates = {stack: of_stack(model, stack) for stack in STACKS}
    found = {stack: section.get(f"{prefix}layerdrop") for stack, (section, prefix) in rates.items()}
    return {stack: _rate(rate) for stack, rate in found.items() if rate is not None}


def _rate(value: Any) -> float | list[float]:
    rates = parse_rates(value)
    return rates[0] if len(rates) == 1 else rates


def parse_rates(value: Any) -> list[float]:
    """The rates in an option: one, or one for each layer (``0,0.1,0.2``, or a list of them)."""
    return [float(part) for part in str(value).strip("[]() ").split(",")]


def architecture(model: Mapping[str, Any]) -> str:
    """The architecture's name."""
    return str(model.get("_name") or model.get("arch"))


def config_style(model: Mapping[str, Any]) -> str:
    """The style in which stock fairseq can load this configuration: plain or namespace."""
    needed = "layerdrop_shapes" not in model and _NEEDS_NAMESPACE.fullmatch(
        stock_name(architecture(model))
    )
    return "namespace" if needed else "plain"


def stock_config(cfg: Mapping[str, Any], plan: PruningPlan) -> dict[str, Any]:
    """The configuration of the pruned model, as stock fairseq writes one, in plain containers.

    Names and fields of this package are taken out, depths are those of the plan, the keep-lists
    ``None`` and the rates 0 (so that fairseq builds an ordinary layer list).

    Args:
        cfg: the source's configuration.
        plan: what stays.

    Raises:
        ValueError: if an option names a layer that the plan removes, or the architecture cannot
        have these depths.
    """
    _check_options(cfg["model"])
    stock: dict[str, Any] = plain(cfg)
    if "layerdrop_min_layers" in stock["model"]:
        stock["model"] = _of_this_package(stock["model"], plan)
    for name in ("model", "task", "criterion"):
        if isinstance(stock.get(name), dict):
            stock[name] = _stock_section(stock[name])
    for section in stock.values():
        if isinstance(section, dict) and "user_dir" in section:
            section["user_dir"] = None
    model = stock["model"]
    check_depths(architecture(model), plan)
    for stack, selection in plan.selections.items():
        section, prefix = of_stack(model, stack)
        cut_options(section, prefix, stack, selection)
        for options in [section] if section is model else [section, model]:
            cut_indices(options, stack, selection)
        section |= {name: None for name in (f"{prefix}layers_to_keep",) if name in section}
        section |= {name: 0.0 for name in (f"{prefix}layerdrop",) if name in section}
    return stock


def _of_this_package(model: dict[str, Any], plan: PruningPlan) -> dict[str, Any]:
    """The options of a model of this package by its own name, if somebody has another for it."""
    if _OUR_NAME.fullmatch(architecture(model)):
        return model
    family = "bart" if "pooler_dropout" in model else "transformer"
    family = "roberta" if plan.decoder is None else family
    family = "transformer_lm" if plan.encoder is None else family
    return {**model, "_name": f"layerdrop_{family}"}


def _check_options(model: Any) -> None:
    """Refuse a model's options that are objects: they cannot be written, and would be lost.

    Raises:
        ValueError: naming them.
    """
    options = vars(model) if isinstance(model, Namespace) else model
    if lost := sorted(str(name) for name, value in options.items() if not is_plain(value)):
        raise ValueError(
            f"the model's options must be plain data to be written, got an object in "
            f"{', '.join(lost)}; save them as text or numbers in the input"
        )


def in_style(cfg: Mapping[str, Any], style: str | None) -> dict[str, Any]:
    """A configuration of plain containers in the style that its reader needs.

    Args:
        cfg: the configuration.
        style: ``plain`` containers, which ``torch.load`` takes with its safe defaults;
            ``namespace`` puts the model's options into an ``argparse.Namespace``, which BART and
            CTranslate2's converter ask for; ``None`` chooses what the model's architecture can
            load.
    """
    model, task = cfg["model"], cfg.get("task")
    if (style or config_style(model)) == "plain":
        return dict(cfg)
    names = {
        "arch": architecture(model),
        "task": task.get("_name") if isinstance(task, dict) else task,
    }
    return {**cfg, "model": Namespace(**names | model)}


def plain(value: Any) -> Any:
    """The same in dictionaries, lists, tuples, tensors and scalars.

    What is none of these is left out of a dictionary, whose readers have defaults, and is ``None``
    elsewhere.
    """
    if isinstance(value, Namespace):
        return plain(vars(value))
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items() if _is_data(item)}
    if isinstance(value, (list, tuple, set)):
        return type(value)(plain(item) for item in value)
    return value if _is_data(value) else None


def is_plain(value: Any) -> bool:
    """Whether there is nothing in a value that :func:`plain` would leave out."""
    if isinstance(value, Namespace):
        return is_plain(vars(value))
    if isinstance(value, Mapping):
        return all(map(is_plain, value.values()))
    return all(map(is_plain, value)) if isinstance(value, (list, tuple, set)) else _is_data(value)


def _is_data(value: Any) -> bool:
    return value is None or isinstance(
        value, (*_SCALARS, Tensor, Namespace, Mapping, list, tuple, set)
    )


def of_stack(model: dict[str, Any] | Mapping[str, Any], stack: str) -> tuple[dict[str, Any], str]:
    """The section that has a stack's options, and what they begin with there; of a list that is
    neither the encoder's nor the decoder's, the model's.

    Flat in all of fairseq's own models (``encoder_layers``); nested where somebody's model has
    fairseq's ``TransformerConfig`` (``encoder: {layers: …}``), or a wav2vec2 or HuBERT model inside
    (``w2v_args``).
    """
    nested, inner = model.get(stack), model.get("w2v_args")
    if isinstance(nested, dict) and "layers" in nested:
        return nested, ""
    if stack == "encoder" and isinstance(inner, dict):
        whole = inner.get("model")
        return whole if isinstance(whole, dict) else inner, f"{stack}_"
    return model, f"{stack}_"  # type: ignore[return-value]


def stock_name(name: str) -> str:
    ours = _OUR_NAME.fullmatch(name)
    return _NO_ARCHITECTURE.get(ours[1], ours[1]) if ours else name


def _stock_section(section: dict[str, Any]) -> dict[str, Any]:
    stock = {key: value for key, value in section.items() if not OUR_FIELD.fullmatch(key)}
    if _OUR_NAME.fullmatch(str(stock.get("_name"))) and "arch" not in stock:
        stock.pop("seed", None)  # the flat model's copy of common.seed, for its masks
    if stock.get("_name") == _DISTILLATION:
        fields = CRITERION_FIELDS[section["distill_criterion"]]
        stock = {key: value for key, value in stock.items() if key in ("_name", *fields)}
    for key in _NAMES & stock.keys():
        name = section["distill_criterion"] if stock[key] == _DISTILLATION else stock[key]
        stock[key] = stock_name(name) if isinstance(name, str) else name
    return stock
