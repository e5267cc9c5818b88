# SPDX-License-Identifier: MIT
"""subword-nmt's codes with Moses' tokenization, as transformers' ``FSMTTokenizer`` reads them.

That tokenizer is a program of Python and no ``tokenizer.json``: Moses' rules are none of those
that a ``tokenizer.json`` can say. A piece that is not in the dictionary is ``<unk>``, as in
fairseq.
"""

import json
from pathlib import Path

from fairseq_layerdrop.formats.huggingface.vocabulary import Vocabulary

_CONTINUES, _ENDS = "@@", "</w>"


def write(
    codes: Path, source: Vocabulary, target: Vocabulary, languages: tuple[str, str], folder: Path
) -> None:
    """Write ``vocab-src.json``, ``vocab-tgt.json``, ``merges.txt`` and ``tokenizer_config.json``.

    Args:
        codes: subword-nmt's, of version 0.2.
        source: the dictionary of what is read.
        target: of what is written.
        languages: two letters each, for Moses' rules.
        folder: where they go.

    Raises:
        ValueError: if the codes are none, or make other words than the dictionaries'.
    """
    merges = _read(codes)
    made = {(left + right).removesuffix(_ENDS) for left, right in merges}
    for vocabulary in (source, target):
        _check_words(codes, made, vocabulary)
    for name, vocabulary in (("src", source), ("tgt", target)):
        ids = {_of_moses(word): number for word, number in vocabulary.ids.items()}
        (folder / f"vocab-{name}.json").write_text(json.dumps(ids), encoding="utf-8")
    lines = [f"{left} {right}\n" for left, right in merges]
    (folder / "merges.txt").write_text("".join(lines), encoding="utf-8")
    config = {
        "tokenizer_class": "FSMTTokenizer",
        "langs": [*languages],
        "do_lower_case": False,
        "model_max_length": 1024,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")


def _read(path: Path) -> list[tuple[str, str]]:
    try:
        first, *lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise ValueError(f"bpe_codes=: {path} cannot be read: {error}") from None
    pairs = [tuple(line.split()[:2]) for line in lines if line.strip()]
    if first != "#version: 0.2" or any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"bpe_codes=: {path} holds no codes of subword-nmt 0.2")
    return pairs  # type: ignore[return-value]


def _check_words(codes: Path, made: set[str], vocabulary: Vocabulary) -> None:
    """Every word of more than one letter was made by a merge."""
    long = [word.removesuffix(_CONTINUES) for word in vocabulary.text_words]
    long = [word for word in long if len(word) > 1]
    known = sum(word in made for word in long)
    if known < 0.5 * len(long):
        raise ValueError(
            f"bpe_codes=: {codes} makes {known} of the dictionary's {len(long)} longer words; "
            "they are another dictionary's"
        )


def _of_moses(word: str) -> str:
    """subword-nmt marks what continues and FSMTTokenizer what ends; of special words, neither."""
    if word in ("<s>", "<pad>", "</s>", "<unk>"):
        return word
    return word.removesuffix(_CONTINUES) if word.endswith(_CONTINUES) else word + _ENDS
