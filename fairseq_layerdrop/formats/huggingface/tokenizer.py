# SPDX-License-Identifier: MIT
"""The files of a tokenizer whose ids are fairseq's."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairseq_layerdrop.formats.huggingface import byte_pairs, moses, sentencepiece
from fairseq_layerdrop.formats.huggingface.around import Around
from fairseq_layerdrop.formats.huggingface.library import transformers
from fairseq_layerdrop.formats.huggingface.vocabulary import Vocabulary


@dataclass(frozen=True)
class TextFiles:
    """What text was encoded with before ``fairseq-preprocess``: one of three, or nothing.

    Attributes:
        sentencepiece: a sentencepiece model; two, if what is written has its own.
        gpt2_bpe: ``encoder.json`` and ``vocab.bpe``.
        bpe_codes: subword-nmt's codes; the text was tokenized by Moses before.
    """

    sentencepiece: tuple[Path, ...] = ()
    gpt2_bpe: tuple[Path, Path] | None = None
    bpe_codes: Path | None = None

    def __bool__(self) -> bool:
        return any((self.sentencepiece, self.gpt2_bpe, self.bpe_codes))


def build(files: TextFiles, vocabulary: Vocabulary, around: Around, side: int = 0) -> Any:
    """The tokenizer of one dictionary, as ``tokenizer.json`` holds it.

    Args:
        files: what text was encoded with.
        vocabulary: the dictionary's.
        around: what a sentence is put between.
        side: 0 for what is read, -1 for what is written.

    Raises:
        ValueError: if a file is not what it should be, or fits another dictionary.
    """
    if files.sentencepiece:
        proto = sentencepiece.read(files.sentencepiece[side])
        tokenizer = sentencepiece.build(proto, vocabulary)
    else:
        assert files.gpt2_bpe is not None
        tokenizer = byte_pairs.build(*files.gpt2_bpe, vocabulary)
    tokenizer.post_processor = _template(around, vocabulary)
    return tokenizer


def write(tokenizer: Any, vocabulary: Vocabulary, longest: int, folder: Path) -> None:
    """Write ``tokenizer.json`` and ``tokenizer_config.json``.

    Args:
        tokenizer: what :func:`build` made.
        vocabulary: the dictionary's.
        longest: how many ids the model reads at most.
        folder: where they go.
    """
    names = {"bos_token": vocabulary.bos, "eos_token": vocabulary.eos, "pad_token": vocabulary.pad}
    names |= {"unk_token": vocabulary.unk, "cls_token": vocabulary.bos, "sep_token": vocabulary.eos}
    special: dict[str, Any] = {name: vocabulary.words[id_] for name, id_ in names.items()}
    if "<mask>" in vocabulary.ids:
        from tokenizers import AddedToken

        special["mask_token"] = AddedToken("<mask>", lstrip=True, special=True)
    if vocabulary.languages:
        special["extra_special_tokens"] = vocabulary.languages
    fast = transformers().PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=longest, **special
    )
    fast.save_pretrained(folder)


def write_moses(
    files: TextFiles,
    vocabularies: tuple[Vocabulary, Vocabulary],
    languages: tuple[str, str],
    folder: Path,
) -> None:
    """Write the files of ``FSMTTokenizer``."""
    assert files.bpe_codes is not None
    moses.write(files.bpe_codes, *vocabularies, languages, folder)


def read(folder: Path) -> Any:
    """The tokenizer that was written, as transformers finds it."""
    return transformers().AutoTokenizer.from_pretrained(folder)


def _template(around: Around, vocabulary: Vocabulary) -> Any:
    """The ids around a sentence, and around two."""
    from tokenizers.processors import TemplateProcessing

    def said(ids: list[int], number: int) -> list[str]:
        return [f"{vocabulary.words[id_]}:{number}" for id_ in ids]

    between = around.after if around.between is None else around.between
    single = [*said(around.before, 0), "$A:0", *said(around.after, 0)]
    pair = [*said(around.before, 0), "$A:0", *said(between, 0), "$B:0", *said(around.after, 0)]
    used = dict.fromkeys([*around.before, *around.after, *between])
    return TemplateProcessing(
        single=single, pair=pair, special_tokens=[(vocabulary.words[id_], id_) for id_ in used]
    )
