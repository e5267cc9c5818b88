# SPDX-License-Identifier: MIT
"""A model becomes the class of transformers that computes what it computes; any other is
refused.
"""

from pathlib import Path

import pytest
import torch
from huggingface_models import FORMS, LEARNED, MASKED, PAIRS, PRE, TEXT, WIDE, agreement, build

from fairseq_layerdrop.formats.huggingface.compare import compare
from fairseq_layerdrop.formats.huggingface.convert import convert
from fairseq_layerdrop.formats.huggingface.folder import write

pytestmark = pytest.mark.usefixtures("short_texts")


@pytest.mark.parametrize("name", FORMS)
def test_a_form_becomes_its_class_and_computes_the_same(name: str, tmp_path: Path) -> None:
    expected, flags = FORMS[name]
    built = build(*flags)
    source, target = convert(*built)
    assert target.architecture == expected
    model = write(target, tmp_path / "one")
    found = compare(built.model, built.task, model, source, target)
    assert found.logits < 1e-5
    assert found.generated == (20 if target.generation else 0)
    model.save_pretrained(tmp_path / "two")
    again = type(model).from_pretrained(tmp_path / "two").state_dict()
    assert all(torch.equal(again[key], value) for key, value in model.state_dict().items())


HOMELESS = {
    "--layernorm-embedding without": [*PAIRS, "transformer", "--layernorm-embedding"],
    "pre-norm with learned positions": [*PAIRS, "transformer", *LEARNED, *PRE],
    "--encoder-normalize-before True with": [*PAIRS, "transformer", PRE[0]],
    "--decoder-embed-dim 32 with --decoder-output-dim 16": [
        *(*PAIRS, "transformer", "--decoder-output-dim", "16"),
    ],
    "--no-decoder-final-norm": [*PAIRS, "transformer", *PRE, "--no-decoder-final-norm"],
    "--adaptive-softmax-cutoff": [*TEXT, *WIDE, "--adaptive-softmax-cutoff", "8,16"],
    "--character-embeddings": [*TEXT, *WIDE, "--character-embeddings"],
    "a language model's --layernorm-embedding": [*TEXT, *WIDE, "--layernorm-embedding"],
    "--decoder-input-dim and --decoder-output-dim": [
        *(*TEXT, "--decoder-input-dim", "16", "--decoder-output-dim", "32"),
    ],
    "--scale-heads": [*TEXT, *WIDE, "--scale-heads"],
    "--activation-fn gelu, got relu": [*MASKED, "roberta_base", "--activation-fn", "relu"],
    "--no-token-positional-embeddings": [
        *(*PAIRS, "transformer", "--no-token-positional-embeddings"),
    ],
    "--cross-self-attention": [*PAIRS, "transformer", "--cross-self-attention"],
    "LightConvModel": ["--task", "translation", "--arch", "lightconv"],
}


@pytest.mark.parametrize("words", HOMELESS)
def test_a_form_without_a_home_is_refused_by_name(words: str) -> None:
    with pytest.raises(ValueError, match="transformers") as error:
        convert(*build(*HOMELESS[words]))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_classification_head_is_chosen_by_name(tmp_path: Path) -> None:
    built = build(*FORMS["RoBERTa"][1])
    built.model.register_classification_head("mnli", num_classes=3)
    built.model.register_classification_head("sts-b", num_classes=1)
    found = [agreement(built, tmp_path / name, name) for name in ("mnli", "sts-b")]
    assert max(one.logits for one in found) < 1e-5
    with pytest.raises(ValueError, match="heads are: mnli, sts-b"):
        convert(*built, head="rte")


@pytest.mark.parametrize("name", ["RoBERTa", "BART", "post-norm", "pre-norm language model"])
def test_what_differs_is_not_written(name: str, tmp_path: Path) -> None:
    built = build(*FORMS[name][1])
    source, target = convert(*built)
    key = next(key for key in target.state if key.endswith("fc1.bias") or "intermediate" in key)
    target.state[key] = target.state[key] + 1e-3
    with pytest.raises(ValueError, match="logits differ from fairseq's"):
        compare(built.model, built.task, write(target, tmp_path), source, target)


def test_a_weight_that_has_no_place_is_named() -> None:
    built = build(*FORMS["BART"][1])
    built.model.encoder.layers[1].extra = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"the weights encoder.layers.N.extra"):
        convert(*built)
