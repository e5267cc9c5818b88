# SPDX-License-Identifier: MIT
"""The names that options choose from. Nothing heavy is imported: the command's help says them."""

from collections.abc import Sequence

STRATEGIES = ("even", "spread", "first", "last", "learned")
"""How a depth becomes layers."""

CONFIG_STYLES = ("plain", "namespace")
"""See :func:`~fairseq_layerdrop.pruning.config.in_style`."""

CHECKS = ("auto", "load", "tensors")
"""Of what is written, see :class:`~fairseq_layerdrop.operations._check.Check`."""

METRICS = ("loss", "bleu", "chrf", "rouge", "latency", "memory")
"""What can be measured of a sub-network; loss has accuracy along."""

METHODS = ("exhaustive", "greedy", "beam", "evolution")
"""How a search goes through sub-networks."""

TARGETS = ("huggingface", "ctranslate2", "safetensors")
"""The forms of other programs."""


def check_choice(name: str, value: str | None, choices: Sequence[str]) -> None:
    """Refuse an unknown name; ``None`` leaves the choice to the operation.

    Raises:
        ValueError: naming the argument and the known names.
    """
    if value is not None and value not in choices:
        raise ValueError(f"{name}= must be one of {', '.join(choices)}, got {value!r}")
