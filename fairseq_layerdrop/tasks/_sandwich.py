# SPDX-License-Identifier: MIT
"""Training the plans that ship: every step runs the whole model and some sub-networks of it.

The sandwich rule of slimmable networks (Yu and Huang 2019, arXiv 1903.05134, section 3.2), for
depth::

    loss = criterion(whole model) + weight · Σ criterion(sub-network)    over the plans drawn

The smallest plan is the hardest, and the rule runs it in every step. So it is here where two or
more plans run in a step; where one does, the smallest has half of the draws. The others are drawn
at random, each as likely as any. One backward goes through all of them, so that each parameter gets
one gradient a micro-batch, as data-parallel training needs it. Sub-networks that keep the whole
encoder read its output of this step; it runs once.

A criterion with ``whole_loss`` and ``plan_loss`` (``layerdrop_distill``) has the plans learn from
the whole model's distribution, too.
"""

from contextlib import contextmanager, nullcontext

import torch

from fairseq_layerdrop.distributed import counts_gradients, unwrapped
from fairseq_layerdrop.modules.masks import keyed_generator
from fairseq_layerdrop.modules.shared_encoder import SharedEncoder
from fairseq_layerdrop.modules.subnetwork import restricted
from fairseq_layerdrop.tasks._plans import named_after


class TrainedPlans:
    """The plans that a training runs in its steps, and which of them in which.

    Args:
        plans: by name.
        per_update: how many of them run in a step.
        weight: of each plan's loss beside the whole model's.
        warmup: this many updates train only the whole model.
        seed: with the update and the micro-batch, the key of the draws; all processes draw alike.
        checkpointed: whether the model recomputes activations, which goes through a layer's
            backward once for every sub-network that ran it.

    Raises:
        ValueError: if a number is out of range.
    """

    def __init__(self, plans, *, per_update=1, weight=1.0, warmup=0, seed=0, checkpointed=False):
        if not 1 <= per_update <= len(plans):
            raise ValueError(
                f"--train-plans-per-update must lie in 1-{len(plans)}, the number of plans, "
                f"got {per_update}"
            )
        if not weight > 0:
            raise ValueError(f"--train-plans-weight must be above 0, got {weight}")
        if warmup < 0:
            raise ValueError(f"--train-plans-warmup-updates must be at least 0, got {warmup}")
        self.plans = plans
        self.per_update = per_update
        self.weight = weight
        self.warmup = warmup
        self.seed = seed
        self.checkpointed = checkpointed
        self._update = None
        self._draws = 0

    def draw(self, update):
        """The names of the plans of the next micro-batch, in the order in which they were given."""
        if update != self._update:
            self._update = update
            self._draws = 0
        generator = keyed_generator(self.seed, update, self._draws, "plans")
        self._draws += 1
        if update < self.warmup:
            return []
        rest = [name for name in self.plans if name != self.smallest]
        with_smallest = self.per_update > 1 or not rest or torch.rand((), generator=generator) < 0.5
        drawn = {self.smallest} if with_smallest else set()
        order = torch.randperm(len(rest), generator=generator).tolist()
        drawn |= {rest[i] for i in order[: self.per_update - len(drawn)]}
        return [name for name in self.plans if name in drawn]

    @property
    def smallest(self):
        """The name of the plan that keeps the fewest layers; of several, the first."""
        return min(self.plans, key=lambda name: sum(map(len, self.plans[name].kept.values())))

    def step(self, criterion, update):
        """What stands in the criterion's place in one micro-batch."""
        drawn = self.draw(update)

        def sandwich(model, sample):
            return self._run(drawn, criterion, model, sample)

        return sandwich

    def _run(self, drawn, criterion, model, sample):
        if self.checkpointed and counts_gradients(model):
            raise ValueError(
                "--train-plans with --checkpoint-activations: in several processes this needs "
                "--ddp-backend legacy_ddp"
            )
        inner = unwrapped(model)
        encoder = SharedEncoder(inner)
        teaches = hasattr(criterion, "plan_loss")
        with encoder.noted():
            if teaches:
                (loss, sample_size, log), lesson = criterion.whole_loss(model, sample)
            else:
                loss, sample_size, log = criterion(model, sample)
        partial = {}
        for name in drawn:
            with _sub_network(inner, self.plans[name], encoder):
                if teaches:
                    own, _, partial[name] = criterion.plan_loss(inner, sample, lesson, self.weight)
                    loss = loss + own
                else:
                    own, _, partial[name] = criterion(inner, sample)
                    loss = loss + self.weight * own
        # Every process and micro-batch logs the same keys, whatever it has drawn.
        nothing = {key: _nothing(value) for key, value in next(iter(partial.values()), log).items()}
        for name in self.plans:
            log.update(named_after(name, partial.get(name, nothing)))
        return loss, sample_size, log


@contextmanager
def _sub_network(model, plan, encoder):
    """The model restricted to a plan, with the step's encoder output if the plan keeps it whole."""
    whole_encoder = plan.encoder is None or plan.encoder.is_whole
    with restricted(model, plan.kept), encoder.given_again() if whole_encoder else nullcontext():
        yield


def _nothing(value):
    return torch.zeros_like(value) if torch.is_tensor(value) else type(value)(0)
