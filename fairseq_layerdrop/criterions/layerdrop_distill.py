# SPDX-License-Identifier: MIT
"""``layerdrop_distill``: self-distillation, the full path teaches the sub-network that was drawn.

LayerDrop trains sub-networks, but what is shipped is the whole model or one chosen part of it, and
the part is weak where the training's rate and the share that is pruned differ much (arXiv
2010.08265). Here a second forward in each step, through all layers, says what the sub-network
should have said (Hinton et al. 2015)::

    loss = the task's loss(student) + weight · T² · KL(teacher ‖ student)

- *The student* is the forward of the criterion that trains the task. It runs first and is what it
  is without distillation: the same layers and the same dropout, in every micro-batch.
- *The teacher* is the model as in evaluation, without dropout, for noise is nothing to teach. It
  gets no gradient: it learns as the student, whenever its layers are drawn. Hence the task's loss
  keeps its full weight: the labels are all that comes from outside.
- *The sum* is over what the task's loss counts, so that fairseq divides both by the same sample
  size.
- *In validation*, and at weight 0, this is the task's criterion and nothing else.

A step costs one forward of the full model more; with an adaptive softmax also the probabilities of
all words, which its own loss does without.

With ``--distill-teacher CKPT`` the model in that file teaches instead, always whole and never
changed: for a model that was cut from it and is healed. What is in the file of the student, its
optimizer and its validation is as without. A pruned model that is healed without LayerDrop and
without such a file has nothing to learn here, and a warning says so. ``--distill-hidden W`` adds W
times the mean squared distance between the layer-normed states after the student's layers and those
after the teacher's that they stand for.
"""

import logging
import math
from contextlib import nullcontext

import torch
from fairseq import utils
from fairseq.criterions import CRITERION_REGISTRY, FairseqCriterion, register_criterion
from fairseq.logging import metrics
from fairseq.modules import LayerDropModuleList

from fairseq_layerdrop.compatibility import task_options
from fairseq_layerdrop.criterions._distributions import (
    distribution,
    divergence,
    full_path,
    lesson_of,
    log_probs,
    recorded,
)
from fairseq_layerdrop.criterions._hidden import counterparts, hidden_distance, states
from fairseq_layerdrop.criterions._options import LayerDropDistillConfig, check
from fairseq_layerdrop.criterions._teacher import Teacher
from fairseq_layerdrop.distributed import unwrapped
from fairseq_layerdrop.modules.layer_drop import LayerDropList
from fairseq_layerdrop.modules.subnetwork import depths

logger = logging.getLogger(__name__)


@register_criterion("layerdrop_distill", dataclass=LayerDropDistillConfig)
class LayerDropDistill(FairseqCriterion):
    """Self-distillation on top of another criterion, which it is built to be a subclass of.

    In the log ``loss``, ``nll_loss`` and ``ppl`` are the task's, to be compared with those of any
    other training; ``distill_loss`` (T² · KL, base 2) is beside them, and ``loss + weight ·
    distill_loss`` is what is minimised.
    """

    @classmethod
    def build_criterion(cls, cfg, task):
        """Build the task's criterion, made to distil.

        Raises:
            ValueError: if the weight or the temperature is out of range, or the task has no
            distribution to teach.
        """
        check(cfg)
        plans = getattr(task_options(task), "train_plans", None)
        if getattr(cfg, "distill_hidden", None) and plans:
            raise ValueError(
                "--distill-hidden is for a model without --train-plans; leave one of them out"
            )
        stock = CRITERION_REGISTRY[str(cfg.distill_criterion)]
        # fairseq lets a training go on only with a criterion of the same name; this one can be
        # turned on and off in it.
        distilling = type(stock.__name__, (cls, stock), {"__doc__": cls.__doc__})
        criterion = super(LayerDropDistill, distilling).build_criterion(cfg, task)
        criterion.distill_weight, criterion.distill_temperature = (
            cfg.distill_weight,
            cfg.distill_temperature,
        )
        # Files of before have no such options.
        teacher, hidden = (getattr(cfg, f"distill_{name}", None) for name in ("teacher", "hidden"))
        criterion.distill_hidden = hidden or 0
        criterion.distill_plan = getattr(cfg, "distill_plan", None)
        criterion.teacher = Teacher(teacher, task, watched=bool(hidden)) if teacher else None
        criterion.has_looked = False
        logger.info(
            f"self-distillation on top of {cfg.distill_criterion}: "
            f"weight {cfg.distill_weight:g}, temperature {cfg.distill_temperature:g}"
        )
        return criterion

    def forward(self, model, sample, reduce=True):
        """As in the task's criterion; in training the loss has the distillation's share, too."""
        if not (model.training and (self.distill_weight or self.distill_hidden)):
            return super().forward(model, sample, reduce)
        if not reduce:
            raise ValueError(
                "distillation gives one loss a batch, so reduce must be True, got False"
            )
        self._warn_if_nothing_is_dropped(model)
        watched = states(unwrapped(model)) if self.distill_hidden else nullcontext({})
        with recorded(model) as forwards, watched as seen:
            loss, sample_size, logging_output = super().forward(model, sample)
        (student,) = forwards
        distance = self._divergence(model, sample, student)
        logging_output["distill_loss"] = distance.data
        loss = loss + self.distill_weight * distance
        if self.distill_hidden:
            hidden = self._hidden(model, sample, student, seen)
            logging_output["hidden_loss"] = hidden.data
            loss = loss + self.distill_hidden * hidden
        return loss, sample_size, logging_output

    def whole_loss(self, model, sample):
        """The task's loss of the whole model, and what the plans trained beside it learn from.

        Returns:
            What :meth:`forward` returns, without distillation; and the whole model's distribution,
            the logarithm of each word's probability, a row a position.
        """
        with recorded(model) as forwards:
            loss, sample_size, log = super().forward(model, sample)
        if not self.distill_weight:
            return (loss, sample_size, log), None
        (whole,) = forwards
        temperature = self.distill_temperature
        with torch.no_grad():
            if self.teacher:
                said = self.teacher.log_probs(whole, unwrapped(model), temperature)
            else:
                said = distribution(unwrapped(model), whole, temperature)
        return (loss, sample_size, log), lesson_of(said)

    def plan_loss(self, model, sample, lesson, weight):
        """The loss of a sub-network: ``weight`` times the task's, and the distillation's share.

        Args:
            model: restricted to the plan.
            sample: that of the whole model.
            lesson: what :meth:`whole_loss` gave.
            weight: of the task's loss, i.e. of the labels.
        """
        with recorded(model) as forwards:
            loss, sample_size, log = super().forward(model, sample)
        loss = weight * loss
        log["distill_loss"] = torch.zeros_like(log["loss"])
        if lesson is not None:
            (student,) = forwards
            own = distribution(model, student, self.distill_temperature)
            counted = self._counted(model, sample, student)
            distance = divergence(lesson, own, counted, self.distill_temperature)
            log["distill_loss"] = distance.data
            loss = loss + self.distill_weight * distance
        return loss, sample_size, log

    def _divergence(self, model, sample, student):
        """T² · KL(teacher ‖ student), summed over what the task's loss counts."""
        # fairseq's own list of layers draws in evaluation, too; an adaptive softmax may have
        # dropout.
        random_numbers = utils.get_rng_state()
        lesson = lesson_of(self._teach(model, student))
        own = distribution(unwrapped(model), student, self.distill_temperature)
        utils.set_rng_state(random_numbers)
        counted = self._counted(model, sample, student)
        return divergence(lesson, own, counted, self.distill_temperature)

    def _hidden(self, model, sample, student, seen):
        """The distance of the states from the teacher's, times the number of rows counted."""
        own = depths(unwrapped(model))
        places = counterparts(self.distill_plan, own, self.teacher.depths)
        inputs = sample["net_input"]
        tokens = {"encoder": inputs["src_tokens"]}
        tokens["decoder"] = inputs.get("prev_output_tokens", inputs["src_tokens"])
        real = {stack: ids.ne(self.padding_idx).t() for stack, ids in tokens.items()}
        distance = hidden_distance(seen, self.teacher.states, places, real)
        return distance * self._counted(model, sample, student).sum()

    def _teach(self, model, student):
        """What the teacher says, a row a position."""
        if self.teacher:
            return self.teacher.log_probs(student, unwrapped(model), self.distill_temperature)
        with full_path(model), torch.no_grad():
            output = unwrapped(model)(*student.inputs, **student.named)
            return log_probs(model, output, self.distill_temperature)

    def _counted(self, model, sample, student):
        """Which rows of the model's output the task's loss counts."""
        targets = model.get_targets(sample, student.output)
        # A row is a sentence here, and a class may have the padding's number.
        if "classification_head_name" in student.named:
            return torch.ones_like(targets, dtype=torch.bool).flatten()
        masked = student.named.get("masked_tokens")
        counted = (targets if masked is None else targets[masked]).ne(self.padding_idx)
        if getattr(self, "ignore_prefix_size", 0):
            counted[:, : self.ignore_prefix_size] = False
        return counted.flatten()

    def _warn_if_nothing_is_dropped(self, model):
        if not (self.has_looked or self.teacher) and not any(map(_drops, model.modules())):
            logger.warning(
                "layerdrop_distill: LayerDrop is off, so student and teacher differ by dropout "
                "alone and there is nothing to teach. Set --encoder-layerdrop, "
                "--decoder-layerdrop (the paper: 0.2)."
            )
        self.has_looked = True

    @classmethod
    def reduce_metrics(cls, logging_outputs):
        """As in the task's criterion, with ``distill_loss`` (base 2) and ``hidden_loss``."""
        super().reduce_metrics(logging_outputs)
        for name, unit in (("distill_loss", math.log(2)), ("hidden_loss", 1)):
            if any(name in log for log in logging_outputs):
                distance, size = (
                    sum(log.get(key, 0) for log in logging_outputs) for key in (name, "sample_size")
                )
                metrics.log_scalar(name, distance / size / unit, size, round=3)


def _drops(module):
    if isinstance(module, LayerDropList):
        return module.drops or module.structures.drop or module.keep is not None
    return isinstance(module, LayerDropModuleList) and module.p > 0
