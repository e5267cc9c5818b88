# SPDX-License-Identifier: MIT
"""A checkpoint and a data set through fairseq, in memory, ready to be evaluated."""

import hashlib
import itertools
import pickle
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from fairseq import checkpoint_utils, utils
from fairseq.criterions import CRITERION_DATACLASS_REGISTRY
from fairseq.data.data_utils import numpy_seed
from fairseq.dataclass.configs import FairseqConfig
from omegaconf import OmegaConf

import fairseq_layerdrop
from fairseq_layerdrop.evaluation.plugins import import_plugin
from fairseq_layerdrop.evaluation.scorable import check_registered, saying
from fairseq_layerdrop.pruning.upgrade import upgrade_state

Half = Literal["all", "first", "second"]


@dataclass(frozen=True)
class Loaded:
    """A model in evaluation, the task that it was trained on, and its criterion."""

    model: Any
    task: Any
    criterion: Any
    device: torch.device


def load(
    path: str,
    data: str,
    *,
    device: str = "cpu",
    threads: int | None = None,
    user_dir: str | None = None,
) -> Loaded:
    """Load a checkpoint and its task, in evaluation mode and without gradients.

    Args:
        path: of any checkpoint that fairseq can load, pruned or whole, trained with this package or
            not.
        data: the data set, in fairseq's binary form, whose dictionaries the model was trained with.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        threads: of the CPU, for the whole process; by default torch's.
        user_dir: the plugin that the model, its task or its criterion is of; its code is run.

    Raises:
        ValueError: if fairseq cannot read the file, or there is no such device, with what to do.
    """
    _check_device(device)
    if threads:
        torch.set_num_threads(threads)
    fairseq_layerdrop.register()
    if user_dir:
        import_plugin(user_dir)
    model, cfg, task = _build(path, data)
    _resolve(task.cfg)
    if not hasattr(task, "args"):
        task.args = task.cfg  # fairseq's translation_from_pretrained_bart still reads it there
    model.make_generation_fast_(need_attn=False)  # as fairseq-generate and fairseq-eval-lm do
    model.requires_grad_(False).eval()
    with saying(f"{path}: fairseq cannot build its criterion"):
        criterion = task.build_criterion(_of_criterion(cfg.criterion))
    return Loaded(model.to(device), task, criterion, torch.device(device))


def _check_device(device: str) -> None:
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise ValueError(f"device= must be cpu or cuda, got {device!r}")
    if device != "cpu" and not torch.cuda.is_available():
        raise ValueError(f"device={device} needs a CUDA device, got none; leave it out")


def _build(path: str, data: str) -> tuple[Any, Any, Any]:
    """The model, the configuration and the task, by fairseq."""
    overrides = {"data": data, "eval_bleu": False}
    try:
        state = checkpoint_utils.load_checkpoint_to_cpu(path, overrides)
    except pickle.UnpicklingError:
        raise ValueError(
            f"{path}: fairseq cannot read a checkpoint of this age; "
            f"`fairseq-layerdrop prune {path} OUT` writes it in today's form, whole"
        ) from None
    state["model"] = upgrade_state(state["model"])
    check_registered(path, state.get("cfg"))
    try:
        (model,), cfg, task = checkpoint_utils.load_model_ensemble_and_task(
            [path], overrides, state=state
        )
    # fairseq's translation task raises a bare Exception when it cannot infer the language pair.
    except Exception as error:
        if isinstance(error, RuntimeError) or type(error) is Exception:
            what = str(error).splitlines()[-1].strip()
            raise ValueError(
                f"{path} does not fit the data in {data} (its dictionaries?): {what}"
            ) from None
        with saying(f"{path}: fairseq cannot load it with {data}"):
            raise
    return model, cfg, task


def _of_criterion(options: Any) -> Any:
    """The options of the criterion; files before 2021 held all options in one namespace."""
    known = CRITERION_DATACLASS_REGISTRY.get(options.get("_name"))
    names = {"_name", *(field.name for field in fields(known))} if known else options.keys()
    return OmegaConf.create({name: options[name] for name in options if name in names})


def _resolve(options: Any) -> None:
    """Replace references to other sections by their defaults: old files had no sections."""
    for field in fields(options) if is_dataclass(options) else ():
        value = getattr(options, field.name)
        if isinstance(value, str) and (reference := re.fullmatch(r"\$\{(\w+)\.(\w+)\}", value)):
            section = getattr(FairseqConfig(), reference[1], None)
            setattr(options, field.name, getattr(section, reference[2], None))


def load_subset(loaded: Loaded, names: Sequence[str], *, purpose: str) -> str:
    """Load the first of these subsets that the data have, and say which it was.

    Raises:
        ValueError: if there is none of them, naming the purpose.
    """
    for name in names:
        try:
            loaded.task.load_dataset(name)
        except FileNotFoundError:
            continue
        return name
    raise ValueError(f"there is no subset {' or '.join(names)} in the data to {purpose}")


class Batches:
    """A subset of the data in memory, collated; every sentence of it, or of one half, is there.

    A batch is fairseq's: a dictionary, tokens ``B x T`` in its ``net_input``, and is on the model's
    device.

    Args:
        loaded: the model, whose limits count, and the task.
        subset: the split's name.
        half: the first takes the sentences of even number, the second those of odd number.
        max_tokens: of a batch, at most, padding counted, as in fairseq.
        max_sentences: of a batch, at most.

    Raises:
        ValueError: if a sentence is too long for the model, or there is none.
    """

    def __init__(
        self,
        loaded: Loaded,
        subset: str,
        *,
        half: Half = "all",
        max_tokens: int | None = 1024,
        max_sentences: int | None = None,
    ) -> None:
        task, self.subset, self.half = loaded.task, subset, half
        try:
            # fairseq's translation_multi_simple_epoch cannot load a subset twice.
            if subset not in task.datasets:
                task.load_dataset(subset)
        except FileNotFoundError as error:
            raise ValueError(f"there is no subset {subset} in the data: {error}") from None
        self.dataset = task.dataset(subset)
        with numpy_seed(1):  # fairseq's own seed where it evaluates
            indices = self.dataset.ordered_indices()
        limit = utils.resolve_max_positions(task.max_positions(), loaded.model.max_positions())
        fitting, lost = self.dataset.filter_indices_by_size(indices, limit)
        if len(lost):
            raise ValueError(
                f"every sentence of {subset} must be scored, got {len(lost)} too long for the model"
            )
        wanted = {"all": (0, 1), "first": (0,), "second": (1,)}[half]
        chosen = fitting[[index % 2 in wanted for index in fitting]]
        if not len(chosen):
            raise ValueError(f"there must be sentences to score, got none in {subset} ({half})")
        batches = batched(self.dataset, chosen, max_tokens, max_sentences)
        with saying(f"fairseq cannot batch {subset} for {type(task).__name__}"):
            self.samples = self.collate(loaded, self.dataset, batches)
        self.sentences = sum(len(batch) for batch in batches)
        if self.sentences != len(chosen):
            raise ValueError(
                f"every one of the {len(chosen)} sentences must be scored, got {self.sentences}"
            )

    @staticmethod
    def collate(loaded: Loaded, dataset: Any, batches: Iterable[Iterable[int]]) -> list[Any]:
        """Batches of these sentences, on the model's device."""
        # The indexed format of fairseq's first years is fetched first.
        if getattr(dataset, "supports_prefetch", False):
            dataset.prefetch(list(itertools.chain(*batches)))
        samples = []
        for batch in batches:
            sample = dataset.collater([dataset[i] for i in batch])
            if loaded.device.type == "cuda":
                sample = utils.move_to_cuda(sample, loaded.device)
            samples.append(sample)
        return samples

    def __iter__(self) -> Iterator[Any]:
        return iter(self.samples)

    def __len__(self) -> int:
        return len(self.samples)

    @cached_property
    def digest(self) -> str:
        """Of all that is scored, in the order in which it is."""
        found = hashlib.blake2b(digest_size=8)
        for tensor in _tensors(self.samples):
            found.update(tensor.cpu().contiguous().numpy().tobytes())
        return found.hexdigest()

    def share(self, part: float) -> list[Any]:
        """About this share of the batches, evenly spread, because they are ordered by length."""
        count = max(1, round(part * len(self.samples)))
        return [self.samples[i * len(self.samples) // count] for i in range(count)]


def _tensors(sample: Any) -> Iterator[torch.Tensor]:
    if isinstance(sample, torch.Tensor):
        yield sample
    elif isinstance(sample, Mapping):
        yield from _tensors([sample[key] for key in sorted(sample)])
    elif isinstance(sample, list):
        for part in sample:
            yield from _tensors(part)


def batched(
    dataset: Any, indices: Any, max_tokens: int | None, max_sentences: int | None = None
) -> Any:
    """The sentences in batches of so many tokens, padding counted.

    Raises:
        ValueError: if one sentence has more.
    """
    try:
        return dataset.batch_by_size(
            indices,
            max_tokens=max_tokens,
            max_sentences=max_sentences,
            required_batch_size_multiple=1,
        )
    except AssertionError:
        longest = max(int(dataset.num_tokens(index)) for index in indices)
        if not max_tokens or longest <= max_tokens:
            raise
        raise ValueError(
            f"max_tokens= must be at least {longest}, the tokens of the longest sentence, got "
            f"{max_tokens}"
        ) from None
