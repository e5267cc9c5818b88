# SPDX-License-Identifier: MIT
"""How a multilingual model is told its languages: words around the pieces that it reads and writes.

fairseq's tasks put them there; whoever runs the model without fairseq has to.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MULTILINGUAL = "translation_multi_simple_epoch"
PRETRAINED_BART = "translation_from_pretrained_bart"
PIECES = "PIECES"
"""What stands for the pieces of a source in :attr:`Marks.source`."""
_STYLES = {"multilingual": "__{}__", "mbart": "[{}]"}


@dataclass(frozen=True)
class Marks:
    """The words that a pair of languages asks for.

    Attributes:
        source: what is read: words, and :data:`PIECES` where the source's pieces go.
        prefix: the words with which what is written begins, before its first piece.
        end: the word that ends what is written, where that is not ``</s>``; then the end and the
            start must be given, too, for the model knows none.
    """

    source: tuple[str, ...] = (PIECES,)
    prefix: tuple[str, ...] = ()
    end: str | None = None

    def __bool__(self) -> bool:
        return self != Marks()


def marks(task: str, options: Mapping[str, Any]) -> Marks:
    """The marks of a task whose options are with :func:`one_pair`."""
    source, target = options.get("source_lang"), options.get("target_lang")
    if task == PRETRAINED_BART:
        begin = ("<s>",) if options.get("prepend_bos") else ()
        return Marks((*begin, PIECES, "</s>", f"[{source}]"), (f"[{target}]",), f"[{target}]")
    if task != MULTILINGUAL:
        return Marks()
    of_source, of_target = (options.get("langtoks") or {}).get(
        "main", (options.get("encoder_langtok"), "tgt" if options.get("decoder_langtok") else None)
    )
    style = _STYLES[options.get("lang_tok_style") or "multilingual"]
    read = source if str(of_source).startswith("src") else target
    return Marks(
        (style.format(read), PIECES) if of_source else (PIECES,),
        (style.format(target),) if of_target else (),
    )


def one_pair(
    options: Mapping[str, Any], data: str, fixed_dictionary: str | os.PathLike[str] | None
) -> dict[str, Any]:
    """The options of :data:`MULTILINGUAL` for one of its pairs of languages, its files in place.

    Args:
        options: the task's, as the training had them.
        data: the folder where files of the training are looked for by their names.
        fixed_dictionary: the dictionary of all languages, if it is not there.

    Raises:
        ValueError: if there is no pair, or the list of its languages is gone.
    """
    found = dict(options)
    pairs = options.get("lang_pairs") or []
    first, *_ = pairs.split(",") if isinstance(pairs, str) else [*pairs, ""]
    given = (options.get("source_lang"), options.get("target_lang"))
    source, _, target = (first if None in given else "-".join(map(str, given))).partition("-")
    if not target:
        raise ValueError(f"{MULTILINGUAL} needs --lang-pairs, got {pairs!r}")
    found |= {"source_lang": source, "target_lang": target, "lang_pairs": [f"{source}-{target}"]}
    found |= {
        name: _in_place(options.get(name), data)
        for name in ("fixed_dictionary", "source_dict", "target_dict")
    }
    if fixed_dictionary is not None:
        found["fixed_dictionary"] = str(fixed_dictionary)
    return found | {"langs": _languages(options, pairs, data), "lang_dict": None}


def _in_place(path: str | None, data: str) -> str | None:
    """A file of the training: by its name in ``data``, or where it was."""
    places = [Path(data) / Path(path).name, Path(path)] if path else []
    return next((str(place) for place in places if place.is_file()), None)


def _languages(options: Mapping[str, Any], pairs: Any, data: str) -> list[str]:
    """All languages in fairseq's order, which is that of their words in the dictionary."""
    if path := options.get("lang_dict"):
        if (place := _in_place(path, data)) is None:
            raise ValueError(f"the list of its languages, {Path(path).name}, must be in {data}")
        return Path(place).read_text(encoding="utf-8").split()
    if langs := options.get("langs"):
        return langs.split(",") if isinstance(langs, str) else [*langs]
    all_pairs = pairs.split(",") if isinstance(pairs, str) else pairs
    return sorted({language for pair in all_pairs for language in pair.split("-")})
