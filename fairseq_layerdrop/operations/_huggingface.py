# SPDX-License-Identifier: MIT
"""A checkpoint as a folder for transformers: loaded by fairseq, converted, compared, described."""

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fairseq_layerdrop import checkpoint
from fairseq_layerdrop.formats import huggingface
from fairseq_layerdrop.operations._dictionaries import copy, plan_copies
from fairseq_layerdrop.pruning.config import architecture, in_style, model_section

_LONGEST = 64
"""Ids of a sentence that are compared: logits of a whole vocabulary take memory."""


def writer(
    stock: Mapping[str, Any], data: str, name: str, asked: Mapping[str, Any]
) -> Callable[[Path], dict[str, Any]]:
    """What writes ``new`` in a folder to work in, and returns the facts.

    Args:
        stock: the whole model, as a stock checkpoint of plain options.
        data: the folder of the dictionaries.
        name: what the folder will be called.
        asked: the arguments of :func:`~fairseq_layerdrop.operations.export.export` that are for
            this form.

    Raises:
        ValueError: if those do not go together, or a file is not there.
    """
    wishes, stock = _wishes(asked), _in_one_direction(stock)

    def write(scratch: Path) -> dict[str, Any]:
        from fairseq_layerdrop.evaluation import loading

        file, new = scratch / "checkpoint.pt", scratch / "new"
        checkpoint.save(_loadable(stock, wishes.head), file)
        loaded = loading.load(str(file), data)
        new.mkdir()
        sentences = _sentences(loaded)
        exported = huggingface.export(
            loaded.model, loaded.task, stock, wishes, sentences, new, name
        )
        if not wishes.files and any(Path(data).glob("dict*.txt")):
            copy(plan_copies(data, new / "model", force=True, of="DATA"))
        return _facts(exported)

    return write


def _wishes(asked: Mapping[str, Any]) -> huggingface.Wishes:
    pieces = asked["sentencepiece"]
    pieces = [pieces] if isinstance(pieces, (str, os.PathLike)) else list(pieces or ())
    pairs, codes = list(asked["gpt2_bpe"] or ()), asked["bpe_codes"]
    if sum(map(bool, (pieces, pairs, codes))) > 1:
        raise ValueError("only one of sentencepiece=, gpt2_bpe= and bpe_codes= made the text")
    if len(pieces) > 2:
        raise ValueError(f"sentencepiece= takes one model or two, got {len(pieces)}")
    if pairs and len(pairs) != 2:
        raise ValueError(f"gpt2_bpe= takes encoder.json and vocab.bpe, got {len(pairs)} files")
    for path in (*pieces, *pairs, *filter(None, (codes, asked["text"]))):
        if not Path(path).is_file():
            raise ValueError(f"there is no file {path}")
    files = huggingface.TextFiles(
        sentencepiece=tuple(map(Path, pieces)),
        gpt2_bpe=(Path(pairs[0]), Path(pairs[1])) if pairs else None,
        bpe_codes=Path(codes) if codes else None,
    )
    return huggingface.Wishes(asked["head"], files, _lines(asked["text"]))


def _lines(path: str | None) -> list[str] | None:
    """The lines of a text; an empty one has no ids to compare."""
    if path is None:
        return None
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"text=: {path} is not text in UTF-8") from None
    return [line for line in text.split("\n") if line.strip()]


def _facts(exported: huggingface.Exported) -> dict[str, Any]:
    lines = exported.lines
    tokenizer = None
    if lines is not None:
        tokenizer = {
            "lines": lines.lines,
            "equal": lines.lines - len(lines.different),
            "different": [asdict(line) for line in lines.different],
        }
    return {
        "class": exported.architecture,
        "compared": asdict(exported.agreement),
        "tokenizer": tokenizer,
        "use": exported.use.splitlines(),
    }


def _in_one_direction(stock: Mapping[str, Any]) -> Mapping[str, Any]:
    """A model of many directions, as fairseq-generate is asked for one of them: here the first."""
    task = stock["cfg"].get("task")
    if not isinstance(task, Mapping) or task.get("_name") != "translation_multi_simple_epoch":
        return stock
    pairs = task.get("lang_pairs")
    if not pairs or task.get("source_lang") or task.get("target_lang"):
        return stock
    first = pairs.split(",")[0] if isinstance(pairs, str) else pairs[0]
    source, target = first.split("-")
    named = {**task, "source_lang": source, "target_lang": target}
    return {**stock, "cfg": {**stock["cfg"], "task": named}}


def _loadable(stock: Mapping[str, Any], head: str | None) -> dict[str, Any]:
    """In the style that fairseq loads; with all heads, if one is chosen."""
    cfg = dict(stock["cfg"])
    if head is not None and "roberta" in architecture(model_section(stock)):
        cfg["model"] = {**cfg["model"], "load_checkpoint_heads": True}
    return {**stock, "cfg": in_style(cfg, None)}


def _sentences(loaded: Any) -> list[huggingface.Sentence]:
    """Of the test or the validation set, if DATA has one; sound is not read."""
    from fairseq_layerdrop.evaluation.loading import Batches

    if loaded.task.source_dictionary is None:
        return []
    for subset in ("test", "valid"):
        try:
            loaded.task.load_dataset(subset)
        # How tasks say that there is none; KeyError is translation_multi_simple_epoch's way.
        except (AssertionError, FileNotFoundError, KeyError, ValueError):
            continue
        dataset = loaded.task.dataset(subset)
        numbers = range(min(huggingface.SENTENCES, len(dataset)))
        (sample,) = Batches.collate(loaded, dataset, [numbers])
        return _ids(sample, loaded.task.source_dictionary, hasattr(loaded.model, "decoder"))
    return []


def _ids(sample: Any, words: Any, translated: bool) -> list[huggingface.Sentence]:
    """The rows of a batch without their padding; a target only where there is one to write."""
    sources = [_row(row, words.pad()) for row in sample["net_input"]["src_tokens"]]
    targets = [_row(row, words.pad()) for row in sample["target"]] if translated else sources
    return [
        huggingface.Sentence(source, target)
        for source, target in zip(sources, targets, strict=True)
    ]


def _row(row: Any, pad: int) -> list[int]:
    ids = [int(id_) for id_ in row if id_ != pad]
    return ids if len(ids) <= _LONGEST else [*ids[: _LONGEST - 1], ids[-1]]
