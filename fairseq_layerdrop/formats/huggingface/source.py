# SPDX-License-Identifier: MIT
"""The two ends of a conversion: a fairseq model that is loaded, and a model of transformers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

FAMILIES = {
    "BARTModel": "bart",
    "TransformerModel": "transformer",
    "TransformerModelBase": "transformer",
    "TransformerAlignModel": "transformer",
    "TransformerLanguageModel": "transformer_lm",
    "RobertaModel": "roberta",
    "XLMRModel": "roberta",
    "CamembertModel": "roberta",
    "GottbertModel": "roberta",
    "Wav2Vec2Model": "wav2vec2",
    "Wav2VecCtc": "wav2vec2_ctc",
    "HubertModel": "hubert",
    "S2TTransformerModel": "s2t_transformer",
}
"""The fairseq models that have a home, by class, and their families. Exactly these: a subclass may
compute something else.
"""


@dataclass(frozen=True)
class Source:
    """A fairseq model as the converters see it.

    Attributes:
        family: one of :data:`FAMILIES`' values.
        options: those that are mapped, every one with the value that its model was built with.
        state: the weights, in single precision.
        bos, pad, eos: the ids of the special symbols.
        start: what the decoder is given first; a language, where the task says so.
        forced: what it then writes first, whatever it thinks; a language, too.
        end: what ends a text that is written; of mBART fine-tuned on one direction, its language.
    """

    family: str
    options: Mapping[str, Any]
    state: Mapping[str, Tensor]
    bos: int
    pad: int
    eos: int
    start: int = 2
    forced: int | None = None
    end: int = 2

    def tied(self, *names: str) -> bool:
        """Whether these weights are one: in memory, or in every value."""
        first, *others = (self.state.get(name) for name in names)
        return first is not None and all(
            other is not None
            and (other.data_ptr() == first.data_ptr() or torch.equal(other, first))
            for other in others
        )


@dataclass(frozen=True)
class Target:
    """What a conversion makes.

    Attributes:
        architecture: the class of transformers.
        config: the arguments of its configuration.
        state: its weights, every one.
        generation: the arguments of its ``GenerationConfig``, if it generates.
    """

    architecture: str
    config: dict[str, Any]
    state: dict[str, Tensor]
    generation: dict[str, Any] | None = field(default=None)
