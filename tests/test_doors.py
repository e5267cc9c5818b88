# SPDX-License-Identifier: MIT
"""fairseq's other programs: interactive, hub, scoring, sentencepiece, tensorboard."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import Command
from conftest import SENTENCES, Run
from fairseq_programs import (
    LANGUAGES,
    SHORT,
    STYLE,
    USER_DIR,
    WIDTH,
    Hypotheses,
    assert_same_hypotheses,
    evaluate,
    fairseq,
    hypotheses,
    in_stock,
    logged,
    prune,
    train,
)

from fairseq_layerdrop.checkpoint import load

KEEP = ["--encoder-keep", "0,3", "--decoder-keep", "0,2"]
PLUGIN = ["--user-dir", USER_DIR, "--task", "layerdrop_translation"]
SURE = ["--required-batch-size-multiple", "1", "--cpu"]


def interactive(data: Path, checkpoint: Path, sentences: Path, *flags: object) -> str:
    """What ``fairseq-interactive`` prints of sentences in one batch, as in :func:`generate`."""
    sure = ["--buffer-size", "32", "--batch-size", "32", "--beam", "5", *SURE]
    return fairseq("interactive", data, "--path", checkpoint, "--input", sentences, *sure, *flags)


# Interactive


@pytest.mark.parametrize("on_demand", [False, True], ids=["pruned file", "on demand"])
def test_interactive_says_what_generate_does(
    data: Path,
    trained: Run,
    pruned: Callable[..., Path],
    stock_hypotheses: Callable[..., Hypotheses],
    on_demand: bool,
) -> None:
    checkpoint, flags = (trained.last, [*PLUGIN, *KEEP]) if on_demand else (pruned(*KEEP), [])
    output = interactive(data, checkpoint, data.parent / "test.src", *flags, *SHORT)
    assert_same_hypotheses(hypotheses(output), stock_hypotheses(*KEEP), sentences=SENTENCES["test"])


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model of word pieces after two updates, pruned, and the folder of its data."""
    import sentencepiece

    folder = tmp_path_factory.mktemp("pieces")
    words = ["house", "mouse", "horse", "tree", "three", "green", "great", "street"]
    for split, count in {"train": 40, "test": 7}.items():
        lines = [
            " ".join(words[(i * k + k) % 8] for k in range(1, 3 + i % 4))
            for i in range(1, count + 1)
        ]
        (folder / f"{split}.raw.src").write_text("".join(f"{line}\n" for line in lines))
        (folder / f"{split}.raw.tgt").write_text("".join(f"{line.upper()}\n" for line in lines))
    raw = [str(folder / f"train.raw.{side}") for side in ("src", "tgt")]
    options: dict[str, Any] = {
        "vocab_size": 60,
        "model_type": "bpe",
        "num_threads": 1,
        "minloglevel": 2,
    }
    sentencepiece.SentencePieceTrainer.train(
        input=",".join(raw), model_prefix=str(folder / "spm"), **options
    )
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spm.model"))
    for path in folder.glob("*.raw.*"):
        lines = [
            " ".join(model.encode(line, out_type=str)) for line in path.read_text().splitlines()
        ]
        path.with_name(path.name.replace(".raw", "")).write_text(
            "".join(f"{line}\n" for line in lines)
        )
    prefixes = [
        "--trainpref",
        folder / "train",
        "--validpref",
        folder / "test",
        "--testpref",
        folder / "test",
    ]
    fairseq("preprocess", *LANGUAGES, "--joined-dictionary", "--destdir", folder / "bin", *prefixes)
    size = [*STYLE, "--encoder-layers", "2", "--decoder-layers", "2", "--max-update", "2"]
    train(folder / "bin", folder, *PLUGIN, "--arch", "layerdrop_transformer", *size)
    return folder, prune(folder / "checkpoint_last.pt", folder / "small.pt", "--decoder-keep", "1")


def test_sentencepiece_goes_in_and_out(pieces: tuple[Path, Path]) -> None:
    folder, small = pieces
    spm = ["--bpe", "sentencepiece", "--sentencepiece-model", folder / "spm.model"]
    flags = ["--gen-subset", "test", "--batch-size", "32", "--beam", "5", *SURE, *SHORT]
    generated = fairseq("generate", folder / "bin", "--path", small, *flags, *spm)
    typed = interactive(folder / "bin", small, folder / "test.raw.src", *SHORT, *spm)
    assert_same_hypotheses(hypotheses(typed), hypotheses(generated), sentences=7)
    plain = {line for line in typed.splitlines() if line.startswith("D-")}
    assert plain == {line for line in generated.splitlines() if line.startswith("D-")}
    assert any("▁" in text for _, text, _ in hypotheses(typed).values())
    assert len(plain) == 7 and not any("▁" in line for line in plain)


# Scoring


def test_fairseq_score_gives_the_bleu_that_generate_prints(
    data: Path, pruned: Callable[..., Path], tmp_path: Path
) -> None:
    flags = ["--gen-subset", "test", "--batch-size", "32", "--beam", "5", *SURE, *SHORT]
    output = fairseq("generate", data, "--path", pruned(*KEEP), *flags)
    for kind, name in (("H", "sys"), ("T", "ref")):
        rows = [line.split("\t") for line in output.splitlines() if line.startswith(f"{kind}-")]
        (tmp_path / name).write_text("".join(f"{row[-1]}\n" for row in rows))
    bleu = [line for line in output.splitlines() if "BLEU4 = " in line][-1].partition("BLEU4 = ")[2]
    scored = fairseq("score", "--sys", tmp_path / "sys", "--ref", tmp_path / "ref")
    assert scored.splitlines()[-1].partition("BLEU4 = ")[2] == bleu
    assert float(bleu.split(", ")[1].split("/")[0]) > 0  # the precision of single words


# from_pretrained


def test_from_pretrained_translates_as_generate_does(
    data: Path, trained: Run, stock_hypotheses: Callable[..., Hypotheses], tmp_path: Path
) -> None:
    small = prune(trained.last, tmp_path / "model.pt", *KEEP, "--copy-dicts", str(data))
    found = from_pretrained("translate", small, data.parent / "test.src")
    assert dict(enumerate(found)) == {
        n: text for n, (_, text, _) in stock_hypotheses(*KEEP).items()
    }


def test_from_pretrained_translates_with_a_model_of_2019(
    official_2019: Path, tmp_path: Path
) -> None:
    data = official_2019 / "data-bin"
    flags = ["--decoder-keep", "0-3", "--copy-dicts", str(data)]
    small = prune(official_2019 / "checkpoint.pt", tmp_path / "model.pt", *flags)
    search = ["--gen-subset", "test", "--beam", "5", *SURE, *SHORT]
    output = fairseq("generate", data, "--path", small, *search)
    generated = [text for _, text, _ in hypotheses(output).values()]
    sources = [line.split("\t")[1] for line in output.splitlines() if line.startswith("S-")]
    (tmp_path / "test.src").write_text("".join(f"{line}\n" for line in sources))
    assert from_pretrained("translate", small, tmp_path / "test.src") == generated


def test_from_pretrained_scores_as_eval_lm_does(
    data: Path, text_data: Path, tmp_path: Path
) -> None:
    """The first sentence of the set, which has no words before it in eval-lm either."""
    flags = [
        "--task",
        "layerdrop_language_modeling",
        "--criterion",
        "cross_entropy",
        "--tokens-per-sample",
        "96",
    ]
    model = [
        "--arch",
        "layerdrop_transformer_lm",
        *WIDTH[6:],
        "--decoder-layers",
        "3",
        "--max-update",
        "3",
    ]
    rest = [
        "--optimizer",
        "adam",
        "--lr",
        "0.01",
        "--batch-size",
        "4",
        *SURE,
        "--save-dir",
        tmp_path,
    ]
    fairseq(
        "train", text_data, "--user-dir", USER_DIR, *flags, *model, *rest, "--no-epoch-checkpoints"
    )
    last = tmp_path / "checkpoint_last.pt"
    small = prune(
        last, tmp_path / "small.pt", "--decoder-keep", "0,2", "--copy-dicts", str(text_data)
    )
    shown = fairseq("eval_lm", text_data, "--path", small, "--output-word-probs", *SURE)
    (line,) = (line for line in shown.splitlines() if " | 0 " in line and "[" in line)
    expected = [float(part.partition("]")[0]) for part in line.split("[")[1:]]
    sentence = tmp_path / "sentence"
    sentence.write_text((data.parent / "test.src").read_text().splitlines()[0] + "\n")
    (scores,) = from_pretrained("score", small, sentence)
    assert len(scores) == len(sentence.read_text().split()) + 1
    assert scores == pytest.approx(expected[: len(scores)], abs=1e-5)


def from_pretrained(verb: str, checkpoint: Path, sentences: Path) -> Any:
    """What stock fairseq's hub interface makes of sentences."""
    script, target = (
        str(Path(__file__).with_name("hub_in_stock.py")),
        checkpoint.with_name("found.json"),
    )
    in_stock(script, verb, checkpoint, sentences, target)
    return json.loads(target.read_text())


# --user-dir by several names

USER_DIRS = """
import sys
from argparse import Namespace
from fairseq import utils
for path in sys.argv[1:]:
    utils.import_user_module(Namespace(user_dir=path))
from fairseq.models import MODEL_REGISTRY
print(MODEL_REGISTRY["layerdrop_transformer"].__module__)
"""


def user_dirs(folder: Path, *paths: Path, fails: bool = False) -> str:
    """The last line of a program of stock fairseq that imports these ``--user-dir``."""
    (folder / "user_dirs.py").write_text(USER_DIRS)
    return in_stock(str(folder / "user_dirs.py"), *paths, fails=fails).splitlines()[-1]


@pytest.mark.parametrize("link_first", [True, False])
def test_a_link_and_the_folder_itself_are_one_user_dir(link_first: bool, tmp_path: Path) -> None:
    link = tmp_path / "fairseq_layerdrop"
    link.symlink_to(USER_DIR)
    paths = [link, USER_DIR] if link_first else [USER_DIR, link]
    assert user_dirs(tmp_path, *paths) == "fairseq_layerdrop.models.transformer"


def test_a_link_of_another_name_is_refused_in_one_line(tmp_path: Path) -> None:
    link = tmp_path / "plugin"
    link.symlink_to(USER_DIR)
    said = user_dirs(tmp_path, USER_DIR, link, fails=True)
    assert said.startswith(
        "ImportError: --user-dir: the folder (or the link to it) must be called fairseq_layerdrop"
    )


# Tensorboard, and the best checkpoint of a plan


@pytest.fixture(scope="module")
def watched(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Four epochs with learned rates and a plan, logged for tensorboard, best files kept."""
    folder = tmp_path_factory.mktemp("watched")
    depths = ["--encoder-layers", "3", "--decoder-layers", "3", "--layerdrop-schedule", "learned"]
    plan = [
        "--valid-plans",
        "3+1",
        "--best-checkpoint-metric",
        "loss_3-1",
        "--keep-best-checkpoints",
        "2",
    ]
    flags = [
        *PLUGIN,
        "--arch",
        "layerdrop_transformer",
        *STYLE,
        *depths,
        *plan,
        "--lr",
        "0.05",
        "--max-epoch",
        "4",
    ]
    return Run(folder, train(data, folder, *flags, "--tensorboard-logdir", folder / "events"))


def scalars(folder: Path) -> dict[str, list[float]]:
    """Each scalar's values in an event file: records of length, CRC, bytes, CRC."""
    proto = pytest.importorskip("tensorboardX.proto.event_pb2")
    (file,) = folder.glob("events.out.tfevents.*")
    found: dict[str, list[float]] = {}
    left = file.read_bytes()
    while left:
        size = int.from_bytes(left[:8], "little")
        for value in proto.Event.FromString(left[12 : 12 + size]).summary.value:
            if value.HasField("simple_value"):
                found.setdefault(value.tag, []).append(value.simple_value)
        left = left[16 + size :]
    return found


def test_tensorboard_shows_keep_rates_and_learned_rates(watched: Run) -> None:
    pytest.importorskip("tensorboardX", reason="pip install tensorboardX")
    found, steps = (
        scalars(watched.folder / "events" / "train_inner"),
        logged(watched.output, "train_inner"),
    )
    names = [
        f"{stack}_{name}"
        for stack in ("encoder", "decoder")
        for name in ("keep", "rate_0", "rate_2")
    ]
    for name in names:
        assert found[name] == pytest.approx([float(step[name]) for step in steps]), name
    assert len(set(found["encoder_rate_0"])) > 1


def test_tensorboard_shows_each_plan_s_losses(watched: Run) -> None:
    pytest.importorskip("tensorboardX", reason="pip install tensorboardX")
    found, steps = scalars(watched.folder / "events" / "valid"), logged(watched.output, "valid")
    for name in ("loss", "loss_3-1", "nll_loss_3-1"):
        assert found[name] == pytest.approx([float(step[f"valid_{name}"]) for step in steps]), name
    assert len(found["loss_3-1"]) == 4


def test_the_best_checkpoints_of_a_plan_are_kept(
    watched: Run, command: Command, tmp_path: Path
) -> None:
    losses = [float(valid["valid_loss_3-1"]) for valid in logged(watched.output, "valid")]
    assert len(set(losses)) == 4
    kept = sorted(watched.folder.glob("checkpoint.best_loss_3-1_*.pt"))
    named = [
        float(path.stem.rpartition("_")[2][:-1]) for path in kept
    ]  # the last digit is fairseq's, against ties
    assert named == sorted(losses)[:2]
    best = prune(
        watched.folder / "checkpoint_best.pt", tmp_path / "best.pt", "--decoder-keep", "even:1"
    )
    assert evaluate(best, batch_size=14)["loss"] == pytest.approx(min(losses), abs=1e-3)
    assert load(watched.folder / "checkpoint_best.pt")["extra_state"]["best"] == min(losses)
    status, printed, _ = command(
        "average", watched.folder, tmp_path / "mean.pt", "--num-best-checkpoints", 2
    )
    assert status == 0 and all(f"input: {path}" in printed for path in kept)
