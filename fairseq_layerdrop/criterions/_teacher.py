# SPDX-License-Identifier: MIT
"""A teacher from a file: the model that a smaller one was cut from, frozen."""

import logging
import pickle
from contextlib import nullcontext

import torch
from fairseq import checkpoint_utils, utils

from fairseq_layerdrop.compatibility import task_options
from fairseq_layerdrop.criterions._distributions import log_probs
from fairseq_layerdrop.criterions._hidden import states
from fairseq_layerdrop.modules.subnetwork import depths
from fairseq_layerdrop.pruning.upgrade import upgrade_state

logger = logging.getLogger(__name__)


class Teacher:
    """A model that says what others should have said; it is loaded when it is first asked.

    It is not a module of the criterion, so that it is in no checkpoint, no optimizer, no average of
    weights and no data-parallel wrapper. A criterion that only evaluates never loads it.

    Args:
        path: of any checkpoint that fairseq can load, of the same task and dictionaries.
        task: of the student.
        watched: whether to note what leaves its layers.
    """

    def __init__(self, path, task, *, watched=False):
        self.path, self.task, self.watched = path, task, watched
        self.states = {}
        self._model = None

    @property
    def depths(self):
        """Of its stacks, once it is loaded."""
        return depths(self._model)

    @torch.no_grad()
    def log_probs(self, forward, like, temperature):
        """What it says of each word, ``rows x V``.

        ``states`` is then what left its layers, if it is watched.

        Args:
            forward: the student's; the teacher reads the same inputs.
            like: the student, on whose device and in whose precision it computes.
            temperature: of the distribution.
        """
        if self._model is None:
            self._model = load_teacher(self.path, self.task)
        parameter = next(like.parameters())
        self._model.to(device=parameter.device, dtype=parameter.dtype)
        random_numbers = utils.get_rng_state()  # fairseq's list of layers draws in evaluation, too
        with states(self._model) if self.watched else nullcontext({}) as self.states:
            output = self._model(*forward.inputs, **forward.named)
        utils.set_rng_state(random_numbers)
        return log_probs(self._model, output, temperature)


def load_teacher(path, task):
    """A frozen model, in evaluation.

    Raises:
        ValueError: if the file cannot be read, or is of another task or vocabulary.
    """
    options = task_options(task)
    data = {"data": options.data}
    try:
        state = checkpoint_utils.load_checkpoint_to_cpu(path, data)
    except FileNotFoundError:
        raise ValueError(f"--distill-teacher: there is no file {path}") from None
    except pickle.UnpicklingError:
        advice = f"`fairseq-layerdrop prune {path} OUT` writes it in today's form, whole"
        raise ValueError(f"--distill-teacher: fairseq cannot read {path}; {advice}") from None
    _check_task(path, vars_of(state["cfg"].task), vars_of(options))
    state["model"] = upgrade_state(state["model"])
    try:
        (model,), _, _ = checkpoint_utils.load_model_ensemble_and_task([path], data, state=state)
    except RuntimeError as error:  # sizes that do not fit
        what = str(error).splitlines()[-1].strip()
        raise ValueError(f"--distill-teacher: {path} has another vocabulary: {what}") from None
    logger.info(f"the teacher is {path}")
    return model.requires_grad_(False).eval()


def _check_task(path, its, ours):
    """Refuse a teacher of another task, or of other languages."""
    names = [
        str(cfg.get("_name") or cfg.get("task")).removeprefix("layerdrop_") for cfg in (its, ours)
    ]
    if names[0] != names[1]:
        raise ValueError(
            f"--distill-teacher: {path} must be of the task {names[1]}, got {names[0]}"
        )
    for side in ("source_lang", "target_lang"):
        one, other = its.get(side), ours.get(side)
        if one and other and one != other:
            raise ValueError(f"--distill-teacher: {path} must have {side} {other}, got {one}")


def vars_of(cfg):
    """A configuration as a dictionary, whichever of fairseq's kinds it is."""
    return cfg if hasattr(cfg, "get") else vars(cfg)
