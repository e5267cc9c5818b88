# SPDX-License-Identifier: MIT
"""Helpers: fairseq's programs in processes of their own, its parsers, tiny models."""

import copy
import functools
import json
import os
import pickle
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from quick_hydra import quick_hydra

REPOSITORY = Path(__file__).parents[1]
USER_DIR = REPOSITORY / "fairseq_layerdrop"
FIXTURES = REPOSITORY / "tests" / "fixtures"
_WORDS = "abcdefghij"
LANGUAGES = ["--source-lang", "src", "--target-lang", "tgt"]

Hypotheses = dict[int, tuple[float, str, list[float]]]
"""What fairseq-generate printed, by sentence: score and text of ``H-``, the scores of ``P-``."""

WIDTH = [
    *(
        "--encoder-embed-dim",
        "32",
        "--encoder-ffn-embed-dim",
        "32",
        "--encoder-attention-heads",
        "2",
    ),
    *(
        "--decoder-embed-dim",
        "32",
        "--decoder-ffn-embed-dim",
        "32",
        "--decoder-attention-heads",
        "2",
    ),
]
"""A tiny model's sizes; an architecture may set its own for the decoder, so that both stacks are
named.
"""

TRAINING = [
    *LANGUAGES,
    *("--optimizer", "adam", "--lr", "0.01", "--clip-norm", "1.0", "--lr-scheduler", "fixed"),
    *("--criterion", "label_smoothed_cross_entropy", "--label-smoothing", "0.1"),
    *(
        "--batch-size",
        "10",
        "--required-batch-size-multiple",
        "1",
        "--seed",
        "3",
        "--cpu",
        "--num-workers",
        "0",
    ),
    *("--no-epoch-checkpoints", "--no-progress-bar", "--log-format", "json", "--log-interval", "1"),
]
"""What every training here has in common."""

STYLE = [
    *WIDTH,
    "--encoder-normalize-before",
    "--decoder-normalize-before",
    "--share-all-embeddings",
]
"""All that a training's flags say of the trained model's form, but for its depth."""

SHORT = ["--max-len-a", "0", "--max-len-b", "12"]
"""For fairseq-generate: a model that has hardly learned anything may never end a sentence."""


def python(*arguments: object, cwd: Path | None = None, fails: bool = False) -> str:
    """Run Python in a process, on one thread; return stdout and stderr together.

    ``cwd`` defaults to the repository, from where the package can be imported without being
    installed.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(
        command,
        cwd=cwd or REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert (done.returncode != 0) == fails, (
        f"exit {done.returncode}: {' '.join(command)}\n{done.stdout[-3000:]}"
    )
    return done.stdout


@functools.cache
def _server() -> subprocess.Popen[str]:
    """The process that forks fairseq's programs; it ends when its input does."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, str(Path(__file__).with_name("fairseq_server.py"))]
    return subprocess.Popen(
        command, cwd="/", env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def in_stock(program: str, *arguments: object, fails: bool = False) -> str:
    """Run a module or script in a process of stock fairseq; return all that it printed."""
    server = _server()
    assert server.stdin and server.stdout
    with tempfile.NamedTemporaryFile("r") as output:
        request = {"program": program, "arguments": [*map(str, arguments)], "output": output.name}
        print(json.dumps(request), file=server.stdin, flush=True)
        status = json.loads(server.stdout.readline())
        printed = output.read()
    called = " ".join([program, *map(str, arguments)])
    assert (status != 0) == fails, f"exit {status}: {called}\n{printed[-3000:]}"
    return printed


def fairseq(program: str, *arguments: object, fails: bool = False) -> str:
    """Run ``fairseq-PROGRAM``, as far from the repository as an installed fairseq is."""
    return in_stock(f"fairseq_cli.{program}", *arguments, fails=fails)


def train(data: Path, save_dir: Path, *arguments: object) -> str:
    """Run ``fairseq-train`` with what every training here has in common."""
    return fairseq("train", data, *TRAINING, "--save-dir", save_dir, *arguments)


def prune(source: Path, target: Path, *flags: str) -> Path:
    """Run ``fairseq-layerdrop prune`` in this process."""
    from fairseq_layerdrop import cli

    assert cli.main(["prune", str(source), str(target), *flags]) == 0
    return target


def hypotheses(output: str) -> Hypotheses:
    """Read fairseq-generate's output, which goes by the length of the sentences."""
    heads = {
        int(n): (float(score), text)
        for n, score, text in re.findall(r"^H-(\d+)\t(\S+)\t(.*)$", output, re.M)
    }
    scores = {
        int(n): [float(s) for s in row.split()]
        for n, row in re.findall(r"^P-(\d+)\t(.*)$", output, re.M)
    }
    return {n: (*heads[n], scores[n]) for n in heads}


def generate(data: Path, checkpoint: Path, *flags: object) -> Hypotheses:
    """Run ``fairseq-generate`` on the whole test set; nothing is added, not even ``--user-dir``."""
    sure = [
        "--gen-subset",
        "test",
        "--batch-size",
        "32",
        "--required-batch-size-multiple",
        "1",
        "--beam",
        "5",
    ]
    return hypotheses(fairseq("generate", data, "--path", checkpoint, *sure, "--cpu", *flags))


def assert_same_hypotheses(one: Hypotheses, two: Hypotheses, *, sentences: int) -> None:
    """Every sentence is there, texts are equal, scores within 1e-5."""
    assert len(one) == sentences
    assert {n: text for n, (_, text, _) in one.items()} == {
        n: text for n, (_, text, _) in two.items()
    }
    for n, (score, _, scores) in one.items():
        assert abs(score - two[n][0]) < 1e-5, (
            f"sentence {n}: scores differ by {abs(score - two[n][0])}"
        )
        worst = max(abs(a - b) for a, b in zip(scores, two[n][2], strict=True))
        assert worst < 1.1e-4, (
            f"sentence {n}: a word's scores differ by {worst}"
        )  # four decimals, the last rounded


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
        sources = [
            [rng.choice("abcdefghij") for _ in range(rng.randint(3, 8))] for _ in range(sentences)
        ]
        targets = [[words[1], words[0], *words[2:]] for words in sources]
        (folder / f"{split}.src").write_text("".join(" ".join(words) + "\n" for words in sources))
        (folder / f"{split}.tgt").write_text(
            "".join(" ".join(words).upper() + "\n" for words in targets)
        )


def masked_lm_data(folder: Path) -> Path:
    """Sentences through an alphabet, for masked language modelling: 60, 14 and 11."""
    rng = random.Random(5)
    for split, sentences in {"train": 60, "valid": 14, "test": 11}.items():
        starts = [rng.randrange(10) for _ in range(sentences)]
        runs = [
            " ".join(_WORDS[(start + i) % 10] for i in range(rng.randint(4, 9))) for start in starts
        ]
        (folder / f"{split}.text").write_text("\n".join(runs) + "\n")
    return preprocess(folder, "text", folder / "bin")


def sentence_data(folder: Path, dictionary: Path) -> Path:
    """Sentences of two classes, up and down the alphabet, as for GLUE: 120, 15 and 11.

    ``dictionary`` is the one that the model to fine-tune was trained with.
    """
    rng = random.Random(6)
    for split, sentences in {"train": 120, "valid": 15, "test": 11}.items():
        labels = [rng.randrange(2) for _ in range(sentences)]
        ranges = [(rng.randrange(10), rng.randint(3, 8)) for _ in labels]
        runs = [
            " ".join(_WORDS[(a + (-i if label else i)) % 10] for i in range(n))
            for label, (a, n) in zip(labels, ranges, strict=True)
        ]
        (folder / f"{split}.input0").write_text("\n".join(runs) + "\n")
        (folder / f"{split}.label").write_text("".join(f"{label}\n" for label in labels))
    preprocess(folder, "input0", folder / "bin" / "input0", "--srcdict", str(dictionary))
    preprocess(folder, "label", folder / "bin" / "label")
    return folder / "bin"


def preprocess(folder: Path, name: str, target: Path, *flags: str) -> Path:
    """Run ``fairseq-preprocess --only-source`` in this process on the three splits of NAME."""
    from fairseq import options
    from fairseq_cli import preprocess as program

    prefixes = [
        item
        for split in ("train", "valid", "test")
        for item in (f"--{split}pref", str(folder / f"{split}.{name}"))
    ]
    arguments = ["--only-source", "--destdir", str(target), *prefixes, *flags]
    program.main(options.get_preprocessing_parser().parse_args(arguments))
    return target


def write_audio(folder: Path, sizes: dict[str, int]) -> None:
    """A quarter of a second of noise, with lists of files, twelve labels a file, and letters."""
    import numpy
    import soundfile

    rng = numpy.random.default_rng(7)
    for split, clips in sizes.items():
        names = [f"clip-{split}-{i}.wav" for i in range(clips)]
        for name in names:
            soundfile.write(folder / name, rng.standard_normal(4000) * 0.1, 16000)
        (folder / f"{split}.tsv").write_text(
            f"{folder}\n" + "".join(f"{name}\t4000\n" for name in names)
        )
        labels = [" ".join(map(str, rng.integers(0, 5, 12))) for _ in names]
        (folder / f"{split}.km").write_text("".join(f"{line}\n" for line in labels))
        (folder / f"{split}.ltr").write_text("a b | c\n" * clips)
    for name, words in (("km", "01234"), ("ltr", "abc|")):
        (folder / f"dict.{name}.txt").write_text("".join(f"{word} 1\n" for word in words))


def evaluate(checkpoint: Path, **overrides: Any) -> dict[str, Any]:
    """A checkpoint's validation metrics as ``fairseq-validate`` computes them, not rounded.

    The whole set is one batch; ``overrides`` are of the configuration that was saved.
    """
    import torch
    from fairseq.checkpoint_utils import load_model_ensemble_and_task
    from fairseq.logging import metrics
    from fairseq.logging.meters import AverageMeter

    (model,), cfg, task = load_model_ensemble_and_task([str(checkpoint)], arg_overrides=overrides)
    criterion = task.build_criterion(cfg.criterion)
    task.load_dataset("valid")
    (sample,) = task.get_batch_iterator(task.dataset("valid"), max_sentences=100).next_epoch_itr(
        shuffle=False
    )
    with torch.no_grad(), metrics.aggregate(new_root=True) as meters:
        task.reduce_metrics([task.valid_step(sample, model.eval(), criterion)[2]], criterion)
    exact = {
        name: float(meter.avg) for name, meter in meters.items() if isinstance(meter, AverageMeter)
    }
    return meters.get_smoothed_values() | exact


@functools.cache
def _parsed(flags: tuple[str, ...]) -> Any:
    from fairseq import options
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf

    import fairseq_layerdrop

    fairseq_layerdrop.register()
    args = options.parse_args_and_arch(options.get_training_parser(), ["no-data", *flags])
    with quick_hydra():
        return convert_namespace_to_omegaconf(args)


def config(*flags: str) -> Any:
    """What ``fairseq-train`` makes of its flags, a configuration of all sections."""
    return pickle.loads(pickle.dumps(_parsed(flags)))  # deepcopy takes four times as long


@functools.cache
def dictionary() -> Any:
    """A dictionary of twenty words, made in memory."""
    from fairseq.data import Dictionary

    words = Dictionary()
    for i in range(20):
        words.add_symbol(f"w{i}")
    return words


def build_task(cfg: Any) -> Any:
    """The configuration's task, over dictionaries in memory."""
    from fairseq.tasks import TASK_REGISTRY

    words = copy.deepcopy(dictionary())  # some tasks add to it
    others = [words]
    if "language_modeling" in cfg.task._name:
        others = [words, ["future"]]
    elif "masked_lm" in cfg.task._name:
        others = []
    return TASK_REGISTRY[cfg.task._name](cfg.task, words, *others)


def build_model(*flags: str, seed: int = 5) -> Any:
    """The model that ``fairseq-train`` would build, with weights drawn from ``seed``."""
    import torch

    whole = _parsed(flags)
    cfg = SimpleNamespace(task=copy.deepcopy(whole.task), model=copy.deepcopy(whole.model))
    torch.manual_seed(seed)
    return build_task(cfg).build_model(cfg.model)


def build_shapes(*flags: str) -> Any:
    """The same without memory for its weights, at any size."""
    import torch

    # BERT's weights are drawn on the CPU, wherever they lie.
    families = [f"fairseq.models.{name}.model.init_bert_params" for name in ("bart", "roberta")]
    with torch.device("meta"), mock.patch(families[0]), mock.patch(families[1]):
        return build_model(*flags)


def batch(sentences: int = 3, length: int = 6, seed: int = 11) -> dict[str, Any]:
    """A sample as fairseq's translation task feeds it; the second sentence is shorter."""
    import torch

    words = dictionary()
    generator = torch.Generator().manual_seed(seed)
    source, target = (
        torch.randint(words.nspecial, len(words), (sentences, length), generator=generator)
        for _ in "ab"
    )
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


def after_training(
    samples: list[dict[str, Any]], *flags: str
) -> tuple[list[float], dict[str, Any]]:
    """The losses of one update a sample, and the weights after them."""
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


def stacks(model: Any) -> dict[str, Any]:
    """The modules that have ``layers``, by the stack's name, encoder first."""
    found = {name: getattr(model, name) for name in ("encoder", "decoder") if hasattr(model, name)}
    return {
        name: getattr(stack, "sentence_encoder", stack) for name, stack in found.items()
    }  # RoBERTa's


@contextmanager
def layers_run(model: Any) -> Iterator[dict[str, list[int]]]:
    """The indices of the layers that are really called in this scope, by stack, in order."""
    run: dict[str, list[int]] = {name: [] for name in stacks(model)}
    hooks = [
        layer.register_forward_hook(lambda *_, name=name, i=i: run[name].append(i))
        for name, stack in stacks(model).items()
        for i, layer in enumerate(stack.layers.children())  # whatever a loop over the list gives
    ]
    try:
        yield run
    finally:
        for hook in hooks:
            hook.remove()


def draws(
    model: Any, updates: range, micro_batches: int = 1, sample: dict[str, Any] | None = None
) -> dict[str, list[tuple[int, ...]]]:
    """The layers that run in each training forward, by stack."""
    import torch

    inputs = (sample or batch())["net_input"]
    seen: dict[str, list[tuple[int, ...]]] = {name: [] for name in stacks(model)}
    model.train()
    for update in updates:
        for _ in range(micro_batches):
            model.set_num_updates(update)
            with layers_run(model) as run, torch.no_grad():
                model(**inputs)
            for name in seen:
                seen[name].append(tuple(run[name]))
    return seen


def gradients(model: Any, sample: dict[str, Any] | None = None) -> dict[str, Any]:
    """Every parameter's gradient after one backward pass."""
    model.zero_grad()
    loss_of(model, sample).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
