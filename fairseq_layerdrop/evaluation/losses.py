# SPDX-License-Identifier: MIT
"""The loss of many sub-networks on the same sentences, in one pass over them."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from fairseq.criterions.adaptive_loss import AdaptiveLoss
from fairseq.criterions.cross_entropy import CrossEntropyCriterion
from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterion
from torch import Tensor
from torch.nn.functional import cross_entropy

from fairseq_layerdrop.evaluation.loading import Loaded
from fairseq_layerdrop.evaluation.prefix import Kept, run_each, run_one_by_one
from fairseq_layerdrop.evaluation.scorable import named, saying

_TELL_TOKENS_APART = (CrossEntropyCriterion, LabelSmoothedCrossEntropyCriterion)


@dataclass(frozen=True)
class Losses:
    """A sub-network's losses by unit: a sentence where the criterion allows it, else a batch."""

    sums: Tensor
    """N: the negative log-likelihood of each unit, in nats."""
    sizes: Tensor
    """N: how many tokens (or sentences to classify) each has."""
    correct: float | None = None
    """How many sentences were classified right, where the criterion says it."""

    @property
    def loss(self) -> float:
        """Bits a token: the ``nll_loss`` (or ``loss``) that fairseq prints."""
        return float(self.sums.sum() / self.sizes.sum()) / math.log(2)

    @property
    def tokens(self) -> int:
        """How many tokens were scored."""
        return int(self.sizes.sum())

    @property
    def accuracy(self) -> float | None:
        """Percent."""
        return None if self.correct is None else 100 * self.correct / self.tokens


@torch.no_grad()
def score_losses(
    loaded: Loaded,
    samples: Iterable[Any],
    plans: Sequence[Kept],
    *,
    progress: Callable[[Any], Iterable[Any]] = iter,
) -> list[Losses]:
    """The losses of each plan, on the same units: what the criterion gives on the restricted model.

    Plans that begin with the same layers share what these compute; on return the model is whole.

    Args:
        loaded: the model, whose criterion is that of its training.
        samples: collated batches, :class:`~fairseq_layerdrop.evaluation.loading.Batches` or some of
            them.
        plans: the layers that stay, of each of the model's stacks: ``plan.kept``.
        progress: wraps the loop over the samples.

    Raises:
        ValueError: naming a plan that does not fit the model, or whose loss is not a number.
    """
    reads_attention = hasattr(loaded.criterion, "alignment_lambda")
    run_all = run_one_by_one if reads_attention else run_each
    scored: list[list[_Unit]] = [[] for _ in plans]
    for sample in progress(samples):
        target = sample.get("target")
        with saying(f"there is no score by {named(loaded)}"):
            for number, log in run_all(loaded.model, plans, partial(_log, loaded, sample)):
                scored[number].append(_units(log, target, loaded))
    found = [_join(units) for units in scored]
    for plan, losses in zip(plans, found, strict=True):
        if not math.isfinite(losses.loss):
            raise ValueError(
                f"the loss must be a number, got {losses.loss} with the layers {dict(plan)}"
            )
    return found


def _log(loaded: Loaded, sample: Any) -> dict[str, Any]:
    """What the criterion logs of a batch: a loss for each token, if it can be had."""
    model, criterion = loaded.model, loaded.criterion
    if not isinstance(criterion, AdaptiveLoss):
        log: dict[str, Any] = criterion(
            model, sample, not isinstance(criterion, _TELL_TOKENS_APART)
        )[2]
        return log
    # fairseq's adaptive loss leaves out a word of each cluster, the one with the padding's number
    # in it; its fairseq-eval-lm does not.
    output = model(**sample["net_input"])
    target = model.get_targets(sample, output)
    losses = _adaptive_losses(model.decoder.adaptive_softmax, output[0], target).view(target.shape)
    return {"loss": losses.masked_fill(target == criterion.padding_idx, 0)}


def _adaptive_losses(softmax: Any, features: Tensor, target: Tensor) -> Tensor:
    """-log p of each target (B·T), from its own cluster's logits: all words would take longer."""
    logits, targets = softmax(features, target)
    _, places = softmax.adapt_target(target)
    # Of a word of the head, or of the word's cluster:
    losses = cross_entropy(logits[0], targets[0], reduction="none")
    for place, scores, words in zip(places, logits[1:], targets[1:], strict=True):
        if place is not None:
            losses[place] += cross_entropy(scores, words, reduction="none")
    return losses


_Unit = tuple[Tensor, Tensor, float | None]


def _units(log: dict[str, Any], target: Any, loaded: Loaded) -> _Unit:
    """What the criterion logs for a batch, by sentence if it gives a loss for each token."""
    loss = torch.as_tensor(log.get("nll_loss", log["loss"])).double().cpu()
    correct = log.get("ncorrect")
    if isinstance(target, Tensor) and target.dim() == 2 and loss.numel() == target.numel():
        sizes = target.ne(loaded.task.target_dictionary.pad()).sum(1)
        return loss.view(target.shape).sum(1), sizes.double().cpu(), correct
    sizes = torch.as_tensor(log["sample_size"] if "ncorrect" not in log else log["nsentences"])
    return loss.sum().view(1), sizes.double().cpu().view(1), correct


def _join(units: Sequence[_Unit]) -> Losses:
    sums, sizes, correct = zip(*units, strict=True)
    right = None if correct[0] is None else float(sum(correct))
    return Losses(torch.cat(sums), torch.cat(sizes), right)
