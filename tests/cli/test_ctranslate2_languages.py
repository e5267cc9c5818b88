# SPDX-License-Identifier: MIT
"""``export --to ctranslate2`` of multilingual models: M2M-100's and mBART's tasks, tiny."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import Command
from fairseq_programs import LANGUAGES, REPOSITORY, WIDTH, prune
from planted import subject, write_model
from repeats import mostly_slow

from fairseq_layerdrop.checkpoint import load, save
from fairseq_layerdrop.evaluation.decoding import Decoder
from fairseq_layerdrop.evaluation.loading import Batches
from fairseq_layerdrop.evaluation.subject import Subject

ctranslate2 = pytest.importorskip("ctranslate2")

TRANSLATE = str(REPOSITORY / "scripts" / "translate_ctranslate2.py")
SIZES = [*LANGUAGES, "--langs", "src,tgt", *WIDTH, "--encoder-layers", "3", "--decoder-layers", "3"]
PRE_NORM = ["--encoder-normalize-before", "--decoder-normalize-before"]
MULTI = [
    *("--task", "translation_multi_simple_epoch", "--lang-pairs", "src-tgt"),
    *("--encoder-langtok", "src", "--decoder-langtok"),
]
MODELS = {
    "M2M-100": [*MULTI, "--arch", "transformer_wmt_en_de", "--share-all-embeddings", *PRE_NORM],
    "mBART50": [*MULTI, "--arch", "mbart_base", "--lang-tok-style", "mbart"],
    "mBART25": ["--task", "translation_from_pretrained_bart", "--arch", "mbart_base"],
}
LANGUAGE_FLAGS = {
    "M2M-100": "--source '__src__ PIECES' --prefix __tgt__",
    "mBART50": "--source '[src] PIECES' --prefix '[tgt]'",
    "mBART25": "--source 'PIECES </s> [src]' --prefix '[tgt]' --end '[tgt]'",
}
LIMITS = {"max_decoding_length": 20, "max_input_length": 0}


def teach(tested: Subject, updates: int = 100) -> dict[str, Any]:
    """A loaded model's weights after some updates on its training set."""
    model, batches = tested.loaded.model, Batches(tested.loaded, "train")
    optimizer = torch.optim.Adam(model.requires_grad_(True).parameters(), lr=0.01)
    pad = tested.loaded.task.target_dictionary.pad()
    for update in range(updates):
        sample = batches.samples[update % len(batches)]
        logits = model(**sample["net_input"])[0]
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), sample["target"].flatten(), ignore_index=pad
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {name: tensor.detach() for name, tensor in model.state_dict().items()}


def write(kind: str, data: Path, folder: Path) -> Path:
    """A tiny model of a kind, pruned to two decoder layers, that then has learned a little."""
    full = write_model(data, folder / "full.pt", *SIZES, *MODELS[kind], scale=1)
    small = prune(full, folder / "small.pt", "--decoder-keep", "0,2")
    state = load(small)
    state["model"] = teach(subject(small, data))
    save(state, small, force=True)
    return small


def of_fairseq(tested: Subject, beam: int) -> list[tuple[list[str], list[str], list[float]]]:
    """What fairseq reads and writes of each test sentence, and the scores of what it writes."""
    decoder, words = Decoder(tested.loaded, beam=beam, max_len_b=18), tested.loaded.task
    found = []
    for sample in Batches(tested.loaded, "test"):
        rows = sample["net_input"]["src_tokens"]
        for row, (best, *_) in zip(rows, decoder.run(sample), strict=True):
            read = [words.source_dictionary[int(i)] for i in row if i != 1]
            written = [words.target_dictionary[int(i)] for i in best["tokens"]]
            found.append((read, written, best["positional_scores"].tolist()))
    assert len(found) == 11
    return found


@pytest.mark.parametrize("kind", mostly_slow(MODELS, "M2M-100"))
def test_it_translates_and_scores_as_fairseq_does(
    command: Command, data: Path, tmp_path: Path, kind: str
) -> None:
    small = write(kind, data, tmp_path)
    done = command("export", small, data, tmp_path / "out", "--to", "ctranslate2")
    assert done.status == 0, done.err
    last = done.out.splitlines()[-1]
    assert last == f"languages: {LANGUAGE_FLAGS[kind]}"
    flags = shlex.split(last.removeprefix("languages: "))
    marks = dict(zip(flags[::2], flags[1::2], strict=True))
    before, _, after = (part.split() for part in marks["--source"].partition("PIECES"))
    prefix, end = [marks["--prefix"]], marks.get("--end")
    made, tested = ctranslate2.Translator(str(tmp_path / "out")), subject(small, data)
    ends = {"end_token": end} if end else {}
    for beam in (1, 5):
        for read, written, scores in of_fairseq(tested, beam):
            # fairseq's </s> is the converter's own; mBART25's end is a word of its own.
            source = read if end else read[:-1]
            assert [source[: len(before)], source[len(source) - len(after) :]] == [before, after]
            target = [*prefix, *written] if end else written[:-1]
            (scored,) = made.score_batch([source], [target], max_input_length=0)
            # CTranslate2 scores the end that it adds, here one more than fairseq's.
            expected = pytest.approx(scores, abs=1e-4)
            assert scored.log_probs[: len(scores)] == expected
            (result,) = made.translate_batch(
                [source], target_prefix=[prefix], beam_size=beam, **LIMITS, **ends
            )
            assert result.hypotheses[0] == written[:-1]


def printed_use(out: str) -> str:
    """The program that ``export`` prints."""
    lines = out.partition("use it by:\n")[2].partition("\nlanguages:")[0].splitlines()
    return "\n".join(line.removeprefix("  ") for line in lines)


@pytest.mark.parametrize("kind", mostly_slow(["M2M-100", "mBART25"], "M2M-100"))
def test_the_printed_use_and_flags_give_the_text_alone(
    command: Command, data: Path, tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("subword_nmt")
    small = write(kind, data, tmp_path)
    done = command("export", small, data, tmp_path / "out", "--to", "ctranslate2")
    expected = [word for word in of_fairseq(subject(small, data), 5)[0][1] if word.isalpha()]
    source = [word for word in of_fairseq(subject(small, data), 5)[0][0] if word.isalpha()]
    exec(printed_use(done.out), {"PIECES": source})
    assert capfd.readouterr().out == f"{expected}\n"
    (tmp_path / "codes").write_text("#version: 0.2\nx y\n")
    flags = shlex.split(done.out.splitlines()[-1].removeprefix("languages: "))
    program = [sys.executable, TRANSLATE, tmp_path / "out", "--bpe-codes", tmp_path / "codes"]
    text = f"{' '.join(source)}\n" * 3
    found = subprocess.run(
        [*map(str, program), *flags, "--batch-size", "2"],
        input=text,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout == f"{' '.join(expected)}\n" * 3


def test_a_fixed_dictionary_is_found_or_named(command: Command, data: Path, tmp_path: Path) -> None:
    words = (data / "dict.src.txt").read_bytes()
    (tmp_path / "all.txt").write_bytes(words)
    flags = ["--fixed-dictionary", str(tmp_path / "all.txt"), "--langs", "src,tgt"]
    pairs = ["--lang-pairs", "tgt-src,src-tgt"]
    model = [*flags, *WIDTH, "--encoder-layers", "2", "--decoder-layers", "2", *MODELS["M2M-100"]]
    full = write_model(data, tmp_path / "full.pt", *model, *pairs)
    (tmp_path / "all.txt").rename(tmp_path / "elsewhere.txt")
    empty = tmp_path / "empty"
    empty.mkdir()
    to = ["--to", "ctranslate2"]
    done = command("export", full, empty, tmp_path / "out", *to)
    assert (done.status, done.err.count("\n"), (tmp_path / "out").exists()) == (2, 1, False)
    assert f"there is no dictionary for this model in {empty}" in done.err
    named = ["--fixed-dictionary", tmp_path / "elsewhere.txt"]
    done = command("export", full, empty, tmp_path / "named", *to, *named)
    assert (done.status, done.out.splitlines()[-1]) == (
        0,
        "languages: --source '__tgt__ PIECES' --prefix __src__",
    )
    (empty / "all.txt").write_bytes(words)
    done = command("export", full, empty, tmp_path / "found", *to)
    assert done.status == 0, done.err
    models = [(tmp_path / name / "model.bin").read_bytes() for name in ("named", "found")]
    assert models[0] == models[1]


MISTAKES = {
    "--fixed-dictionary goes with --to ctranslate2": ["--to", "safetensors"],
    "--fixed-dictionary goes with a model of translation_multi_simple_epoch": [
        *("--to", "ctranslate2")
    ],
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_fixed_dictionary_of_another_model_is_one_line(
    command: Command, data: Path, tmp_path: Path, words: str
) -> None:
    model = [*SIZES[:4], *WIDTH, "--task", "translation", "--arch", "transformer"]
    full = write_model(data, tmp_path / "full.pt", *model)
    named = ["--fixed-dictionary", data / "dict.src.txt"]
    done = command("export", full, data, tmp_path / "out", *named, *MISTAKES[words])
    assert (done.status, done.out, done.err.count("\n")) == (2, "", 1)
    assert re.sub(r"\s+", " ", done.err).find(words) > 0


def test_language_tokens_in_the_place_of_ends_are_refused(
    command: Command, data: Path, tmp_path: Path
) -> None:
    flags = [*SIZES, *MODELS["M2M-100"], "--lang-tok-replacing-bos-eos"]
    full = write_model(data, tmp_path / "full.pt", *flags)
    done = command("export", full, data, tmp_path / "out", "--to", "ctranslate2")
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert "--lang-tok-replacing-bos-eos is not taken" in done.err
