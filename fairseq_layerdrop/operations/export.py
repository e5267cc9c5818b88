# SPDX-License-Identifier: MIT
"""A model in another program's form: transformers, CTranslate2 or safetensors."""

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fairseq_layerdrop import __version__, checkpoint, formats
from fairseq_layerdrop.operations._choices import TARGETS, check_choice
from fairseq_layerdrop.operations._dictionaries import copy, plan_copies
from fairseq_layerdrop.operations.prune import check_of
from fairseq_layerdrop.pruning.plan import PruningPlan
from fairseq_layerdrop.pruning.source import Source
from fairseq_layerdrop.pruning.surgery import check_surgery, prune_checkpoint

FileName = str | os.PathLike[str]
Write = Callable[[Path], dict[str, Any]]
"""Write ``new``, the folder to be, and what is needed for that, into a folder to work in; return
the facts that only this form has.
"""


def export(
    source: FileName,
    data: FileName,
    output: FileName,
    to: str,
    *,
    quantization: str | None = None,
    fixed_dictionary: FileName | None = None,
    head: str | None = None,
    sentencepiece: FileName | Sequence[FileName] = (),
    gpt2_bpe: Sequence[FileName] = (),
    bpe_codes: FileName | None = None,
    text: FileName | None = None,
    check: str = "auto",
    user_dir: str | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Write a model as a folder that another program loads.

    >>> export("small.pt", "DATA", "small.ct2", "ctranslate2")  # doctest: +SKIP

    Args:
        source: a fairseq checkpoint (``.pt``), pruned or not; it is not changed.
        data: the data set in fairseq's binary form, for its dictionaries.
        output: the folder to write.
        to: ``huggingface``, ``ctranslate2`` or ``safetensors``.
        quantization: how CTranslate2's weights are stored, in its words; else in single precision.
        fixed_dictionary: for CTranslate2, the dictionary of all languages of a multilingual model,
            where it is not in ``data``.
        head: for transformers, the classification head of a RoBERTa; else its language model.
        sentencepiece: for transformers' tokenizer, the sentencepiece model of the text; of source
            and target, if they have two.
        gpt2_bpe: or ``encoder.json`` and ``vocab.bpe``.
        bpe_codes: or subword-nmt's codes, of text that Moses tokenized.
        text: raw text on which that tokenizer is compared with fairseq.
        check: of the model's stock form that is handed over, as in
            :func:`~fairseq_layerdrop.operations.prune.prune`.
        user_dir: the plugin that the model needs in fairseq, to be loaded.
        force: replace a folder that an export wrote.

    Returns:
        The facts: ``depth`` of each stack, ``bytes`` before and after, ``files``, the ``check``
        that the model passed; for transformers the ``class``, how it was ``compared``, how the
        ``tokenizer`` was, and a program that uses it (``use``); for CTranslate2 the ``marks`` of a
        multilingual model's languages.

    Raises:
        CheckpointError: if the source cannot be read safely, or the folder not be written.
        ValueError: if the library is not installed, or cannot run the model, naming all reasons.

    Whatever is raised, nothing is written.
    """
    wishes = {
        "head": head,
        "sentencepiece": sentencepiece,
        "gpt2_bpe": gpt2_bpe,
        "bpe_codes": bpe_codes,
        "text": text,
    }
    _check(to, quantization, fixed_dictionary, wishes)
    formats.check_installed(to)
    if Path(output).resolve() in Path(source).resolve().parents:  # it would be replaced
        raise ValueError(f"the checkpoint {source} lies in the output {output}; name another one")
    checkpoint.check_folder(output, ours=formats.FILES, force=force)
    if to == "safetensors":  # the other forms look for those that their model needs
        plan_copies(data, Path(output) / "model", force=True, of="DATA")
    full = checkpoint.open_source(source)
    stock, plan = _stock_form(full)
    found = check_of(full, check, user_dir=user_dir, data=data).verify(stock, plan.kept)
    with checkpoint.naming_file(source):
        job = _Job(stock, str(data), str(output), quantization, fixed_dictionary, wishes)
        write = _TARGETS[to](job)
        with checkpoint.new_folder(output, ours=formats.FILES, force=force) as scratch:
            facts = write(scratch)
    return facts | {
        "checkpoint": str(source),
        "output": str(output),
        "to": to,
        "quantization": quantization,
        "depth": full.depths,
        **_written(Path(source), Path(output)),
        "check": found,
    }


def _stock_form(full: Source) -> tuple[dict[str, Any], PruningPlan]:
    """The whole model as stock fairseq has it, and the plan that keeps all of it."""
    whole = PruningPlan.from_specs({}, full.depths)
    with checkpoint.naming_file(full.path):
        stock = prune_checkpoint(full, whole, version=__version__, style="plain")
        check_surgery(full.weights, stock["model"], whole)
    return stock, whole


def _written(source: Path, output: Path) -> dict[str, Any]:
    """The bytes before and after, and the names of the files."""
    files = sorted(path for path in output.rglob("*") if path.is_file())
    after = sum(path.stat().st_size for path in files)
    names = [path.relative_to(output).as_posix() for path in files]
    return {"bytes": [source.stat().st_size, after], "files": names}


@dataclass(frozen=True)
class _Job:
    """What is written of what, and what a user asked for beside."""

    stock: dict[str, Any]
    data: str
    output: str
    quantization: str | None
    fixed_dictionary: FileName | None
    wishes: dict[str, Any]


def _check(
    to: str,
    quantization: str | None,
    fixed_dictionary: FileName | None,
    wishes: dict[str, Any],
) -> None:
    check_choice("to", to, TARGETS)
    if quantization and to != "ctranslate2":
        raise ValueError("quantization= goes with to=ctranslate2")
    if fixed_dictionary is not None:
        if to != "ctranslate2":
            raise ValueError("fixed_dictionary= goes with to=ctranslate2")
        if not Path(fixed_dictionary).is_file():
            raise ValueError(f"fixed_dictionary= must be a file, got {fixed_dictionary}")
    if to != "huggingface" and (named := [f"{name}=" for name, wish in wishes.items() if wish]):
        raise ValueError(f"{', '.join(named)} goes with to=huggingface")


def _to_ctranslate2(job: _Job) -> Write:
    from fairseq_layerdrop.formats.ctranslate2 import convert, for_converter

    readable, marks = for_converter(job.stock, job.data, job.fixed_dictionary)

    def write(scratch: Path) -> dict[str, Any]:
        file = scratch / "checkpoint.pt"
        checkpoint.save(readable, file)
        convert(file, job.data, scratch / "new", job.quantization, ends=marks.end is None)
        return {"marks": asdict(marks)} if marks else {}

    return write


def _to_safetensors(job: _Job) -> Write:
    from fairseq_layerdrop.formats import safetensors

    def write(scratch: Path) -> dict[str, Any]:
        new = scratch / "new"
        new.mkdir()
        safetensors.write(job.stock, new)
        copy(plan_copies(job.data, new / "model", force=True, of="DATA"))
        return {}

    return write


def _to_huggingface(job: _Job) -> Write:
    from fairseq_layerdrop.operations._huggingface import writer

    return writer(job.stock, job.data, job.output, job.wishes)


_TARGETS: dict[str, Callable[[_Job], Write]] = {
    "huggingface": _to_huggingface,
    "ctranslate2": _to_ctranslate2,
    "safetensors": _to_safetensors,
}
