# SPDX-License-Identifier: MIT
"""What ``generate`` is told, so that it does what ``fairseq-generate`` does by default."""

from typing import Any

from fairseq_layerdrop.formats.huggingface.source import Source

_LONGEST = 200  # fairseq-generate's --max-len-b


def of_translation(source: Source) -> dict[str, Any]:
    """For a model that reads and writes: beam 5, at most 200 tokens and the end, never a padding,
    never nothing.
    """
    longest = min(_LONGEST, source.options["max_target_positions"] - 1)
    forced = {} if source.forced is None else {"forced_bos_token_id": source.forced}
    return (
        _ids(source)
        | forced
        | {
            "decoder_start_token_id": source.start,
            "eos_token_id": source.end,
            "forced_eos_token_id": source.end,
            "max_length": longest + 2,  # and the start and the end
            "min_new_tokens": 1,
            "num_beams": 5,
            "early_stopping": True,
            "length_penalty": 1.0,
        }
    )


def of_language(source: Source) -> dict[str, Any]:
    """For a language model: what it has read is continued, word by the likeliest word."""
    own = {"bos_token_id": source.eos, "max_new_tokens": _LONGEST, "do_sample": False}
    return _ids(source) | own


def _ids(source: Source) -> dict[str, Any]:
    return {
        "bos_token_id": source.bos,
        "pad_token_id": source.pad,
        "eos_token_id": source.eos,
        "suppress_tokens": [source.pad],
    }
