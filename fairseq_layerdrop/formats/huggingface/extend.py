# SPDX-License-Identifier: MIT
"""Rows for the ids of pieces that are not in the dictionary, which fairseq makes ``<unk>``.

Byte-pair encoding goes through such pieces, and where one stays, it must have an id. What the model
reads of it is what it reads of ``<unk>``; it never writes one.
"""

from dataclasses import replace

import torch
from torch import Tensor

from fairseq_layerdrop.formats.huggingface.source import Target

_TABLES = (
    "embed_tokens.weight",
    "word_embeddings.weight",
    "shared.weight",
    "lm_head.weight",
    "lm_head.decoder.weight",
)
_NEVER = -1e4  # added to a logit: a probability of 0 in any precision


def extend(target: Target, spare: int, unk: int) -> Target:
    """The same model with ``spare`` more ids.

    Args:
        target: the model.
        spare: how many ids are added.
        unk: the id whose rows are copied.
    """
    if not spare:
        return target
    config, state = dict(target.config), dict(target.state)
    if "src_vocab_size" in config:  # FSMT writes with another table than it reads with
        _copy_row(state, "model.encoder.embed_tokens.weight", spare, unk)
        return replace(
            target,
            config=config | {"src_vocab_size": config["src_vocab_size"] + spare},
            state=state,
        )
    words = config["vocab_size"]
    for name, tensor in target.state.items():
        if name.endswith(_TABLES):
            _copy_row(state, name, spare, unk)
        elif name in ("lm_head.bias", "lm_head.decoder.bias"):
            state[name] = torch.cat([tensor, tensor.new_full((spare,), _NEVER)])
        elif name == "final_logits_bias":
            state[name] = torch.cat([tensor, tensor.new_full((1, spare), _NEVER)], 1)
    generation = target.generation
    if generation is not None:
        never = [*generation["suppress_tokens"], *range(words, words + spare)]
        generation = generation | {"suppress_tokens": never}
    return replace(
        target, config=config | {"vocab_size": words + spare}, state=state, generation=generation
    )


def _copy_row(state: dict[str, Tensor], name: str, spare: int, unk: int) -> None:
    table = state[name]
    state[name] = torch.cat([table, table[unk].expand(spare, -1)])
