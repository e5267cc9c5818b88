# SPDX-License-Identifier: MIT
"""Which models CTranslate2's converter converts faithfully, told before any work.

The converter goes by the options and reads the weights that it knows; a weight that it does not
know it passes over.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from fairseq_layerdrop.formats.languages import MULTILINGUAL, PRETRAINED_BART

_OF_LANGUAGES = ("translation", MULTILINGUAL, PRETRAINED_BART)
TASKS = {
    "transformer": _OF_LANGUAGES,
    "transformer_align": ("translation",),
    "bart": _OF_LANGUAGES,
    "transformer_lm": ("language_modeling",),
}
"""What a family must have been trained on: other tasks mark languages in ways that the converter
does not know.
"""

ACTIVATIONS = ("relu", "gelu", "gelu_accurate", "gelu_fast", "swish")

_PLACES = re.compile(
    r"(encoder|decoder)\.(version|embed_tokens\.weight|embed_positions\.(weight|_float_tensor)"
    r"|(layer_norm|layernorm_embedding)\.(weight|bias)|output_projection\.(weight|bias)"
    r"|layers\.\d+\.((self_attn|encoder_attn)\.[qkv]_proj|(self_attn|encoder_attn)\.out_proj|fc1|fc2"
    r"|(self_attn|encoder_attn|final)_layer_norm)\.(weight|bias))"
)
_OF_LANGUAGE_MODELS = re.compile(r"decoder\.project_(in|out)_dim\.weight")
# fairseq, too, leaves them out of a model that generates.
_OF_CLASSIFIERS = re.compile(r"classification_heads\..*")

_ADAPTIVE = {
    "softmax": re.compile(r"decoder\.adaptive_softmax\..*"),
    "input": re.compile(r"decoder\.embed_tokens\.(embeddings\..*|_float_tensor)"),
}


def refusals(
    family: str | None, model: Mapping[str, Any], task: str | None, weights: Collection[str]
) -> Iterator[str]:
    """Everything in a checkpoint that the converter cannot take.

    Args:
        family: the model that the architecture belongs to in stock fairseq.
        model: its options, and its task's.
        task: the name of its task.
        weights: the keys of its state dict.
    """
    if "layerdrop_shapes" in model:
        yield (
            "heads, FFNs or sub-layers were removed from its layers one by one; export it with "
            "its layers whole"
        )
    elif family not in TASKS:
        yield f"its architecture is {model.get('arch')}; taken are those of {', '.join(TASKS)}"
    elif task not in TASKS[family]:
        yield f"its task is {task}; of a {family} only {', '.join(TASKS[family])} is taken"
    else:
        yield from _of_options(family, model)
        yield from _of_weights(family, weights)
        may_lack_norm = family == "transformer_lm" and model.get("no_decoder_final_norm")
        if (
            model.get("decoder_normalize_before")
            and not may_lack_norm
            and "decoder.layer_norm.weight" not in weights
        ):
            yield "its decoder has no last layer norm (--no-decoder-final-norm, or a file of 2019)"


def _of_options(family: str, model: Mapping[str, Any]) -> Iterator[str]:
    activation = model.get("activation_fn", "relu")
    if activation not in ACTIVATIONS:
        yield f"--activation-fn {activation} is none of {', '.join(ACTIVATIONS)}"
    refused = ["no_token_positional_embeddings", "lang_tok_replacing_bos_eos"]
    if family != "transformer_lm":
        refused += ["cross_self_attention", "no_cross_attention"]
        for option in ("attention_heads", "normalize_before"):
            of_both = [model.get(f"{stack}_{option}") for stack in ("encoder", "decoder")]
            if of_both[0] != of_both[1]:
                flag = option.replace("_", "-")
                yield (
                    f"--encoder-{flag} and --decoder-{flag} must be alike, got {of_both[0]} "
                    f"and {of_both[1]}"
                )
    yield from (
        f"--{option.replace('_', '-')} is not taken" for option in refused if model.get(option)
    )


def _of_weights(family: str, weights: Collection[str]) -> Iterator[str]:
    known = [
        _PLACES,
        _OF_CLASSIFIERS,
        *([_OF_LANGUAGE_MODELS] if family == "transformer_lm" else []),
    ]
    for kind, pattern in _ADAPTIVE.items():
        known.append(pattern)
        if any(map(pattern.fullmatch, weights)):
            yield f"its {kind} is adaptive"
    unknown = [key for key in weights if not any(pattern.fullmatch(key) for pattern in known)]
    if unknown:
        names = list(dict.fromkeys(re.sub(r"\.\d+\.", ".N.", key) for key in unknown))
        yield f"it has weights that have no place in CTranslate2's model: {', '.join(names[:3])}"
    projections = [key for key in weights if _OF_LANGUAGE_MODELS.fullmatch(key)]
    if family == "transformer_lm" and len(projections) == 1:
        yield (
            "--decoder-input-dim and --decoder-output-dim must both differ from "
            "--decoder-embed-dim, or neither"
        )
