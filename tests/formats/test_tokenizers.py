# SPDX-License-Identifier: MIT
"""A tokenizer gives text the ids that fairseq's encoders and ``fairseq-preprocess`` give it."""

import gzip
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
from fairseq.data import Dictionary
from fairseq_programs import REPOSITORY
from gpt2 import gpt2_files
from huggingface_models import FORMS
from huggingface_models import build as model_of_form

from fairseq_layerdrop.formats.huggingface import tokenizer
from fairseq_layerdrop.formats.huggingface.around import Around
from fairseq_layerdrop.formats.huggingface.convert import convert
from fairseq_layerdrop.formats.huggingface.extend import extend
from fairseq_layerdrop.formats.huggingface.lines import LineAgreement, compare_lines
from fairseq_layerdrop.formats.huggingface.tokenizer import TextFiles
from fairseq_layerdrop.formats.huggingface.vocabulary import Vocabulary

END = Around([], [2])
ODD = ["", " two  spaces ", "▁ and a ▁mark", "日本 and é", "tab\there", "x" * 40]
"""Lines that tokenizers like to get wrong."""


def text(count: int) -> list[str]:
    """Captions of Multi30k, or sentences of this project's documents where it is not there."""
    captions = REPOSITORY.parent / "shared/data/multi30k/train.en.gz"
    if captions.is_file():
        lines = gzip.decompress(captions.read_bytes()).decode("utf-8").splitlines()
    else:
        documents = sorted((REPOSITORY / "docs").glob("*.md"))
        lines = [line for path in documents for line in path.read_text().splitlines() if line]
    return lines[:count]


def dictionary_of(lines: list[str], threshold: int = 0) -> Dictionary:
    """What ``fairseq-preprocess`` makes of encoded lines."""
    words = Dictionary()
    for line in lines:
        for word in line.split():
            words.add_symbol(word)
    words.finalize(threshold=threshold, padding_factor=8)
    return words


def compared(
    files: TextFiles, dictionary: Dictionary, lines: list[str], folder: Path
) -> LineAgreement:
    """Written, read by transformers, and compared with fairseq."""
    vocabulary = Vocabulary.of(dictionary)
    tokenizer.write(tokenizer.build(files, vocabulary, END), vocabulary, 100, folder)
    return compare_lines(tokenizer.read(folder), dictionary, files, ("en", "en"), lines)


@pytest.fixture(scope="module", params=["unigram", "bpe"])
def pieces(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A sentencepiece model of 500 pieces, and the text that it was made from, in pieces."""
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "text").write_text("\n".join(text(800)) + "\n", encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text"),
        model_prefix=str(folder / "spm"),
        model_type=request.param,
        vocab_size=500,
        minloglevel=2,
    )
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spm.model"))
    return folder / "spm.model", [" ".join(model.encode(line, out_type=str)) for line in text(800)]


def test_sentencepiece_gives_fairseq_s_ids(pieces: Any, tmp_path: Path) -> None:
    model, encoded = pieces
    lines = text(1200)[800:]
    found = compared(
        TextFiles(sentencepiece=(model,)), dictionary_of(encoded), [*lines, *ODD[:-1]], tmp_path
    )
    assert found.share >= 0.99


def test_a_sentence_ends_as_its_task_wants_it(pieces: Any, tmp_path: Path) -> None:
    model, encoded = pieces
    vocabulary = Vocabulary.of(dictionary_of(encoded))
    files = TextFiles(sentencepiece=(model,))
    built = tokenizer.build(files, vocabulary, Around([0], [2], [2, 2]))
    tokenizer.write(built, vocabulary, 64, tmp_path)
    read = tokenizer.read(tmp_path)
    ids = read("a man", "a dog")["input_ids"]
    assert (ids[0], ids[-1], ids.count(2), read.model_max_length) == (0, 2, 3, 64)
    assert read.decode(read("A man in a red hat.")["input_ids"], skip_special_tokens=True) == (
        "A man in a red hat."
    )


def test_a_model_of_other_pieces_is_refused(pieces: Any) -> None:
    model, _ = pieces
    other = dictionary_of([" ".join(f"w{i}" for i in range(30))])
    with pytest.raises(ValueError, match="another model's"):
        tokenizer.build(TextFiles(sentencepiece=(model,)), Vocabulary.of(other), END)


def test_gpt2_s_pairs_give_fairseq_s_ids(tmp_path: Path) -> None:
    from fairseq.data.encoders.gpt2_bpe_utils import get_encoder

    files = gpt2_files(tmp_path, text(400))
    encode = get_encoder(*map(str, files)).encode
    words = dictionary_of([" ".join(map(str, encode(line))) for line in text(400)])
    found = compared(TextFiles(gpt2_bpe=files), words, [*text(600)[400:], *ODD[1:]], tmp_path / "o")
    assert [line.text for line in found.different] == []
    assert Counter(words.symbols).most_common(1)[0][1] == 1


def test_subword_nmt_with_moses_gives_fairseq_s_ids(tmp_path: Path) -> None:
    moses = pytest.importorskip("sacremoses").MosesTokenizer("en")
    learn = pytest.importorskip("subword_nmt.learn_bpe")
    apply = pytest.importorskip("subword_nmt.apply_bpe")
    said = {"aggressive_dash_splits": True, "return_str": True, "escape": True}
    tokens = [moses.tokenize(line, **said) for line in text(400)]
    codes = tmp_path / "codes"
    with codes.open("w", encoding="utf-8") as file:
        learn.learn_bpe(tokens, file, 300)
    with codes.open(encoding="utf-8") as file:
        encode = apply.BPE(file).process_line
    words = dictionary_of([encode(line) for line in tokens])
    files, vocabulary = TextFiles(bpe_codes=codes), Vocabulary.of(words)
    (tmp_path / "out").mkdir()
    tokenizer.write_moses(files, (vocabulary, vocabulary), ("en", "de"), tmp_path / "out")
    read = tokenizer.read(tmp_path / "out")
    found = compare_lines(read, words, files, ("en", "de"), text(600)[400:])
    assert found.share >= 0.99
    assert read("a man")["input_ids"][-1] == 2


@pytest.mark.parametrize(
    ("files", "content", "words"),
    [
        ({"sentencepiece": "spm"}, b"no model", "is not a sentencepiece model"),
        ({"gpt2_bpe": "encoder"}, b"[]", "is not an encoder.json"),
        ({"bpe_codes": "codes"}, b"a b\n", "no codes of subword-nmt"),
    ],
)
def test_a_file_of_another_kind_is_refused(
    tmp_path: Path, files: dict[str, str], content: bytes, words: str
) -> None:
    ((kind, name),) = files.items()
    path = tmp_path / name
    path.write_bytes(content)
    given: Any = {"sentencepiece": (path,), "gpt2_bpe": (path, path)}.get(kind, path)
    vocabulary = Vocabulary.of(dictionary_of(["a b c"]))
    with pytest.raises(ValueError, match=words):
        if kind == "bpe_codes":
            tokenizer.write_moses(
                TextFiles(bpe_codes=given), (vocabulary, vocabulary), ("en", "en"), tmp_path
            )
        tokenizer.build(TextFiles(**{kind: given}), vocabulary, END)


def test_pieces_that_only_merges_go_through_get_rows_of_the_unknown_word(tmp_path: Path) -> None:
    """GPT-2's pairs with a dictionary of few words: every other piece reads as ``<unk>``."""
    from fairseq.data.encoders.gpt2_bpe_utils import get_encoder

    files = gpt2_files(tmp_path, text(400))
    encode = get_encoder(*map(str, files)).encode
    words = Vocabulary.of(dictionary_of([" ".join(map(str, encode("A man.")))]))
    built = tokenizer.build(TextFiles(gpt2_bpe=files), words, END)
    spare = built.get_vocab_size() - len(words.words)
    _, target = convert(*model_of_form(*FORMS["RoBERTa"][1]))
    size = target.config["vocab_size"]
    grown = extend(target, spare, words.unk)
    assert (spare > 500, grown.config["vocab_size"]) == (True, size + spare)
    table = grown.state["roberta.embeddings.word_embeddings.weight"]
    assert torch.equal(table[size:], table[3].expand(spare, -1))
    assert set(grown.state["lm_head.bias"][size:].tolist()) == {-1e4}
