# SPDX-License-Identifier: MIT
"""Tiny checkpoint dictionaries, as fairseq's trainer writes them; layer i is filled with i."""

import copy
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fairseq_layerdrop.pruning.plan import PruningPlan
from fairseq_layerdrop.pruning.source import Source
from fairseq_layerdrop.pruning.surgery import prune_checkpoint

DIM, FFN, WORDS = 4, 8, 10
RATES = {"encoder": 0.2, "decoder": 0.3}

ENCODER_LAYER = {
    **{f"self_attn.{name}_proj.weight": (DIM, DIM) for name in "kvq"},
    **{f"self_attn.{name}_proj.bias": (DIM,) for name in "kvq"},
    "self_attn.out_proj.weight": (DIM, DIM),
    "self_attn.out_proj.bias": (DIM,),
    "self_attn_layer_norm.weight": (DIM,),
    "self_attn_layer_norm.bias": (DIM,),
    "fc1.weight": (FFN, DIM),
    "fc1.bias": (FFN,),
    "fc2.weight": (DIM, FFN),
    "fc2.bias": (DIM,),
    "final_layer_norm.weight": (DIM,),
    "final_layer_norm.bias": (DIM,),
}
DECODER_LAYER = {
    **ENCODER_LAYER,
    **{
        key.replace("self_attn", "encoder_attn"): shape
        for key, shape in ENCODER_LAYER.items()
        if "self_attn" in key
    },
}


WHERE = {
    "transformer": {"encoder": ["encoder"], "decoder": ["decoder"]},
    "transformer_lm": {"decoder": ["decoder"]},
    "roberta": {"encoder": ["encoder.sentence_encoder"]},
    "multilingual_transformer": {
        "encoder": ["models.de-en.encoder", "models.fr-en.encoder"],
        "decoder": ["models.de-en.decoder", "models.fr-en.decoder"],
    },
    "wav2vec2": {"encoder": ["encoder"]},
    "wav2vec_ctc": {"encoder": ["w2v_encoder.w2v_model.encoder"]},
    "wav2vec_seq2seq": {"encoder": ["encoder.w2v_model.encoder"], "decoder": ["decoder"]},
}
"""The modules that hold each stack's layers, by family."""


def layer_list(
    path: str, depth: int, shapes: Mapping[str, tuple[int, ...]] = ENCODER_LAYER
) -> dict[str, Tensor]:
    """The weights of a list of layers at a path."""
    return {
        f"{path}.{i}.{key}": torch.full(shape, float(i))
        for i in range(depth)
        for key, shape in shapes.items()
    }


def model_state(encoder: int = 6, decoder: int = 6, *, tied: bool = True) -> dict[str, Tensor]:
    """A Transformer's state dict; a stack of no layers is a stack that the model lacks."""
    state: dict[str, Tensor] = {}
    for stack, depth, shapes in (
        ("encoder", encoder, ENCODER_LAYER),
        ("decoder", decoder, DECODER_LAYER),
    ):
        if depth:
            state[f"{stack}.version"] = torch.tensor([3.0])
            words = torch.arange(WORDS * DIM).float().view(WORDS, DIM)
            state[f"{stack}.embed_tokens.weight"] = (len(state) + words) / 7
            state[f"{stack}.embed_positions._float_tensor"] = torch.zeros(1)
            state |= layer_list(f"{stack}.layers", depth, shapes)
            state[f"{stack}.layer_norm.weight"] = torch.ones(DIM)
            state[f"{stack}.layer_norm.bias"] = torch.zeros(DIM)
    if decoder:
        embedding = state["decoder.embed_tokens.weight"]
        state["decoder.output_projection.weight"] = embedding if tied else embedding + 1
    return state


def family_state(family: str, encoder: int = 6, decoder: int = 6) -> dict[str, Tensor]:
    """The state dict of a model of any family, with what each has beside its layers."""
    state: dict[str, Tensor] = {}
    depths, shapes = (
        {"encoder": encoder, "decoder": decoder},
        {"encoder": ENCODER_LAYER, "decoder": DECODER_LAYER},
    )
    for stack, modules in WHERE[family].items():
        for module in modules:
            if "w2v" not in module and family != "wav2vec2":
                state[f"{module}.embed_tokens.weight"] = torch.full((WORDS, DIM), 1.0 + len(state))
            state |= layer_list(f"{module}.layers", depths[stack], shapes[stack])
            state |= {
                f"{module}.layer_norm.weight": torch.ones(DIM),
                f"{module}.layer_norm.bias": torch.zeros(DIM),
            }
    if family == "roberta":
        state["encoder.lm_head.weight"] = state["encoder.sentence_encoder.embed_tokens.weight"]
        state["encoder.lm_head.dense.weight"] = torch.ones(DIM, DIM)
        state["classification_heads.mnli.out_proj.weight"] = torch.ones(3, DIM)
    if family.startswith("wav2vec"):
        wav2vec = WHERE[family]["encoder"][0].removesuffix("encoder")
        state[f"{wav2vec}mask_emb"] = torch.ones(DIM)
        state |= {
            f"{wav2vec}feature_extractor.conv_layers.{i}.0.weight": torch.ones(DIM, 1, 3)
            for i in range(7)
        }
        state[f"{wav2vec}encoder.pos_conv.0.weight_g"] = torch.ones(1, 1, 2)
    return state


def share(
    state: Mapping[str, Tensor], path: str, chunks: Sequence[Sequence[int]], part: str = ""
) -> dict[str, Tensor]:
    """Each chunk's layers get the weights of its first, for names that begin with ``part``."""
    shared = dict(state)
    for first, *others in chunks:
        for layer in others:
            own = f"{path}.{layer}.{part}"
            shared |= {
                key: state[f"{path}.{first}.{part}{key.removeprefix(own)}"]
                for key in state
                if key.startswith(own)
            }
    return shared


def model_options(encoder: int = 6, decoder: int = 6) -> dict[str, Any]:
    """The model section of stock fairseq, flat."""
    options: dict[str, Any] = {
        "_name": "transformer",
        "dropout": 0.1,
        "share_decoder_input_output_embed": True,
    }
    for stack, depth in (("encoder", encoder), ("decoder", decoder)):
        if depth:
            options |= {
                f"{stack}_layers": depth,
                f"{stack}_embed_dim": DIM,
                f"{stack}_layerdrop": RATES[stack],
                f"{stack}_layers_to_keep": None,
            }
    return options


def config(
    encoder: int = 6, decoder: int = 6, *, ours: bool = False, namespace: bool = False
) -> dict[str, Any]:
    """A configuration of stock fairseq, or of our model and task; model options are flat."""
    model: Any = model_options(encoder, decoder)
    task: dict[str, Any] = {"_name": "translation", "data": "data-bin", "source_lang": "en"}
    if ours:
        model |= {"_name": "layerdrop_transformer", "layerdrop_min_layers": 1, "seed": 7}
        task |= {
            "_name": "layerdrop_translation",
            "encoder_keep": None,
            "decoder_keep": None,
            "valid_plans": "6+3",
        }
    if namespace:  # every option there was, the other sections' too
        others = {
            "arch": model["_name"],
            "task": task["_name"],
            "criterion": "cross_entropy",
            "user_dir": "/home/me/p",
        }
        model = Namespace(**model | others | {"seed": 3, "save_dir": "layerdrop_transformer"})
    return {
        "_name": None,
        "common": {"_name": None, "seed": 7, "user_dir": "/home/me/plugin", "log_format": "json"},
        "checkpoint": {"_name": None, "save_dir": "layerdrop_transformer"},
        "model": model,
        "task": task,
        "criterion": {"_name": "cross_entropy", "sentence_avg": False},
        "optimizer": Namespace(_name="adam", adam_betas="(0.9, 0.98)", lr=[0.001]),
        "bpe": None,
    }


def training_checkpoint(
    encoder: int = 6,
    decoder: int = 6,
    *,
    ours: bool = False,
    namespace: bool = False,
    tied: bool = True,
    ema: bool = False,
) -> dict[str, Any]:
    """A checkpoint in the middle of training, optimizer state and all."""
    state = model_state(encoder, decoder, tied=tied)
    checkpoint: dict[str, Any] = {
        "args": None,
        "cfg": config(encoder, decoder, ours=ours, namespace=namespace),
        "model": state,
        "criterion": {},
        "optimizer_history": [
            {
                "criterion_name": "CrossEntropyCriterion",
                "optimizer_name": "FairseqAdam",
                "lr_scheduler_state": {"best": 2.5},
                "num_updates": 1200,
            }
        ],
        "task_state": {},
        "extra_state": {
            "metrics": {"default": []},
            "previous_training_time": 12.5,
            "train_iterator": {"epoch": 3, "iterations_in_epoch": 0, "shuffle": True},
            "val_loss": 2.5,
            "best": 2.5,
        },
        "last_optimizer_state": {
            "state": {0: {"step": 1200, "exp_avg": torch.ones(2000)}},
            "param_groups": [],
        },
    }
    if ema:
        checkpoint["extra_state"]["ema"] = copy.deepcopy(state)
    return checkpoint


def family_checkpoint(family: str, encoder: int = 6, decoder: int = 6) -> dict[str, Any]:
    """A checkpoint of a model of any family, in the middle of its training."""
    stacks = WHERE[family]
    checkpoint = training_checkpoint(
        encoder if "encoder" in stacks else 0, decoder if "decoder" in stacks else 0
    )
    model = checkpoint["cfg"]["model"] | {"_name": family}
    if family in ("wav2vec_ctc", "wav2vec_seq2seq"):
        inner = {key: model.pop(key) for key in list(model) if key.startswith("encoder_")}
        model["w2v_args"] = {
            "model": {"_name": "wav2vec2", **inner},
            "task": {"_name": "audio_pretraining"},
        }
    checkpoint["cfg"]["model"] = model
    return checkpoint | {"model": family_state(family, encoder, decoder)}


def layer_values(state: dict[str, Tensor], stack: str) -> list[int]:
    """Which layers of the original a stack has, by its weights; for other stacks, its module."""
    layers: dict[int, set[float]] = {}
    for key, tensor in state.items():
        if key.startswith(f"{stack}.layers."):
            layer = key.removeprefix(f"{stack}.layers.").partition(".")[0]
            layers.setdefault(int(layer), set()).update(tensor.flatten().tolist())
    assert sorted(layers) == list(range(len(layers))), "the numbering has a gap"
    assert all(len(values) == 1 for values in layers.values()), "a layer holds weights of several"
    return [int(layers[i].pop()) for i in range(len(layers))]


def cut(
    checkpoint: Mapping[str, Any],
    plan: PruningPlan,
    *,
    source: str = "digest",
    version: str = "0",
    **options: Any,
) -> dict[str, Any]:
    """A checkpoint's dictionary, opened and pruned."""
    return prune_checkpoint(Source.of(checkpoint, digest=source), plan, version=version, **options)
