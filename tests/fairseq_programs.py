# SPDX-License-Identifier: MIT
"""Helpers: fairseq's programs as true subprocesses, its parsers in process, and models of a few thousand parameters."""

import copy
import functools
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]
USER_DIR = REPOSITORY / "fairseq_layerdrop"
FIXTURES = REPOSITORY.parent / "shared" / "fixtures"
LANGUAGES = ["--source-lang", "src", "--target-lang", "tgt"]

Hypotheses = dict[int, tuple[float, str, list[float]]]
"""What fairseq-generate printed, by sentence: score and text of ``H-``, the scores of ``P-``."""

WIDTH = [
    *("--encoder-embed-dim", "32", "--encoder-ffn-embed-dim", "32", "--encoder-attention-heads", "2"),
    *("--decoder-embed-dim", "32", "--decoder-ffn-embed-dim", "32", "--decoder-attention-heads", "2"),
]
"""A tiny model's sizes; an architecture may set its own for the decoder, so that both stacks are named."""

TRAINING = [
    *LANGUAGES,
    *("--optimizer", "adam", "--lr", "0.01", "--clip-norm", "1.0", "--lr-scheduler", "fixed"),
    *("--criterion", "label_smoothed_cross_entropy", "--label-smoothing", "0.1"),
    *("--batch-size", "10", "--required-batch-size-multiple", "1", "--seed", "3", "--cpu", "--num-workers", "0"),
    *("--no-epoch-checkpoints", "--no-progress-bar", "--log-format", "json", "--log-interval", "1"),
]
"""What every training here has in common."""

STYLE = [*WIDTH, "--encoder-normalize-before", "--decoder-normalize-before", "--share-all-embeddings"]
"""All that a training's flags say of the trained model's form, but for its depth."""

SHORT = ["--max-len-a", "0", "--max-len-b", "12"]
"""For fairseq-generate: a model that has hardly learned anything may never end a sentence."""


def python(*arguments: str | Path, cwd: Path | None = None, fails: bool = False) -> str:
    """Run Python in a process of its own, on one thread; return what it printed, stdout and stderr together.

    ``cwd`` defaults to the repository, from where the package can be imported without being installed.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(
        command, cwd=cwd or REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert (done.returncode != 0) == fails, f"exit {done.returncode}: {' '.join(command)}\n{done.stdout[-3000:]}"
    return done.stdout


def fairseq(program: str, *arguments: str | Path, fails: bool = False) -> str:
    """Run ``fairseq-PROGRAM``, as far from the repository as an installed fairseq is."""
    return python("-m", f"fairseq_cli.{program}", *arguments, cwd=Path("/"), fails=fails)


def train(data: Path, save_dir: Path, *arguments: str | Path) -> str:
    """Run ``fairseq-train`` with what every training here has in common."""
    return fairseq("train", data, *TRAINING, "--save-dir", save_dir, *arguments)


def prune(source: Path, target: Path, *flags: str) -> Path:
    """Run ``fairseq-layerdrop prune`` in this process."""
    from fairseq_layerdrop import cli

    assert cli.main(["prune", str(source), str(target), *flags]) == 0
    return target


def hypotheses(output: str) -> Hypotheses:
    """Read fairseq-generate's output, which goes by the length of the sentences."""
    heads = {int(n): (float(score), text) for n, score, text in re.findall(r"^H-(\d+)\t(\S+)\t(.*)$", output, re.M)}
    scores = {int(n): [float(s) for s in row.split()] for n, row in re.findall(r"^P-(\d+)\t(.*)$", output, re.M)}
    return {n: (*heads[n], scores[n]) for n in heads}


def generate(data: Path, checkpoint: Path, *flags: str | Path) -> Hypotheses:
    """Run ``fairseq-generate`` on the whole test set; nothing is added, not even ``--user-dir``."""
    sure = ["--gen-subset", "test", "--batch-size", "32", "--required-batch-size-multiple", "1", "--beam", "5"]
    return hypotheses(fairseq("generate", data, "--path", checkpoint, *sure, "--cpu", *flags))


def assert_same_hypotheses(one: Hypotheses, two: Hypotheses, *, sentences: int) -> None:
    """Every sentence is there, every text equal, every score within 1e-5; those of words as far as they are printed."""
    assert len(one) == sentences
    assert {n: text for n, (_, text, _) in one.items()} == {n: text for n, (_, text, _) in two.items()}
    for n, (score, _, scores) in one.items():
        assert abs(score - two[n][0]) < 1e-5, f"sentence {n}: scores differ by {abs(score - two[n][0])}"
        worst = max(abs(a - b) for a, b in zip(scores, two[n][2], strict=True))
        assert worst < 1.1e-4, f"sentence {n}: a word's scores differ by {worst}"  # four decimals, the last rounded


def logged(output: str, tag: str) -> list[dict[str, Any]]:
    """The JSON lines of a program's log under a tag: ``train_inner``, ``train``, ``valid``."""
    return [json.loads(line) for line in re.findall(rf"\| {tag} \| (\{{.*\}})$", output, re.M)]


def weights(checkpoint: Path) -> dict[str, Any]:
    """The model's tensors in a checkpoint."""
    import torch

    from fairseq_layerdrop.checkpoint import load

    return {key: torch.clone(tensor) for key, tensor in load(checkpoint)["model"].items()}


def assert_same_tensors(one: dict[str, Any], two: dict[str, Any]) -> None:
    """The same names, and the same bits under each."""
    import torch

    assert one.keys() == two.keys()
    assert [key for key in one if not torch.equal(one[key], two[key])] == []


def write_corpus(folder: Path, sizes: dict[str, int]) -> None:
    """A toy language: the target is the source in capitals, a swapped pair of words at its head."""
    rng = random.Random(7)
    for split, sentences in sizes.items():
        sources = [[rng.choice("abcdefghij") for _ in range(rng.randint(3, 8))] for _ in range(sentences)]
        targets = [[words[1], words[0], *words[2:]] for words in sources]
        (folder / f"{split}.src").write_text("".join(" ".join(words) + "\n" for words in sources))
        (folder / f"{split}.tgt").write_text("".join(" ".join(words).upper() + "\n" for words in targets))


@functools.cache
def _parsed(flags: tuple[str, ...]) -> Any:
    from fairseq import options
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf

    import fairseq_layerdrop

    fairseq_layerdrop.register()
    args = options.parse_args_and_arch(options.get_training_parser(), ["no-data", *flags])
    return convert_namespace_to_omegaconf(args)


def config(*flags: str) -> Any:
    """What ``fairseq-train`` makes of its flags, a configuration of all sections."""
    return copy.deepcopy(_parsed(flags))


@functools.cache
def dictionary() -> Any:
    """A dictionary of twenty words, made in memory."""
    from fairseq.data import Dictionary

    words = Dictionary()
    for i in range(20):
        words.add_symbol(f"w{i}")
    return words


def build_task(cfg: Any) -> Any:
    """The configuration's task, over the dictionary in memory."""
    from fairseq.tasks import TASK_REGISTRY

    targets = [["future"]] if "language_modeling" in cfg.task._name else []
    return TASK_REGISTRY[cfg.task._name](cfg.task, dictionary(), dictionary(), *targets)


def build_model(*flags: str, seed: int = 5) -> Any:
    """The model that ``fairseq-train`` would build from these flags, its weights drawn from ``seed``."""
    import torch

    cfg = config(*flags)
    torch.manual_seed(seed)
    return build_task(cfg).build_model(cfg.model)


def batch(sentences: int = 3, length: int = 6, seed: int = 11) -> dict[str, Any]:
    """A sample as fairseq's translation task feeds it; the second sentence is shorter on both sides."""
    import torch

    words = dictionary()
    generator = torch.Generator().manual_seed(seed)
    source, target = (torch.randint(words.nspecial, len(words), (sentences, length), generator=generator) for _ in "ab")
    source[:, -1] = target[:, -1] = words.eos()
    source[1, :2] = words.pad()  # padded on the left, as fairseq does
    target[1, -3:] = torch.tensor([words.eos(), words.pad(), words.pad()])
    previous = torch.cat([torch.full((sentences, 1), words.eos()), target[:, :-1]], dim=1)
    previous[1, -2:] = words.pad()
    lengths = source.ne(words.pad()).sum(1)
    return {
        "id": torch.arange(sentences),
        "nsentences": sentences,
        "ntokens": int(target.ne(words.pad()).sum()),
        "net_input": {"src_tokens": source, "src_lengths": lengths, "prev_output_tokens": previous},
        "target": target,
    }


def loss_of(model: Any, sample: dict[str, Any] | None = None) -> Any:
    """The cross entropy of a sample, as a graph to go backward through."""
    import torch

    sample = sample or batch()
    logits, _ = model(**sample["net_input"])
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), sample["target"].flatten(), ignore_index=dictionary().pad()
    )


def after_training(samples: list[dict[str, Any]], *flags: str) -> tuple[list[float], dict[str, Any]]:
    """The losses of one update a sample, and the weights after them, of the model that these flags build."""
    import torch

    model = build_model(*flags).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for update, sample in enumerate(samples):
        model.set_num_updates(update)
        loss = loss_of(model, sample)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, model.state_dict()
