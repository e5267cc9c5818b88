# SPDX-License-Identifier: MIT
"""``export``: other programs compute and read what fairseq does."""

import fcntl
import json
import os
import pickle
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import Command, assert_one_line
from conftest import Run
from fairseq_programs import LANGUAGES, WIDTH, assert_same_tensors, hypotheses, prune, weights
from planted import subject, write_language_model, write_model

from fairseq_layerdrop import cli
from fairseq_layerdrop.checkpoint import load
from fairseq_layerdrop.cli.export import QUANTIZATIONS
from fairseq_layerdrop.evaluation.decoding import Decoder
from fairseq_layerdrop.evaluation.loading import Batches
from fairseq_layerdrop.evaluation.subject import Subject
from fairseq_layerdrop.formats.ctranslate2 import convert

ctranslate2 = pytest.importorskip("ctranslate2")
safetensors = pytest.importorskip("safetensors")

AS_FAIRSEQ = {"max_decoding_length": 200, "max_input_length": 0}
"""docs/export.md tells what each is for."""

SIZES = [
    *LANGUAGES,
    *WIDTH,
    "--encoder-layers",
    "2",
    "--decoder-layers",
    "2",
    "--task",
    "translation",
]
ROBERTA = ["--arch", "roberta", "--task", "masked_lm", *WIDTH[:6], "--encoder-layers", "2"]
MODELS = {
    "post-norm": ["--arch", "transformer", "--share-decoder-input-output-embed"],
    "pre-norm, learned positions, GELU": [
        *("--arch", "transformer", "--encoder-normalize-before", "--decoder-normalize-before"),
        *(
            "--encoder-learned-pos",
            "--decoder-learned-pos",
            "--activation-fn",
            "gelu",
            "--layernorm-embedding",
        ),
    ],
    "a narrow decoder": [
        "--arch",
        "transformer",
        "--decoder-embed-dim",
        "16",
        "--no-scale-embedding",
    ],
    "the plugin's": [
        "--arch",
        "layerdrop_transformer",
        "--share-layers",
        "2",
        "--share-all-embeddings",
    ],
    "BART": ["--arch", "layerdrop_bart"],
    "mBART": ["--arch", "mbart_base"],
    "alignment": ["--arch", "transformer_align", "--alignment-layer", "1"],
}


def export(source: Path, data: Path, target: Path, *flags: str) -> Path:
    """Run the verb in this process."""
    assert cli.main(["export", str(source), str(data), str(target), *flags]) == 0
    return target


def translator(source: Path, data: Path, target: Path, *flags: str) -> Any:
    """A checkpoint's CTranslate2 model, loaded."""
    return ctranslate2.Translator(str(export(source, data, target, "--to", "ctranslate2", *flags)))


def words_of(tested: Subject, tokens: Any, *, source: bool = False) -> list[str]:
    """A row of a batch as CTranslate2 reads it: no padding, no end."""
    words = tested.loaded.task.source_dictionary if source else tested.loaded.task.target_dictionary
    return [words[int(token)] for token in tokens if int(token) not in (words.pad(), words.eos())]


def token_scores(tested: Subject, sample: Any) -> list[list[float]]:
    """The log-probability of each word of each target, and of its end, by fairseq."""
    model, pad = tested.loaded.model, tested.loaded.task.target_dictionary.pad()
    scores = model.get_normalized_probs(model(**sample["net_input"]), log_probs=True)
    return [
        [
            float(of_step[token])
            for of_step, token in zip(of_steps, target, strict=True)
            if token != pad
        ]
        for of_steps, target in zip(scores, sample["target"], strict=True)
    ]


def assert_same_scores(found: list[Any], expected: list[list[float]]) -> None:
    """Every word's log-probability in all sentences; large weights, so rounding grows by layer."""
    assert [len(result.log_probs) for result in found] == [len(scores) for scores in expected]
    for result, scores in zip(found, expected, strict=True):
        assert result.log_probs == pytest.approx(scores, rel=5e-4, abs=1e-4)


@contextmanager
def open_folder(folder: Path) -> Iterator[int]:
    """A folder's descriptor, for a lock."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


# CTranslate2 computes the same


@pytest.mark.parametrize("beam", [1, 5])
def test_an_official_checkpoint_translates_as_in_fairseq(
    official: Path, tmp_path: Path, beam: int
) -> None:
    data, small = (
        official / "data-bin",
        prune(official / "checkpoint.pt", tmp_path / "s.pt", "--decoder-keep", "0,2,4"),
    )
    tested = subject(small, data)
    decoder = Decoder(tested.loaded, beam=beam)
    samples = Batches(tested.loaded, "test").samples
    sources = [
        words_of(tested, row, source=True)
        for sample in samples
        for row in sample["net_input"]["src_tokens"]
    ]
    expected = [best for sample in samples for best, *_ in decoder.run(sample)]
    made = translator(small, data, tmp_path / "out")
    found = [
        result.hypotheses[0]
        for result in made.translate_batch(sources, beam_size=beam, **AS_FAIRSEQ)
    ]
    assert len(found) == 100
    assert found == [words_of(tested, best["tokens"]) for best in expected]
    for result, best in zip(
        made.score_batch(sources, found, max_input_length=0), expected, strict=True
    ):
        assert statistics.fmean(result.log_probs) == pytest.approx(float(best["score"]), abs=1e-5)


def test_it_translates_as_official_fairseq_did(official: Path, tmp_path: Path) -> None:
    whole, data = official / "checkpoint.pt", official / "data-bin"
    expected = hypotheses((official / "expected" / "enc012345.dec012345.txt").read_text())
    tested = subject(whole, data)
    sources = {
        int(number): words_of(tested, row, source=True)
        for sample in Batches(tested.loaded, "test")
        for number, row in zip(sample["id"], sample["net_input"]["src_tokens"], strict=True)
    }
    made = translator(whole, data, tmp_path / "out")
    found = made.translate_batch([*sources.values()], beam_size=5, **AS_FAIRSEQ)
    assert [" ".join(result.hypotheses[0]) for result in found] == [
        expected[number][1] for number in sources
    ]
    assert len(found) == 100


@pytest.mark.parametrize("name", MODELS)
def test_every_family_gives_each_word_the_same_probability(
    data: Path, tmp_path: Path, name: str
) -> None:
    source = write_model(data, tmp_path / "drawn.pt", *SIZES, *MODELS[name])
    tested, made = subject(source, data), translator(source, data, tmp_path / "out")
    (sample,) = Batches(tested.loaded, "test")
    sides = [sample["net_input"]["src_tokens"], sample["target"]]
    found = made.score_batch(
        *([words_of(tested, row) for row in side] for side in sides), max_input_length=0
    )
    assert_same_scores(found, token_scores(tested, sample))


def test_a_language_model_gives_each_word_the_same_probability(
    text_data: Path, tmp_path: Path
) -> None:
    source = write_language_model(text_data, tmp_path)
    small = prune(source, tmp_path / "small.pt", "--decoder-keep", "0,3")
    made = ctranslate2.Generator(
        str(export(small, text_data, tmp_path / "out", "--to", "ctranslate2"))
    )
    tested = subject(small, text_data)
    (sample, *_) = Batches(tested.loaded, "test", max_sentences=1)
    words = tested.loaded.task.target_dictionary
    blocks = [
        [words[int(token)] for token in row] for row in sample["target"]
    ]  # with the ends of sentences in them
    found = made.score_batch([["</s>", *block] for block in blocks], max_input_length=0)
    model = tested.loaded.model
    inputs = torch.tensor(
        [[words.eos(), *(words.index(word) for word in block[:-1])] for block in blocks]
    )
    scores = model.get_normalized_probs(model(inputs), log_probs=True)
    assert_same_scores(found, scores.gather(-1, sample["target"][..., None])[..., 0].tolist())


def test_what_the_plugin_trained_is_exported_as_its_pruned_file_is_by_dictionaries_alone(
    data: Path, trained: Run, pruned: Callable[..., Path], tmp_path: Path
) -> None:
    dictionaries = tmp_path / "dictionaries"
    dictionaries.mkdir()
    for path in data.glob("dict.*"):
        (dictionaries / path.name).write_bytes(path.read_bytes())
    full = export(trained.last, dictionaries, tmp_path / "full", "--to", "ctranslate2")
    whole = export(pruned(), data, tmp_path / "whole", "--to", "ctranslate2")
    assert (full / "model.bin").read_bytes() == (whole / "model.bin").read_bytes()


def test_ctranslate2s_own_program_takes_a_namespace(
    data: Path, pruned: Callable[..., Path], trained: Run, tmp_path: Path
) -> None:
    small = prune(
        trained.last, tmp_path / "small.pt", "--decoder-keep", "0,2", "--config-style", "namespace"
    )
    program = Path(sys.executable).with_name("ct2-fairseq-converter")
    flags = ["--model_path", small, "--data_dir", data, "--output_dir", tmp_path / "theirs"]
    subprocess.run(
        [program, *map(str, flags), "--unsafe_deserialization"],
        check=True,
        capture_output=True,
        cwd="/",
    )
    ours = export(pruned("--decoder-keep", "0,2"), data, tmp_path / "ours", "--to", "ctranslate2")
    assert (ours / "model.bin").read_bytes() == (tmp_path / "theirs" / "model.bin").read_bytes()


# The command


def test_the_quantizations_are_those_of_ctranslate2() -> None:
    from ctranslate2.specs.model_spec import ACCEPTED_MODEL_TYPES

    assert QUANTIZATIONS == ACCEPTED_MODEL_TYPES


def test_int8_is_smaller_and_told(
    command: Command, data: Path, pruned: Callable[..., Path], tmp_path: Path
) -> None:
    printed = {}
    for quantization in ("float32", "int8"):
        flags = ["--to", "ctranslate2", "--quantization", quantization, "--json"]
        status, out, _ = command("export", pruned(), data, tmp_path / quantization, *flags)
        printed[quantization] = json.loads(out)
        assert (status, printed[quantization]["quantization"]) == (0, quantization)
    assert printed["int8"]["depth"] == {"encoder": 4, "decoder": 4}
    assert printed["int8"]["files"] == ["config.json", "model.bin", "shared_vocabulary.json"]
    assert printed["int8"]["bytes"][0] == pruned().stat().st_size
    assert printed["int8"]["bytes"][1] < printed["float32"]["bytes"][1]
    assert ctranslate2.Translator(printed["int8"]["output"]).compute_type.startswith("int8")


def test_the_printed_use_runs(
    command: Command, data: Path, pruned: Callable[..., Path], tmp_path: Path
) -> None:
    for form in ("ctranslate2", "safetensors"):
        status, out, _ = command("export", pruned(), data, tmp_path / form, "--to", form)
        use = "\n".join(
            line.removeprefix("  ") for line in out.partition("use it by:\n")[2].splitlines()
        )
        names: dict[str, Any] = {"PIECES": ["a", "b"]}
        exec(use, names)
        assert status == 0
    assert names["state"].keys() | names["ties"].keys() == weights(pruned()).keys() | {"format"}


def test_nothing_is_replaced_without_force_and_nothing_of_others_with_it(
    command: Command, data: Path, pruned: Callable[..., Path], tmp_path: Path
) -> None:
    out = export(pruned(), data, tmp_path / "out", "--to", "ctranslate2")
    status, _, err = command("export", pruned(), data, out, "--to", "safetensors")
    assert (status, "exists" in err, (out / "model.bin").exists()) == (2, True, True)
    export(pruned(), data, out, "--to", "safetensors", "--force")
    assert sorted(path.name for path in out.iterdir())[-1] == "model.safetensors"
    (out / "notes.txt").write_text("mine")
    status, _, err = command("export", pruned(), data, out, "--to", "safetensors", "--force")
    assert (status, "notes.txt" in err, (out / "notes.txt").read_text()) == (2, True, "mine")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_a_killed_export_left_is_cleared_and_a_running_one_is_respected(
    command: Command, data: Path, pruned: Callable[..., Path], tmp_path: Path
) -> None:
    scratch = tmp_path / ".out.tmp"
    (scratch / "new").mkdir(parents=True)
    (scratch / "checkpoint.pt").write_text("half")
    with open_folder(scratch) as running:
        fcntl.flock(running, fcntl.LOCK_EX)
        status, _, err = command("export", pruned(), data, tmp_path / "out", "--to", "safetensors")
    assert (status, "another process is writing" in err) == (2, True)
    assert (scratch / "checkpoint.pt").read_text() == "half"
    export(pruned(), data, tmp_path / "out", "--to", "safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_conversion_that_fails_leaves_what_was_there(
    command: Command, data: Path, pruned: Callable[..., Path], tmp_path: Path
) -> None:
    out = export(pruned(), data, tmp_path / "out", "--to", "ctranslate2")
    before = (out / "model.bin").read_bytes()
    other = tmp_path / "other"
    other.mkdir()
    for language in ("src", "tgt"):
        (other / f"dict.{language}.txt").write_text("word 1\n")
    status, _, err = command("export", pruned(), other, out, "--to", "ctranslate2", "--force")
    assert (status, "does not fit the data" in err) == (2, True)
    assert (out / "model.bin").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "out"]


REFUSED = {
    "architecture is roberta": [*ROBERTA],
    "--activation-fn tanh": [*SIZES, "--arch", "transformer", "--activation-fn", "tanh"],
    "softmax is adaptive": [*SIZES, "--arch", "transformer", "--adaptive-softmax-cutoff", "5,10"],
    "--no-token-positional-embeddings": [
        *SIZES,
        "--arch",
        "transformer",
        "--no-token-positional-embeddings",
    ],
    "got 2 and 4": [*SIZES, "--arch", "transformer", "--decoder-attention-heads", "4"],
    "got True and False": [*SIZES, "--arch", "transformer", "--encoder-normalize-before"],
    "--cross-self-attention": [*SIZES, "--arch", "transformer", "--cross-self-attention"],
    "no last layer norm": [
        *(
            *SIZES,
            "--arch",
            "transformer",
            "--encoder-normalize-before",
            "--decoder-normalize-before",
        ),
        "--no-decoder-final-norm",
    ],
    "decoder.project_out_dim.weight": [
        *SIZES,
        "--arch",
        "transformer",
        "--decoder-output-dim",
        "16",
    ],
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_ctranslate2_cannot_hold_is_refused_before_any_work(
    command: Command, data: Path, text_data: Path, tmp_path: Path, words: str
) -> None:
    folder = text_data if "masked_lm" in REFUSED[words] else data
    source = write_model(folder, tmp_path / "drawn.pt", *REFUSED[words])
    status, out, err = command("export", source, folder, tmp_path / "out", "--to", "ctranslate2")
    assert (status, out) == (2, "")
    assert "CTranslate2 cannot run this model" in err
    assert words in err
    assert [path.name for path in tmp_path.iterdir()] == ["drawn.pt"]


def test_shapes_of_our_own_and_other_tasks_are_refused(
    command: Command, data: Path, pruned: Callable[..., Path], tmp_path: Path
) -> None:
    narrow = prune(pruned(), tmp_path / "narrow.pt", "--heads-keep", "1")
    status, _, err = command("export", narrow, data, tmp_path / "out", "--to", "ctranslate2")
    assert (status, "heads, FFNs or sub-layers were removed" in err) == (2, True)
    state = load(pruned())
    state["cfg"]["task"]["_name"] = "multilingual_translation"
    torch.save(state, tmp_path / "task.pt")
    status, _, err = command(
        "export", tmp_path / "task.pt", data, tmp_path / "out", "--to", "ctranslate2"
    )
    assert (status, "its task is multilingual_translation" in err) == (2, True)


class Evil:
    """What an unpickler of everything would run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


def test_no_pickle_is_executed(command: Command, data: Path, tmp_path: Path) -> None:
    source, ran = tmp_path / "evil.pt", tmp_path / "ran"
    torch.save({"args": Evil(ran), "model": {}}, source)
    status, _, err = command("export", source, data, tmp_path / "out", "--to", "ctranslate2")
    assert (status, "open" in err, err.count("\n")) == (2, True, 1)
    with pytest.raises(pickle.UnpicklingError):
        convert(source, str(data), tmp_path / "out", None)
    assert [path.name for path in tmp_path.iterdir()] == ["evil.pt"]


@pytest.mark.parametrize("form", ["ctranslate2", "safetensors"])
def test_without_the_library_is_one_line(
    command: Command, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setitem(sys.modules, form, None)
    status, _, err = command("export", "no.pt", data, tmp_path / "out", "--to", form)
    assert status == 2
    assert (
        err == f"fairseq-layerdrop export: --to {form} needs {form}: pip install "
        "'fairseq-layerdrop[export]'\n"
    )


def test_mistakes_are_one_line(
    command: Command, data: Path, pruned: Callable[..., Path], official: Path, tmp_path: Path
) -> None:
    for arguments, words in (
        (
            [pruned(), data, tmp_path / "out", "--to", "safetensors", "--quantization", "int8"],
            "--quantization goes",
        ),
        (
            [pruned(), tmp_path, tmp_path / "out", "--to", "safetensors"],
            "DATA: there must be dictionaries",
        ),
        ([pruned(), data, tmp_path / "no" / "out", "--to", "safetensors"], "there is no directory"),
        ([pruned(), data, pruned(), "--to", "safetensors", "--force"], "is a file"),
        ([tmp_path / "no.pt", data, tmp_path / "out", "--to", "ctranslate2"], "there is no file"),
        (
            [official / "checkpoint.pt", tmp_path, tmp_path / "out", "--to", "ctranslate2"],
            "does not fit the data in",
        ),
    ):
        status, out, err = command("export", *arguments)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert words in err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_the_checkpoint_is_not_replaced(
    command: Command, data: Path, pruned: Callable[..., Path], tmp_path: Path
) -> None:
    mine = shutil.copy(pruned(), tmp_path / "model.bin")
    done = command("export", mine, data, tmp_path, "--to", "safetensors", "--force")
    assert_one_line(done, "lies in the output")
    assert [path.name for path in tmp_path.iterdir()] == ["model.bin"]


# safetensors


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_safetensors_hold_every_bit_once(
    data: Path, pruned: Callable[..., Path], tmp_path: Path, dtype: torch.dtype
) -> None:
    state = load(pruned("--decoder-keep", "0,2"))
    tied = {tensor.data_ptr(): tensor.to(dtype) for tensor in state["model"].values()}
    state["model"] = {name: tied[tensor.data_ptr()] for name, tensor in state["model"].items()}
    torch.save(state, tmp_path / "small.pt")
    out = export(tmp_path / "small.pt", data, tmp_path / "out", "--to", "safetensors")
    with safetensors.safe_open(str(out / "model.safetensors"), "pt") as file:
        read, ties = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    assert ties.pop("format") == "pt"
    assert {*ties} == {"decoder.embed_tokens.weight", "decoder.output_projection.weight"}
    assert_same_tensors(
        read | {name: read[same] for name, same in ties.items()}, weights(tmp_path / "small.pt")
    )
    assert {tensor.dtype for tensor in read.values()} == {dtype}
    assert sorted(path.name for path in out.glob("dict*")) == ["dict.src.txt", "dict.tgt.txt"]


def test_the_config_is_stock_and_plain_json(data: Path, trained: Run, tmp_path: Path) -> None:
    out = export(trained.last, data, tmp_path / "out", "--to", "safetensors")

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    config = json.loads((out / "config.json").read_text(), parse_constant=refuse)
    assert (config["architecture"], config["model"]["decoder_layers"]) == ("transformer", 4)
    assert config["task"]["_name"] == "translation"
    assert config["layerdrop"]["rates"] == {"encoder": 0.5, "decoder": 0.5}


def test_any_family_goes_into_safetensors(text_data: Path, tmp_path: Path) -> None:
    source = write_model(text_data, tmp_path / "drawn.pt", *ROBERTA)
    out = export(source, text_data, tmp_path / "out", "--to", "safetensors")
    assert (out / "dict.txt").read_bytes() == (text_data / "dict.txt").read_bytes()
