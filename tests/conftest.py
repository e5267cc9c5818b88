# SPDX-License-Identifier: MIT
"""Shared by all tests: a tiny data set, a tiny model trained with LayerDrop, its pruned files."""

import functools
import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # before torch comes: results must not depend on the machine's cores

from commands import Command, Done
from fairseq_programs import (
    FIXTURES,
    LANGUAGES,
    SHORT,
    STYLE,
    USER_DIR,
    Hypotheses,
    fairseq,
    generate,
    prune,
    train,
    write_audio,
    write_corpus,
)
from skips import pytest_sessionfinish  # noqa: F401, a hook

# A busy machine makes an example slow, and no code wrong.
settings.register_profile("clockless", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("clockless")


def pytest_collection_finish() -> None:
    """What the tests import stays: the collector need not go through it again and again."""
    gc.collect()
    gc.freeze()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-docs", action="store_true", help="write what the tests find into docs/"
    )
    parser.addoption(
        "--strict-skips", action="store_true", help="fail if a test is skipped that could have run"
    )


SENTENCES = {"train": 60, "valid": 14, "test": 11}
LAYERDROP_TRAINING = [
    *(
        "--user-dir",
        str(USER_DIR),
        "--task",
        "layerdrop_translation",
        "--arch",
        "layerdrop_transformer",
        *STYLE,
    ),
    *(
        "--encoder-layers",
        "4",
        "--decoder-layers",
        "4",
        "--encoder-layerdrop",
        "0.5",
        "--decoder-layerdrop",
        "0.5",
    ),
    *(
        "--dropout",
        "0.1",
        "--update-freq",
        "2",
        "--save-interval",
        "10",
        "--validate-interval",
        "10",
    ),
    # Or fairseq keeps the batches of the epoch in which a process began, and a resumed run meets
    # others.
    *("--update-epoch-batch-itr", "True"),
    *("--batch-size-valid", "5", "--valid-plans", "4+2 every:2/first:1"),
    *("--eval-bleu", "--eval-bleu-args", '{"beam": 2, "max_len_b": 10}'),
    *("--best-checkpoint-metric", "bleu_4-2", "--maximize-best-checkpoint-metric"),
]


class Run(NamedTuple):
    """A finished training: its folder and what it printed."""

    folder: Path
    output: str

    @property
    def last(self) -> Path:
        return self.folder / "checkpoint_last.pt"


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy data set in fairseq's binary form: 60, 14 and 11 pairs, one dictionary."""
    folder = tmp_path_factory.mktemp("data")
    write_corpus(folder, SENTENCES)
    prefixes = [item for split in SENTENCES for item in (f"--{split}pref", str(folder / split))]
    fairseq("preprocess", *LANGUAGES, "--joined-dictionary", "--destdir", folder / "bin", *prefixes)
    return folder / "bin"


@pytest.fixture(scope="session")
def text_data(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy data's sources alone, in fairseq's binary form: for language models."""
    folder = tmp_path_factory.mktemp("text")
    prefixes = [
        item
        for split in SENTENCES
        for item in (f"--{split}pref", str(data.parent / f"{split}.src"))
    ]
    fairseq("preprocess", "--only-source", "--destdir", folder, *prefixes)
    return folder


@pytest.fixture(scope="session")
def pieces(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The toy data set in pieces of a sentencepiece model, and the model."""
    sentencepiece = pytest.importorskip("sentencepiece")
    folder = tmp_path_factory.mktemp("pieces")
    sides = ("src", "tgt")
    files = [str(data.parent / f"train.{side}") for side in sides]
    sentencepiece.SentencePieceTrainer.train(
        input=",".join(files),
        model_prefix=str(folder / "spm"),
        model_type="bpe",
        vocab_size=40,
        minloglevel=2,
    )
    encode = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spm.model")).encode
    for side in sides:
        lines = (data.parent / f"train.{side}").read_text().splitlines()
        text = "".join(" ".join(encode(line, out_type=str)) + "\n" for line in lines)
        (folder / f"train.{side}").write_text(text, encoding="utf-8")
    languages = ["--source-lang", "src", "--target-lang", "tgt", "--joined-dictionary"]
    made = ["--trainpref", folder / "train", "--destdir", folder / "bin"]
    fairseq("preprocess", *languages, *made)
    (folder / "bin" / "dict.txt").write_bytes((folder / "bin" / "dict.src.txt").read_bytes())
    return folder / "bin", folder / "spm.model"


@pytest.fixture(scope="session")
def audio_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven files of a quarter of a second of noise, with labels for HuBERT."""
    folder = tmp_path_factory.mktemp("audio")
    write_audio(folder, {"train": 8, "valid": 3})
    return folder


@pytest.fixture(scope="session")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A 4+4 model after 60 updates with LayerDrop 0.5, dropout, two micro-batches, plans, BLEU."""
    folder = tmp_path_factory.mktemp("trained")
    return Run(folder, train(data, folder, *LAYERDROP_TRAINING, "--max-update", "60"))


@pytest.fixture(scope="session")
def pruned(trained: Run, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``pruned("--decoder-keep", "0,2")``: the trained model's file with these layers, cached."""
    folder = tmp_path_factory.mktemp("pruned")

    @functools.cache
    def write(*keep: str) -> Path:
        return prune(trained.last, folder / f"small{len(list(folder.iterdir()))}.pt", *keep)

    return write


@pytest.fixture(scope="session")
def stock_hypotheses(data: Path, pruned: Callable[..., Path]) -> Callable[..., Hypotheses]:
    """``stock_hypotheses(*keep)``: what stock fairseq generates from that file, cached."""

    @functools.cache
    def run(*keep: str) -> Hypotheses:
        return generate(data, pruned(*keep), *SHORT)

    return run


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The checkpoints that official fairseq wrote."""
    return FIXTURES


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Command:
    """Run the command in this process."""
    from fairseq_layerdrop import cli

    def run(*arguments: object) -> Done:
        capfd.readouterr()
        try:
            status = cli.main([str(argument) for argument in arguments])
        except SystemExit as exit_:  # what argparse itself refuses
            status = int(exit_.code or 0)
        return Done(status, *capfd.readouterr())

    return run


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An output that is not there yet, in a folder of its own."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "small.pt"


@pytest.fixture(scope="session")
def official(fixtures: Path) -> Path:
    """A checkpoint of 6+6 layers that official fairseq wrote, and its data."""
    return fixtures / "translation-0.12.2"


@pytest.fixture(scope="session")
def official_lm(fixtures: Path) -> Path:
    """A language model of 8 layers, adaptive input and softmax, that official fairseq wrote."""
    return fixtures / "lm-0.12.2"


@pytest.fixture(scope="session")
def official_2019(fixtures: Path) -> Path:
    """A checkpoint of 6+6 layers in the key and file formats of 2019, and its data."""
    return fixtures / "translation-0.6.2"


@pytest.fixture(scope="module")
def translation(official: Path) -> Any:
    """It, ready to be evaluated; a module's own, for tests may change it."""
    from planted import subject

    return subject(official / "checkpoint.pt", official / "data-bin")


@pytest.fixture
def short_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """An export compares texts of a few words: models that have learned nothing never end one."""
    from fairseq_layerdrop.formats.huggingface import greedy

    monkeypatch.setattr(greedy, "LONGEST", 12)
