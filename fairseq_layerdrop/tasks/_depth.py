# SPDX-License-Identifier: MIT
"""Depth on demand for any fairseq task, and plans beside the whole model in training."""

import gc
import sys
from dataclasses import dataclass, field
from typing import Any, Optional

import numpy
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from omegaconf import II

from fairseq_layerdrop.compatibility import task_options
from fairseq_layerdrop.modules.subnetwork import depths, restrict, restricted, stacks
from fairseq_layerdrop.pruning.plan import PruningPlan
from fairseq_layerdrop.pruning.upgrade import is_stale
from fairseq_layerdrop.tasks._plans import named_after, parse_plans, reduce_plans
from fairseq_layerdrop.tasks._sandwich import TrainedPlans


@dataclass
class DepthConfig(FairseqDataclass):
    """The fields that depth on demand adds to a task's configuration."""

    encoder_keep: Any = field(
        default=None,
        metadata={
            "help": "evaluate with these layers of the encoder only, e.g. 0,2,4 or 0-3,8 or "
            "every:2 or even:6"
        },
    )
    decoder_keep: Any = field(
        default=None,
        metadata={
            "help": "evaluate with these layers of the decoder only, e.g. 0,2,4 or 0-3,8 or "
            "every:2 or even:6"
        },
    )
    valid_plans: Optional[str] = field(
        default=None,
        metadata={
            "help": "in training, validate these sub-networks too: plans separated by blanks, "
            "e.g. '6+3 all/first:1'; each has metrics of its own, e.g. loss_6-3, for "
            "--best-checkpoint-metric (default: those of --train-plans)"
        },
    )
    train_plans: Optional[str] = field(
        default=None,
        metadata={
            "help": "train these sub-networks beside the whole model in every step: plans "
            "separated by blanks, e.g. '6+5 6+3 6+1'"
        },
    )
    train_plans_per_update: int = field(
        default=1,
        metadata={
            "help": "how many of --train-plans run in a step: 1 is drawn at random, of 2 and more "
            "the smallest is always one (default: 1)"
        },
    )
    train_plans_weight: float = field(
        default=1.0,
        metadata={"help": "weight of each plan's loss beside the whole model's (default: 1)"},
    )
    train_plans_warmup_updates: int = field(
        default=0,
        metadata={"help": "the first N updates train the whole model only (default: 0)"},
    )
    train_plans_seed: int = II("common.seed")


class DepthOnDemand:
    """Mixin for a task whose configuration has the fields of :class:`DepthConfig`."""

    def build_model(self, cfg, from_checkpoint=False):
        """Build the model; one loaded from a checkpoint is restricted once its weights are in."""
        model = super().build_model(cfg, from_checkpoint)
        options = task_options(self)
        specs = {"encoder": options.encoder_keep, "decoder": options.decoder_keep}
        named = {stack: spec for stack, spec in specs.items() if spec is not None}
        if named and not from_checkpoint:
            raise ValueError(
                f"{_flags(named)} restricts a finished model in generation and evaluation; "
                "to train a smaller one, `fairseq-layerdrop prune` the checkpoint first"
            )
        self.trained = None if named or from_checkpoint else _trained_plans(options, model, cfg)
        model.trains_plans = self.trained is not None
        valid = options.valid_plans or options.train_plans
        self.plans = {} if named else parse_plans("--valid-plans", valid, depths(model))
        if from_checkpoint and "--train-plans" in sys.argv:  # not what a checkpoint's own task says
            raise ValueError(
                "--train-plans is for fairseq-train; here, --encoder-keep and --decoder-keep"
            )
        if from_checkpoint:
            model.register_load_state_dict_pre_hook(_leave_out_stale_keys)
        if named:
            try:
                plan = PruningPlan.from_specs(named, depths(model))
            except ValueError as error:
                raise ValueError(
                    f"{_flags(named)} must fit every model of --path: {error}"
                ) from None

            def restrict_once_loaded(module, _):
                restrict(module, plan.kept)

            model.register_load_state_dict_post_hook(restrict_once_loaded)
        return model

    def begin_epoch(self, epoch, model):
        """As in fairseq; the data workers of the epoch before have ended."""
        # With --update-epoch-batch-itr every epoch has an iterator of its own, which refers to
        # itself. Until Python collects it, its workers live on, each with a copy of what the
        # training's memory was.
        gc.collect()
        super().begin_epoch(epoch, model)

    def train_step(self, sample, model, criterion, optimizer, update_num, ignore_grad=False):
        """As in fairseq; with plans to train, some of them run beside the whole model."""
        step = self.trained.step(criterion, update_num) if self.trained else criterion
        return super().train_step(sample, model, step, optimizer, update_num, ignore_grad)

    def valid_step(self, sample, model, criterion):
        """Validate the whole model, then each plan, and return all their numbers together."""
        loss, sample_size, output = super().valid_step(sample, model, criterion)
        for name, plan in self.plans.items():
            with restricted(model, plan.kept):
                _, _, partial = super().valid_step(sample, model, criterion)
            output.update(named_after(name, partial))
        return loss, sample_size, output

    def reduce_metrics(self, logging_outputs, criterion):
        """Reduce as the task does, then for each plan, under names that end in the plan's."""
        super().reduce_metrics(logging_outputs, criterion)
        names = [*self.plans, *(self.trained.plans if self.trained else ())]

        def reduce(partial):
            super(DepthOnDemand, self).reduce_metrics(partial, criterion)

        reduce_plans(dict.fromkeys(names), logging_outputs, reduce)

    def post_validate(self, model, stats, agg):
        """Turn the arrays in --eval-bleu's meters into lists, which torch loads safely."""
        for meter in metrics.get_meters("valid").values():
            for name, value in vars(meter).items():
                if isinstance(value, numpy.ndarray):
                    setattr(meter, name, value.tolist())


def _trained_plans(options, model, cfg):
    """What ``--train-plans`` names, checked against the model before anything is trained."""
    plans = parse_plans("--train-plans", options.train_plans, depths(model))
    if not plans:
        return None
    _check_plans(plans, model)
    return TrainedPlans(
        plans,
        per_update=options.train_plans_per_update,
        weight=options.train_plans_weight,
        warmup=options.train_plans_warmup_updates,
        seed=options.train_plans_seed,
        checkpointed=getattr(cfg, "checkpoint_activations", False),
    )


def _check_plans(plans, model):
    wrong = []
    names = {}
    for name, plan in plans.items():
        if plan.is_whole:
            wrong.append(f"{name} is the whole model, which is trained anyway")
        same = names.setdefault(tuple(sorted(plan.kept.items())), name)
        if same != name:
            wrong.append(f"{same} and {name} are the same plan")
        for stack, holders in stacks(model).items():
            chunk = getattr(holders[0].layers, "chunk", 1)
            if parted := _parted_chunks(plan.kept.get(stack, ()), chunk):
                wrong.append(f"{name} parts layers of the {stack} that share weights, {parted}")
    if wrong:
        raise ValueError(f"--train-plans: {'; '.join(wrong)}")


def _parted_chunks(kept, chunk):
    """Of layers that share their weights, ``chunk`` neighbours each, those kept only in part."""
    parted = [i for i in kept if any(j not in kept for j in _chunk_of(i, chunk))]
    return ", ".join(map(str, parted))


def _chunk_of(layer, chunk):
    first = layer - layer % chunk
    return range(first, first + chunk)


def _flags(named):
    return " and ".join(f"--{stack}-keep" for stack in named)


def _leave_out_stale_keys(module, state_dict, *_):
    """Remove the encoder's copies for a fused kernel, which fairseq 0.12.2 wrote."""
    for key in [key for key in state_dict if is_stale(key)]:
        del state_dict[key]
