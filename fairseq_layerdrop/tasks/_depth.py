# SPDX-License-Identifier: MIT
"""Depth on demand for any fairseq task: evaluate a sub-network of a checkpoint, validate several in
training.
"""

import re
from dataclasses import dataclass, field
from typing import Any, Optional

import numpy
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from fairseq.logging.meters import AverageMeter, ConcatTensorMeter, MetersDict

from fairseq_layerdrop.modules.subnetwork import depths, restrict, restricted
from fairseq_layerdrop.pruning.plan import PruningPlan
from fairseq_layerdrop.pruning.upgrade import is_stale


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
            "e.g. '6+3 all/first:1'; "
            "each has metrics of its own, e.g. loss_6-3, for --best-checkpoint-metric"
        },
    )


class DepthOnDemand:
    """Mixin for a task whose configuration has the fields of :class:`DepthConfig`."""

    def build_model(self, cfg, from_checkpoint=False):
        """Build the model; one that is loaded from a checkpoint is restricted as soon as its
        weights are in.
        """
        model = super().build_model(cfg, from_checkpoint)
        options = self.cfg or self.args  # fairseq's older tasks keep them as args
        specs = {"encoder": options.encoder_keep, "decoder": options.decoder_keep}
        named = {stack: spec for stack, spec in specs.items() if spec is not None}
        if named and not from_checkpoint:
            raise ValueError(
                f"{_flags(named)} restricts a finished model in generation and evaluation; "
                "to train a smaller one, `fairseq-layerdrop prune` the checkpoint first"
            )
        self.plans = {} if named else _parse_plans(options.valid_plans, depths(model))
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

    def valid_step(self, sample, model, criterion):
        """Validate the full model, then each plan; a plan's numbers travel beside the full
        model's.
        """
        loss, sample_size, output = super().valid_step(sample, model, criterion)
        for name, plan in self.plans.items():
            with restricted(model, plan.kept):
                _, _, partial = super().valid_step(sample, model, criterion)
            output.update(
                {_PLAN_PREFIX.format(name) + key: value for key, value in partial.items()}
            )
        return loss, sample_size, output

    def reduce_metrics(self, logging_outputs, criterion):
        """Reduce as the task does, then once more for each plan, under names that end in the
        plan's.
        """
        super().reduce_metrics(logging_outputs, criterion)
        for name in self.plans:
            prefix = _PLAN_PREFIX.format(name)
            partial = [
                {k[len(prefix) :]: v for k, v in log.items() if k.startswith(prefix)}
                for log in logging_outputs
            ]
            if any(partial):
                with metrics.aggregate(new_root=True) as meters:
                    super().reduce_metrics(partial, criterion)
                _log_again(meters, name)

    def post_validate(self, model, stats, agg):
        """Turn the arrays in the meters of --eval-bleu into lists: torch's safe loading refuses
        arrays.
        """
        for meter in metrics.get_meters("valid").values():
            for name, value in vars(meter).items():
                if isinstance(value, numpy.ndarray):
                    setattr(meter, name, value.tolist())


_PLAN_PREFIX = "_plan_{}_"
_SPEEDS = ("wpb", "bsz")  # the batch's size, not the plan's result


def _parse_plans(text, model_depths):
    plans = {}
    for plan in (text or "").split():
        name = re.sub(r"[^0-9A-Za-z]+", "-", plan)  # it becomes part of metric and file names
        if name in plans:
            raise ValueError(
                f"--valid-plans: every plan must have a metric name of its own, got {name} twice"
            )
        try:
            plans[name] = PruningPlan.parse(plan, model_depths)
        except ValueError as error:
            raise ValueError(f"--valid-plans: {plan}: {error}") from None
    return plans


def _flags(named):
    return " and ".join(f"--{stack}-keep" for stack in named)


def _leave_out_stale_keys(module, state_dict, *_):
    """fairseq 0.12.2 wrote copies of the encoder's weights for a fused kernel, which later versions
    refuse.
    """
    for key in [key for key in state_dict if is_stale(key)]:
        del state_dict[key]


def _log_again(meters, name):
    """Log what ``meters`` holds once more, each key with the plan's name behind it."""

    def unsuffixed(all_meters):
        ours = MetersDict()
        for key in meters:
            if f"{key}_{name}" in all_meters:
                ours.add_meter(key, all_meters[f"{key}_{name}"], 0)
        return ours

    for priority, _, key in meters.priorities:
        meter = meters[key]
        if isinstance(meter, AverageMeter) and key not in _SPEEDS:
            value = meter.sum / meter.count if meter.count else 0
            metrics.log_scalar(f"{key}_{name}", value, meter.count, priority, meter.round)
        elif isinstance(meter, ConcatTensorMeter):
            metrics.log_concat_tensor(f"{key}_{name}", meter.tensor, priority)
        elif isinstance(meter, MetersDict._DerivedMeter):
            metrics.log_derived(
                f"{key}_{name}",
                lambda all_meters, derive=meter.fn: derive(unsuffixed(all_meters)),
                priority,
            )
