# SPDX-License-Identifier: MIT
"""A program that uses what was written, to be pasted."""

_WITH_IDS = """\
import torch
from transformers import {model}
model = {model}.from_pretrained({folder!r})
print(model(torch.tensor([[{ids}]])))
"""

_PIPELINE = """\
from transformers import pipeline
print(pipeline({task!r}, {folder!r})({example}))
"""

_TRANSLATION = """\
from transformers import {model}, AutoTokenizer
tokenizer, model = AutoTokenizer.from_pretrained({folder!r}), {model}.from_pretrained({folder!r})
ids = model.generate(**tokenizer("TEXT", return_tensors="pt", return_token_type_ids=False))
print({decoder}.decode(ids[0], skip_special_tokens=True))
"""

_SOUND = """\
import torch
from transformers import {model}
model = {model}.from_pretrained({folder!r})
print({call})
"""

_TWO = "AutoTokenizer.from_pretrained({folder!r} + '/target')"


def program(
    architecture: str, task: str, folder: str, *, tokenizer: bool, two: bool, mask: bool
) -> str:
    """The program.

    Args:
        architecture: the class.
        task: what it does, in transformers' words.
        folder: where the model is.
        tokenizer: whether there is one; without, ids are given.
        two: whether what is written has a tokenizer of its own.
        mask: whether there is a word for what is masked.
    """
    if task == "feature-extraction":
        call = "model(torch.zeros(1, 16000)).last_hidden_state"
        return _SOUND.format(model=architecture, folder=folder, call=call)
    if architecture.startswith("Speech2Text"):
        call = "model.generate(input_features=FEATURES, attention_mask=MASK)"
        return _SOUND.format(model=architecture, folder=folder, call=call)
    if task == "automatic-speech-recognition":
        return _PIPELINE.format(task=task, folder=folder, example='"clip.wav"')
    if task == "translation" and tokenizer:
        decoder = _TWO.format(folder=folder) if two else "tokenizer"
        return _TRANSLATION.format(model=architecture, folder=folder, decoder=decoder)
    if task == "fill-mask" and not mask:
        tokenizer = False
    if tokenizer:
        example = '"TEXT <mask>"' if task == "fill-mask" else '"TEXT"'
        return _PIPELINE.format(task=task, folder=folder, example=example)
    return _WITH_IDS.format(model=architecture, folder=folder, ids="0, 5, 6, 2")
