# SPDX-License-Identifier: MIT
"""A folder for transformers, from a fairseq model that is loaded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fairseq_layerdrop.compatibility import task_options
from fairseq_layerdrop.formats.huggingface import card, folder, tokenizer, usage
from fairseq_layerdrop.formats.huggingface.agreement import Agreement
from fairseq_layerdrop.formats.huggingface.around import around
from fairseq_layerdrop.formats.huggingface.compare import compare
from fairseq_layerdrop.formats.huggingface.convert import convert
from fairseq_layerdrop.formats.huggingface.extend import extend
from fairseq_layerdrop.formats.huggingface.inputs import Sentence
from fairseq_layerdrop.formats.huggingface.letters import write_letters, write_preparation
from fairseq_layerdrop.formats.huggingface.lines import LineAgreement, compare_lines
from fairseq_layerdrop.formats.huggingface.source import Source, Target
from fairseq_layerdrop.formats.huggingface.tokenizer import TextFiles
from fairseq_layerdrop.formats.huggingface.vocabulary import Vocabulary


@dataclass(frozen=True)
class Wishes:
    """What a user asks for beside the model itself.

    Attributes:
        head: of a RoBERTa, the classification head that is exported.
        files: what its text was encoded with.
        text: lines that the tokenizer is compared on.
    """

    head: str | None = None
    files: TextFiles = field(default_factory=TextFiles)
    text: Sequence[str] | None = None


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        architecture: the class of transformers.
        agreement: how it was compared with fairseq.
        lines: how its tokenizer was.
        use: a program that uses it.
    """

    architecture: str
    agreement: Agreement
    lines: LineAgreement | None
    use: str


def export(
    model: Any,
    task: Any,
    stock: Mapping[str, Any],
    wishes: Wishes,
    sentences: Sequence[Sentence],
    into: Path,
    name: str,
) -> Exported:
    """Write configuration, weights, tokenizer and card, and compare what was written with fairseq.

    Args:
        model: of stock fairseq, loaded, in evaluation.
        task: its task.
        stock: its checkpoint.
        wishes: what else is asked for.
        sentences: to compare on; without any, ids are drawn.
        into: the folder.
        name: what it will be called.

    Raises:
        ValueError: naming what has no home in transformers, what does not fit, or what differs.
    """
    source, converted = convert(model, task, stock["cfg"]["model"], head=wishes.head)
    _check_wishes(wishes, source)
    words = Vocabulary.of(task.source_dictionary) if wishes.files else None
    lines, spare = None, 0
    if words is not None:
        lines, spare = _write_tokenizers(task, source, converted, wishes, words, into)
    target = extend(converted, spare, words.unk if words else 0)
    written = folder.write(target, into)
    if source.family.endswith("_ctc"):
        write_letters(Vocabulary.of(task.target_dictionary), into)
    if "conv_stride" in target.config:
        normalized = bool((stock["cfg"].get("task") or {}).get("normalize"))
        masked = target.config["feat_extract_norm"] == "layer"
        write_preparation(normalized=normalized, masked=masked, folder=into)
    agreement = compare(model, task, written, source, converted, sentences, wishes.head)
    use = _program(target, words, name, two=(into / "target").is_dir())
    text = card.write(target, stock, agreement, lines, use, tokenizer=words is not None)
    (into / "README.md").write_text(text, encoding="utf-8")
    return Exported(target.architecture, agreement, lines, use)


def _check_wishes(wishes: Wishes, source: Source) -> None:
    reads_sound = source.family.removesuffix("_ctc") in ("wav2vec2", "hubert", "s2t_transformer")
    if wishes.files and reads_sound:
        raise ValueError("a model of sound reads no text: leave the tokenizer's files out")
    if wishes.text is not None and not wishes.files:
        raise ValueError("text= goes with a tokenizer's files, e.g. sentencepiece=")


def _write_tokenizers(
    task: Any, source: Source, target: Target, wishes: Wishes, words: Vocabulary, into: Path
) -> tuple[LineAgreement | None, int]:
    """Write the files; how the lines agree, and how many ids there are behind the dictionary's."""
    languages = _languages(task)
    written = Vocabulary.of(task.target_dictionary or task.source_dictionary)
    two = target.generation is not None and written.words != words.words
    spare = 0
    if wishes.files.bpe_codes is not None:
        tokenizer.write_moses(wishes.files, (words, written), languages, into)
    else:
        longest = target.config["max_position_embeddings"]
        longest -= source.pad + 1 if source.family == "roberta" else 0
        ours = tokenizer.build(wishes.files, words, around(task, source))
        tokenizer.write(ours, words, longest, into)
        spare = ours.get_vocab_size() - len(words.words)
        if two:
            theirs = tokenizer.build(wishes.files, written, around(task, source), -1)
            (into / "target").mkdir()
            tokenizer.write(theirs, written, longest, into / "target")
    if wishes.text is None:
        return None, spare
    read = tokenizer.read(into)
    return compare_lines(read, task.source_dictionary, wishes.files, languages, wishes.text), spare


def _languages(task: Any) -> tuple[str, str]:
    options = task_options(task)
    named = [getattr(options, f"{side}_lang", None) or "en" for side in ("source", "target")]
    return named[0], named[1]


def _program(target: Target, words: Vocabulary | None, name: str, *, two: bool) -> str:
    return usage.program(
        target.architecture,
        card.tag(target.architecture),
        name,
        tokenizer=words is not None,
        two=two,
        mask=words is not None and "<mask>" in words.ids,
    )
