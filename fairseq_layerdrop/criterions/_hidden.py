# SPDX-License-Identifier: MIT
"""How far a model's hidden states are from those of the model that it was cut from."""

from contextlib import contextmanager

import torch
import torch.nn.functional as F

from fairseq_layerdrop.modules.subnetwork import every_layer
from fairseq_layerdrop.pruning.plan import PruningPlan


@contextmanager
def states(model):
    """Note what leaves each layer in this scope: ``T x B x C`` by stack and index.

    A layer that does not run is not there.
    """
    seen = {}

    def noted(place):
        def note(module, inputs, output):
            seen[place] = output[0] if isinstance(output, tuple) else output

        return note

    layers = [(noted((stack, i)), layer) for stack, i, layer in every_layer(model)]
    hooks = [layer.register_forward_hook(note) for note, layer in layers]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def counterparts(plan, student, teacher):
    """The teacher's layer after which its state is what a student's layer should give.

    That is the last layer before the next one that stays, as in compensation: what the layers
    between them did is for the student's layer to do.

    Args:
        plan: what was kept of the teacher, e.g. ``all/0,2,4``; without one, layers evenly spread.
        student: the depths of its stacks.
        teacher: likewise.

    Returns:
        The teacher's places by the student's, each a stack and an index.

    Raises:
        ValueError: if the plan does not fit the two.
    """
    try:
        if plan:
            found = PruningPlan.parse(plan, teacher)
        else:
            even = {stack: f"even:{count}" for stack, count in student.items()}
            found = PruningPlan.from_specs(even, teacher)
    except ValueError as error:
        raise ValueError(f"--distill-plan: {error}") from None
    sizes = {stack: len(kept) for stack, kept in found.kept.items()}
    if sizes != student:
        raise ValueError(f"--distill-plan must keep the student's layers, {student}, got {sizes}")
    places = {}
    for stack, kept in found.kept.items():
        for index, following in enumerate((*kept[1:], teacher[stack])):
            places[stack, index] = (stack, following - 1)
    return places


def hidden_distance(own, taught, places, real):
    """The mean squared difference of the layer-normed states, over tokens, features and layers.

    Args:
        own: the student's states.
        taught: the teacher's.
        places: what :func:`counterparts` gives.
        real: by stack, ``T x B``, which positions are tokens and no padding.

    Raises:
        ValueError: if the two models' states are of different widths.
    """
    distances = []
    for place, state in own.items():
        goal = taught[places[place]]
        if goal.shape != state.shape:
            raise ValueError(
                "--distill-hidden takes a teacher whose states are as wide as the student's "
                f"({state.shape[-1]}), got {goal.shape[-1]}"
            )
        mine, other = (_normed(x[real[place[0]]]) for x in (state, goal))
        distances.append(F.mse_loss(mine, other))
    return torch.stack(distances).mean()


def _normed(x):
    return F.layer_norm(x.float(), x.shape[-1:])
