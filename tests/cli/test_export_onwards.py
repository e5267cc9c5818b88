# SPDX-License-Identifier: MIT
"""What is exported for transformers goes on from there: to CTranslate2 and to ONNX."""

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from huggingface_models import MASKED, PAIRS
from planted import write_model
from repeats import mostly_slow

from fairseq_layerdrop import cli

transformers = pytest.importorskip("fairseq_layerdrop.formats.huggingface.library").transformers()

IDS = [[0, 5, 7, 9, 2], [0, 6, 2, 1, 1]]


@pytest.fixture(scope="module")
def exported(
    pieces: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """A RoBERTa and a BART of this data, exported with the tokenizer."""
    data, model = pieces
    folder = tmp_path_factory.mktemp("exported")
    flags = {
        "RoBERTa": [*MASKED, "roberta_base"],
        "BART": [*PAIRS, "bart_base", "--source-lang", "src", "--target-lang", "tgt"],
    }
    found = {}
    for name, said in flags.items():
        source = write_model(data, folder / f"{name}.pt", *said, scale=1)
        found[name] = folder / name
        command = ["export", str(source), str(data), str(found[name]), "--to", "huggingface"]
        assert cli.main([*command, "--sentencepiece", str(model)]) == 0
    return found


def test_ctranslate2_reads_roberta(exported: dict[str, Path], tmp_path: Path) -> None:
    ctranslate2 = pytest.importorskip("ctranslate2")
    out = tmp_path / "out"
    ctranslate2.converters.TransformersConverter(str(exported["RoBERTa"])).convert(str(out))
    model = transformers.AutoModelForMaskedLM.from_pretrained(exported["RoBERTa"]).base_model
    expected = model(torch.tensor(IDS[:1])).last_hidden_state
    found = ctranslate2.Encoder(str(out)).forward_batch(IDS[:1]).last_hidden_state
    assert torch.allclose(torch.from_numpy(numpy.array(found)), expected, atol=1e-5)


def test_ctranslate2_translates_with_bart(exported: dict[str, Path], tmp_path: Path) -> None:
    ctranslate2 = pytest.importorskip("ctranslate2")
    folder, out = exported["BART"], tmp_path / "out"
    ctranslate2.converters.TransformersConverter(str(folder)).convert(str(out))
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("a b c d")["input_ids"]
    (expected,) = model.generate(torch.tensor([ids]), num_beams=1, max_new_tokens=9).tolist()
    (found,) = ctranslate2.Translator(str(out)).translate_batch(
        [tokenizer.convert_ids_to_tokens(ids)], beam_size=1, max_decoding_length=8
    )
    words = tokenizer.convert_ids_to_tokens(expected[1:-1])  # the end is forced
    assert found.hypotheses[0] == words


class Logits(torch.nn.Module):
    """A model with nothing but tensors at both ends."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, *given: torch.Tensor) -> Any:
        decoder = {"decoder_input_ids": given[0], "use_cache": False} if given else {}
        return self.model(input_ids=ids, attention_mask=mask, **decoder).logits


@pytest.mark.parametrize("name", mostly_slow(["RoBERTa", "BART"], "BART"))
def test_onnxruntime_computes_the_same(
    exported: dict[str, Path], tmp_path: Path, name: str
) -> None:
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    kind = "AutoModelForMaskedLM" if name == "RoBERTa" else "AutoModelForSeq2SeqLM"
    model = getattr(transformers, kind).from_pretrained(exported[name]).eval()
    ids = torch.tensor(IDS)
    inputs = (ids, ids.ne(1).long(), *([] if name == "RoBERTa" else [ids[:, :3]]))
    target = tmp_path / "model.onnx"
    torch.onnx.export(Logits(model), inputs, target, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(str(target), providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    given = dict(zip(names, (tensor.numpy() for tensor in inputs), strict=True))
    (found,) = session.run(None, given)
    with torch.no_grad():
        expected = Logits(model)(*inputs)
    assert torch.allclose(torch.from_numpy(found), expected, atol=1e-5)
