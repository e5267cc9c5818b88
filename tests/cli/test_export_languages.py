# SPDX-License-Identifier: MIT
"""Models of many languages, which their tasks add to the dictionary: mBART's and M2M-100's."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from commands import Command
from fairseq.tasks import TASK_REGISTRY
from fairseq_programs import LANGUAGES, config, prune
from huggingface_models import DECODER, ENCODER, ONE_TABLE, POSITIONS, PRE
from planted import write_model

from fairseq_layerdrop.formats.huggingface import tokenizer
from fairseq_layerdrop.formats.huggingface.around import around
from fairseq_layerdrop.formats.huggingface.source import Source
from fairseq_layerdrop.formats.huggingface.tokenizer import TextFiles
from fairseq_layerdrop.formats.huggingface.vocabulary import Vocabulary

transformers = pytest.importorskip("fairseq_layerdrop.formats.huggingface.library").transformers()

pytestmark = pytest.mark.usefixtures("short_texts")

DEEP = ["--encoder-layers", "3", "--decoder-layers", "3"]
SIZES = [*ENCODER, *DECODER, *POSITIONS, *PRE, *DEEP]
MBART = ["--arch", "mbart_base", "--layernorm-embedding", *SIZES]
M2M = ["--arch", "transformer", ONE_TABLE, *SIZES]
MANY = [
    *("--task", "translation_multi_simple_epoch", "--lang-pairs", "tgt-src,src-tgt"),
    *("--langs", "other,src,tgt", "--encoder-langtok", "src", "--decoder-langtok"),
]
MBART50 = [*MANY, "--lang-tok-style", "mbart", *LANGUAGES, *MBART]
FINE_TUNED = ["--task", "translation_from_pretrained_bart", "--langs", "other,src,tgt", *LANGUAGES]
PRETRAINED = ["--task", "multilingual_denoising", "--add-lang-token", "--langs", "src,tgt"]

MODELS: dict[str, tuple[list[str], str, tuple[str, str | None, str]]] = {
    "mBART, pre-trained": ([*PRETRAINED, *MBART], "MBart", ("</s>", None, "</s>")),
    "mBART, fine-tuned": ([*FINE_TUNED, *MBART], "MBart", ("[tgt]", None, "[tgt]")),
    "mBART50": (MBART50, "MBart", ("</s>", "[tgt]", "</s>")),
    "mBART50, a language for the end": (
        [*MBART50, "--lang-tok-replacing-bos-eos"],
        "MBart",
        ("[tgt]", None, "</s>"),
    ),
    # Its first direction: it says of none that it is the one to be written.
    "M2M-100": ([*MANY, *M2M], "M2M100", ("</s>", "__src__", "</s>")),
}
"""Flags, class, and the words that a text begins with, is made to begin with, and ends with."""
ADDED = {
    "multilingual_denoising": ["[src]", "[tgt]", "<mask>"],
    "translation_from_pretrained_bart": ["[other]", "[src]", "[tgt]", "<mask>"],
    "mbart": ["[other]", "[src]", "[tgt]", "<mask>"],
    "m2m": ["__other__", "__src__", "__tgt__"],
}
"""What the tasks add, in this order."""


@pytest.fixture(scope="module")
def texts_of_languages(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy data set as ``multilingual_denoising`` wants it: a folder a language."""
    folder = tmp_path_factory.mktemp("languages")
    shutil.copy(data / "dict.src.txt", folder / "dict.txt")
    for language in ("src", "tgt"):
        (folder / language).mkdir()
        for path in data.glob(f"*.src-tgt.{language}.*"):
            name = f"{path.name.partition('.')[0]}{path.suffix}"
            shutil.copy(path, folder / language / name)
    return folder


def words_of(data: Path, added: list[str]) -> list[str]:
    """A dictionary's words in the order of their ids, with those that a task adds."""
    lines = (data / "dict.src.txt").read_text().splitlines()
    return ["<s>", "<pad>", "</s>", "<unk>", *(line.split()[0] for line in lines), *added]


@pytest.mark.parametrize("name", MODELS)
def test_languages_that_a_task_adds_have_the_ids_of_fairseq(
    name: str, data: Path, texts_of_languages: Path, tmp_path: Path, command: Command
) -> None:
    flags, kind, ends = MODELS[name]
    task = flags[1] if flags[1] in ADDED else {"MBart": "mbart", "M2M100": "m2m"}[kind]
    folder = texts_of_languages if "pre-trained" in name else data
    whole = write_model(folder, tmp_path / "whole.pt", *flags, scale=1)
    small = prune(whole, tmp_path / "small.pt", "--encoder-keep", "0,2", "--decoder-keep", "0,2")
    done = command("export", small, folder, tmp_path / "out", "--to", "huggingface", "--json")
    assert done.status == 0, done.err
    facts = json.loads(done.out)
    assert facts["class"] == f"{kind}ForConditionalGeneration"
    assert facts["compared"]["logits"] < 1e-5
    assert facts["compared"]["generated"] == facts["compared"]["sentences"] > 1
    config = transformers.AutoConfig.from_pretrained(tmp_path / "out")
    words = words_of(data, ADDED[task])
    assert config.vocab_size == len(words)
    told = transformers.GenerationConfig.from_pretrained(tmp_path / "out")
    ids = (told.decoder_start_token_id, told.forced_bos_token_id, told.eos_token_id)
    assert tuple(None if id_ is None else words[id_] for id_ in ids) == ends


AROUND = {
    "mBART, fine-tuned": (["</s>", "[src]"], [*FINE_TUNED, *MBART]),
    "mBART50": (["[src]", "</s>"], MBART50),
    "mBART50, a language for the end": (["[src]"], [*MBART50, "--lang-tok-replacing-bos-eos"]),
}


@pytest.mark.parametrize("name", AROUND)
def test_a_tokenizer_puts_the_language_where_the_task_does(
    name: str, pieces: tuple[Path, Path], tmp_path: Path
) -> None:
    data, model = pieces
    expected, flags = AROUND[name]
    cfg = config(*flags)
    cfg.task.data = str(data)
    task = TASK_REGISTRY[cfg.task._name].setup_task(cfg.task)
    task.args = cfg.task  # fairseq reads both names, and our loading gives both
    words = Vocabulary.of(task.source_dictionary)
    there = around(task, Source("bart", {}, {}, words.bos, words.pad, words.eos))
    made = tokenizer.build(TextFiles(sentencepiece=(model,)), words, there)
    tokenizer.write(made, words, 80, tmp_path)
    read = tokenizer.read(tmp_path)
    ids = read("a b c")["input_ids"]
    special = {"<s>", "</s>", *words.languages}
    assert [word for word in read.convert_ids_to_tokens(ids) if word in special] == expected
    assert read.decode(ids, skip_special_tokens=True) == "a b c"


def test_another_direction_is_two_ids(
    pieces: tuple[Path, Path], tmp_path: Path, command: Command
) -> None:
    """What docs/export.md says of a model of many directions."""
    data, model = pieces
    source = write_model(data, tmp_path / "model.pt", *MANY, *M2M, scale=1)
    out = tmp_path / "out"
    said = ["--to", "huggingface", "--sentencepiece", model]
    assert command("export", source, data, out, *said).status == 0
    assert "direction: tgt to src" in (out / "README.md").read_text()
    read = transformers.AutoTokenizer.from_pretrained(out)
    exported_model = transformers.AutoModelForSeq2SeqLM.from_pretrained(out)
    batch: Any = read("a b c", return_tensors="pt", return_token_type_ids=False)
    first, last = read.convert_ids_to_tokens(batch["input_ids"][0])[:: len(batch[0]) - 1]
    assert (first, last) == ("__tgt__", "</s>")
    batch["input_ids"][:, 0] = read.convert_tokens_to_ids("__src__")
    other = read.convert_tokens_to_ids("__tgt__")
    ids = exported_model.generate(**batch, forced_bos_token_id=other, max_new_tokens=5)
    assert read.convert_ids_to_tokens(ids[0])[:2] == ["</s>", "__tgt__"]
    assert "__" not in read.decode(ids[0], skip_special_tokens=True)
