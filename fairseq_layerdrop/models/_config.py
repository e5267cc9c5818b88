# SPDX-License-Identifier: MIT
"""Flat configurations of models that are nested in fairseq, with LayerDrop's fields.

fairseq's ``TransformerConfig`` cannot be extended: its subclasses break the command line, and it
redirects every name that begins with ``encoder_``. A flat dataclass, as stock ``transformer_lm``
has one, works from the command line and from hydra, and saves a configuration that ``torch.load``
takes with its safe defaults. The flat fields are read off fairseq's dataclass, or off the flags of
a model that has none; none is copied by hand.
"""

import dataclasses
import inspect
import sys
from argparse import SUPPRESS, Action, ArgumentParser, Namespace, _StoreFalseAction
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple, Type

from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.dataclass.utils import gen_parser_from_dataclass
from fairseq.models import ARCH_MODEL_NAME_REGISTRY
from hydra.core.hydra_config import HydraConfig
from omegaconf import II

from fairseq_layerdrop.pruning.plan import STACKS


@dataclass
class LayerDropConfig(FairseqDataclass):
    """What LayerDrop adds to every model's configuration."""

    layerdrop_min_layers: int = field(
        default=1,
        metadata={
            "help": "at least N layers of each stack run in every training step; 0: possibly none"
        },
    )
    layerdrop_schedule: str = field(
        default="uniform",
        metadata={
            "help": "uniform: one rate for all layers (the paper); linear: it grows with depth "
            "to the rate at the last layer; exponential: it does so from 0 at the first layer, "
            "ever faster (LayerSkip); learned: each layer learns its own, their mean is the rate "
            "(Data Driven Pruning)"
        },
    )
    layerdrop_warmup_updates: int = field(
        default=0, metadata={"help": "all drop rates grow from 0 over N updates (default: 0)"}
    )
    layerdrop_ranks: str = field(
        default="global",
        metadata={
            "help": "in several processes, global: all drop the same layers in a step; own: each "
            "draws for itself (default: global)"
        },
    )
    sublayerdrop: float = field(
        default=0.0,
        metadata={
            "help": "probability in [0, 1] that a sub-layer (attention, FFN) is skipped in a "
            "training step"
        },
    )
    headdrop: float = field(
        default=0.0,
        metadata={
            "help": "probability in [0, 1] that an attention head is dropped in a training step"
        },
    )
    ffndrop: float = field(
        default=0.0,
        metadata={
            "help": "probability in [0, 1] that a block of an FFN is dropped in a training step"
        },
    )
    ffndrop_blocks: int = field(
        default=2,
        metadata={"help": "the number of blocks of an FFN (default: 2, the paper's Half FFN)"},
    )
    weightdrop: float = field(
        default=0.0,
        metadata={
            "help": "probability in [0, 1] that a single weight is dropped in a training step "
            "(DropConnect)"
        },
    )
    share_layers: int = field(
        default=1,
        metadata={"help": "N neighbouring layers share their weights (default: 1, none do)"},
    )
    layerdrop_shapes: Optional[str] = field(
        default=None,
        metadata={
            "help": "heads and FFN units of each layer, of a model pruned below the layer "
            "(written by prune)"
        },
    )
    seed: int = II("common.seed")


_BOTH_STACKS = {
    f"{stack}_{name}"
    for stack in ("encoder", "decoder")
    for name in ("layerdrop", "layers_to_keep")
}

PAPER_RATE = 0.2
"""The paper's rate in all its experiments (section 4); 0.5 where very small models are the aim."""


def paper_rates(args: Any, *stacks: str) -> None:
    """Give an architecture's stacks, or both, the paper's rate, unless another is asked for."""
    for stack in stacks or STACKS:
        name = f"{stack}_layerdrop"
        setattr(args, name, getattr(args, name, PAPER_RATE))


def flat_config(
    name: str,
    config: Optional[Type[FairseqDataclass]] = None,
    *,
    flags: Any = None,
    architecture: Any = None,
    **overrides: Tuple[Any, Any],
) -> Type[LayerDropConfig]:
    """A configuration with the fields of fairseq's, nested ones flat, and those of LayerDrop.

    Both rates default to the paper's.

    Args:
        name: of the dataclass.
        config: fairseq's, for a model that has one.
        flags: the ``add_args`` of a model that has flags instead, or besides.
        architecture: fairseq's function whose values become the defaults.
        overrides: replace other fields by a type and a default.
    """
    for stack in ("encoder", "decoder"):
        overrides[f"{stack}_layerdrop"] = (Any, _rate(stack))
        overrides[f"{stack}_layers_to_keep"] = (Any, _keep(stack))
    fields = {key: (kind, default) for key, kind, default in _flat_fields(config)} if config else {}
    if flags:
        fields = {**_flag_fields(flags), **fields}
    if architecture:
        values = Namespace()
        architecture(values)
        for key, value in vars(values).items():
            if key in fields:
                kind, default = fields[key]
                fields[key] = (kind, field(default=value, metadata=dict(default.metadata)))
    fields.update(
        {key: overrides[key] for key in overrides if key in fields or key not in _BOTH_STACKS}
    )
    return dataclasses.make_dataclass(
        name, [(k, *f) for k, f in fields.items()], bases=(LayerDropConfig,)
    )


def add_flags(parser: Any, config: Type[LayerDropConfig]) -> None:
    """Add a configuration's flags; defaults come later, so that an architecture can set them.

    A flag without a value always means yes: fairseq's generator lets it mean no where the default
    is yes.
    """
    gen_parser_from_dataclass(parser, config(), delete_default=True)
    names = {f.name for f in dataclasses.fields(config)}
    for action in parser._actions:
        if action.dest in names and isinstance(action, _StoreFalseAction):
            action.const = True
        if action.dest in ("encoder_layerdrop", "decoder_layerdrop"):
            action.type = _number_or_list


def _number_or_list(text: str) -> Any:
    return text if "," in text else float(text)


def refuse_preset(cfg: Any) -> None:
    """Refuse an architecture in a hydra run: fairseq-hydra-train reads none of its values.

    On the command line, and in what it wrote, an architecture's values have been filled in.

    Raises:
        ValueError: with the name to use instead.
    """
    programs = {Path(sys.argv[0]).stem}  # in the processes that it starts, too
    if HydraConfig.initialized():
        programs.add(HydraConfig.get().job.name)  # where a cluster's launcher started it
    model = ARCH_MODEL_NAME_REGISTRY.get(cfg._name, cfg._name)
    if model != cfg._name and programs & {"fairseq-hydra-train", "hydra_train"}:
        raise ValueError(
            f"model._name={cfg._name} is an architecture, whose values fairseq-hydra-train "
            f"ignores: set model._name={model} and spell them out, as the files in configs/model/ "
            "do"
        )


def follows(other: str, text: Optional[str] = None) -> Any:
    """A field that takes another one's value unless it is set; without a text it is not a flag."""
    return field(default=II(f"model.{other}"), metadata={"help": text} if text else {})


def _flat_fields(config: type, prefix: str = "") -> List[Tuple[str, Any, Any]]:
    flat = []
    for f in dataclasses.fields(config):
        if f.name == "_name":
            continue
        if inspect.isclass(f.type) and issubclass(f.type, FairseqDataclass):
            flat += _flat_fields(f.type, f"{prefix}{f.name}_")
        else:
            metadata = dict(f.metadata)
            if prefix and "help" in metadata:
                metadata["help"] = f"{prefix.rstrip('_')}: {metadata['help']}"
            flat.append((prefix + f.name, f.type, field(default=f.default, metadata=metadata)))
    return flat


def _flag_fields(add_args: Any) -> Dict[str, Tuple[Any, Any]]:
    parser = ArgumentParser(add_help=False, argument_default=SUPPRESS)
    add_args(parser)
    found = {}
    for action in parser._actions:
        kind = _type_of(action)
        default = None if action.default is SUPPRESS else action.default
        if kind is bool:
            default = False
        found[action.dest] = (
            kind if default is not None else Optional[kind],
            field(default=default, metadata={"help": action.help}),
        )
    return found


def _type_of(action: Action) -> Any:
    if action.nargs == 0:
        return bool
    if action.type:
        return action.type
    return ChoiceEnum(action.choices) if action.choices else str


def _rate(stack: str) -> Any:
    return field(
        default=PAPER_RATE,
        metadata={
            "help": f"LayerDrop: probability in [0, 1] that a layer of the {stack} is skipped in "
            "a training step, or one for each layer, e.g. 0,0.1,0.2,0.3 (evaluation runs every "
            f"layer; default: {PAPER_RATE})"
        },
    )


def _keep(stack: str) -> Any:
    return field(
        default=None,
        metadata={
            "help": f"layers of the {stack} to keep when a deeper checkpoint is loaded, e.g. "
            "0,2,4 or every:2"
        },
    )
