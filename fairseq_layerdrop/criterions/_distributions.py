# SPDX-License-Identifier: MIT
"""What a model says of each word, and the forward in which it said it."""

from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Optional

import torch
import torch.nn.functional as F

from fairseq_layerdrop.distributed import unwrapped
from fairseq_layerdrop.modules.layer_drop import LayerDropList


@dataclass
class Forward:
    """One call of a model."""

    inputs: tuple[Any, ...]
    named: dict[str, Any]
    output: Any
    log_probs: Optional[torch.Tensor] = None
    """Of each word, if the criterion has asked for them: they need not be computed again."""


@contextmanager
def recorded(model):
    """Note the calls of the model in this scope."""
    forwards = []
    inner = unwrapped(model)
    normalize = inner.get_normalized_probs

    def note(_, inputs, named, output):
        forwards.append(Forward(inputs, named, output))

    def note_log_probs(output, log_probs, *others):
        probs = normalize(output, log_probs, *others)
        if log_probs and forwards:
            forwards[-1].log_probs = probs
        return probs

    hook = model.register_forward_hook(note, with_kwargs=True)
    inner.get_normalized_probs = note_log_probs
    try:
        yield forwards
    finally:
        hook.remove()
        del inner.get_normalized_probs  # the class's own is found again


@contextmanager
def full_path(model):
    """A scope in which all layers run and nothing is dropped, dropout included.

    The flags are set one by one: ``model.eval()`` and ``train()`` are overridden by those who count
    the calls.
    """
    modes = [(module, module.training) for module in model.modules()]
    kept = [
        (module, module.keep) for module in model.modules() if isinstance(module, LayerDropList)
    ]
    try:
        for module, _ in modes:
            module.training = False
        for layers, _ in kept:
            layers.keep = None
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for layers, keep in kept:
            layers.keep = keep


class Lesson(NamedTuple):
    """What a teacher says of each word, a row a position."""

    probs: torch.Tensor
    negative_entropy: torch.Tensor
    """Of each row: the sum of p log p, the part of a divergence that no student can change."""


@torch.no_grad()
def lesson_of(log_probs):
    """What is to be learned from a teacher's log-probabilities, ``rows x V``."""
    probs = log_probs.exp()
    return Lesson(probs, torch.linalg.vecdot(probs, log_probs))


def divergence(lesson, log_probs, counted, temperature):
    """T² · KL(teacher ‖ student), summed over the rows counted.

    Args:
        lesson: the teacher's.
        log_probs: the student's, ``rows x V``, at the same temperature T.
        counted: which rows count, as booleans.
        temperature: of both.
    """
    rows = lesson.negative_entropy - torch.linalg.vecdot(lesson.probs, log_probs)
    return temperature**2 * rows.masked_fill(~counted, 0).sum()


def distribution(model, forward, temperature):
    """What a model said of each word in a forward: log-probabilities, float32, ``rows x V``."""
    if temperature == 1 and forward.log_probs is not None:
        return forward.log_probs.float().flatten(0, -2)
    return log_probs(model, forward.output, temperature)


def log_probs(model, output, temperature=1.0):
    """What a model's output says of each word, a row a position, in float32."""
    softmax = getattr(getattr(model, "decoder", None), "adaptive_softmax", None)
    if softmax is None:
        rows = model.get_normalized_probs(output, log_probs=True).float().flatten(0, -2)
    else:
        rows = adaptive_log_probs(softmax, output[0].flatten(0, -2))
    # The logits but for a number a row, which the softmax does not see.
    return rows if temperature == 1 else F.log_softmax(rows / temperature, dim=-1)


def adaptive_log_probs(softmax, x):
    """The same from an adaptive softmax; fairseq's works in place, without a backward."""
    head = F.log_softmax(softmax.head(x), dim=-1, dtype=torch.float32)
    words = softmax.cutoff[0]  # behind those that the head knows it has a number for each tail
    tails = [F.log_softmax(tail(x), dim=-1, dtype=torch.float32) for tail in softmax.tail]
    return torch.cat(
        [head[:, :words], *(tail + head[:, words + i, None] for i, tail in enumerate(tails))],
        dim=-1,
    )
