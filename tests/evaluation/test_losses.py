# SPDX-License-Identifier: MIT
"""Losses of sub-networks against stock fairseq's of the pruned file; no sentence is lost."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq.checkpoint_utils import load_model_ensemble_and_task
from fairseq.logging import metrics
from fairseq_programs import fairseq, prune
from planted import copy_data, poison, subject, write_language_model

from fairseq_layerdrop.evaluation.loading import Batches, Loaded, load
from fairseq_layerdrop.evaluation.losses import score_losses
from fairseq_layerdrop.evaluation.prefix import Kept
from fairseq_layerdrop.evaluation.subject import Subject
from fairseq_layerdrop.modules.subnetwork import restricted

PLANS: list[Kept] = [
    {"encoder": (0, 1, 2, 3, 4, 5), "decoder": (0, 1, 2, 3, 4, 5)},
    {"encoder": (0, 2, 4), "decoder": (0, 2, 4)},
    {"encoder": (0, 1, 2, 3, 4, 5), "decoder": (1, 5)},
]


@pytest.fixture
def translation(official: Path) -> Subject:
    return subject(official / "checkpoint.pt", official / "data-bin")


@pytest.fixture(scope="module")
def text(official_lm: Path) -> Path:
    return official_lm / "data-bin"


@pytest.fixture(scope="module")
def language_model(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_language_model(text, tmp_path_factory.mktemp("lm"))


def keep(kept: Kept) -> list[str]:
    return [
        item
        for stack, layers in kept.items()
        for item in (f"--{stack}-keep", ",".join(map(str, layers)))
    ]


# Equal to stock fairseq


def validated(checkpoint: Path, data: Path) -> float:
    """A file's validation ``nll_loss``, as ``fairseq-validate`` computes it, but not rounded."""
    (model,), cfg, task = load_model_ensemble_and_task(
        [str(checkpoint)], arg_overrides={"data": str(data)}
    )
    criterion = task.build_criterion(cfg.criterion)
    task.load_dataset("valid")
    batches = task.get_batch_iterator(task.dataset("valid"), max_sentences=50).next_epoch_itr(
        shuffle=False
    )
    with torch.no_grad(), metrics.aggregate(new_root=True) as meters:
        task.reduce_metrics(
            [task.valid_step(sample, model.eval(), criterion)[2] for sample in batches], criterion
        )
    return float(meters["nll_loss"].avg)


def test_the_losses_are_those_that_stock_fairseq_finds_in_the_pruned_files(
    official: Path, translation: Subject, tmp_path: Path
) -> None:
    found = score_losses(
        translation.loaded, Batches(translation.loaded, "valid", max_tokens=512).samples, PLANS
    )
    for number, (plan, losses) in enumerate(zip(PLANS, found, strict=True)):
        small = prune(official / "checkpoint.pt", tmp_path / f"{number}.pt", *keep(plan))
        assert losses.loss == pytest.approx(validated(small, official / "data-bin"), abs=1e-5)
    assert len({round(losses.loss, 3) for losses in found}) == 3


def test_fairseq_validate_prints_the_loss(
    official: Path, translation: Subject, tmp_path: Path
) -> None:
    small = prune(official / "checkpoint.pt", tmp_path / "small.pt", *keep(PLANS[1]))
    flags = [
        "--task",
        "translation",
        "--valid-subset",
        "test",
        "--batch-size",
        "32",
        "--required-batch-size-multiple",
        "1",
        "--cpu",
    ]
    printed = fairseq("validate", official / "data-bin", "--path", small, *flags)
    (nll,) = re.findall(r"nll_loss (\S+)", printed)
    (losses,) = score_losses(
        translation.loaded, Batches(translation.loaded, "test").samples, PLANS[1:2]
    )
    assert losses.loss == pytest.approx(float(nll), abs=6e-4)  # three decimals


@pytest.mark.parametrize("layers", [(0, 2)], ids=str)
def test_a_language_model_s_losses_are_those_of_fairseq_eval_lm(
    text: Path, language_model: Path, layers: tuple[int, ...], tmp_path: Path
) -> None:
    small = prune(
        language_model, tmp_path / "small.pt", "--decoder-keep", ",".join(map(str, layers))
    )
    flags = [
        "--gen-subset",
        "test",
        "--batch-size",
        "8",
        "--tokens-per-sample",
        "16",
        "--sample-break-mode",
        "none",
    ]
    printed = fairseq(
        "eval_lm", text, "--path", small, *flags, "--required-batch-size-multiple", "1", "--cpu"
    )
    (bits,) = re.findall(r"Loss \(base 2\): (\S+),", printed)
    model = load(str(language_model), str(text))
    (losses,) = score_losses(model, Batches(model, "test").samples, [{"decoder": layers}])
    assert losses.loss == pytest.approx(float(bits), abs=6e-5)  # four decimals


def test_an_adaptive_softmax_s_losses_are_those_of_official_fairseq(official_lm: Path) -> None:
    """The table is in the fixtures' README."""
    model = load(str(official_lm / "checkpoint.pt"), str(official_lm / "data-bin"))
    table = {
        (0, 1, 2, 3, 4, 5, 6, 7): 5.2571,
        (0, 2, 4, 6): 5.3089,
        (0, 1, 6, 7): 5.3917,
        (1, 2, 3, 5): 5.4043,
    }
    found = score_losses(
        model, Batches(model, "test").samples, [{"decoder": layers} for layers in table]
    )
    assert [losses.loss for losses in found] == pytest.approx(list(table.values()), abs=6e-5)


# A unit a sentence


def test_the_units_are_the_losses_of_sentences_whatever_the_batches(translation: Subject) -> None:
    """Each alone in its batch, and all in one, in the same order."""
    model = translation.loaded
    single = Batches(model, "test", max_sentences=1)
    together = Batches(model, "test", max_tokens=None, max_sentences=1000)
    assert (len(single), len(together)) == (100, 1)
    for plan in PLANS[1:]:
        (apart,) = score_losses(model, single.samples, [plan])
        (joined,) = score_losses(model, together.samples, [plan])
        by_number = dict(
            zip((int(sample["id"]) for sample in single), apart.sums.tolist(), strict=True)
        )
        assert joined.sums.tolist() == pytest.approx(
            [by_number[n] for n in together.samples[0]["id"].tolist()], rel=1e-4
        )
        assert float(joined.sums.sum()) == pytest.approx(joined.loss * math.log(2) * joined.tokens)
        assert joined.tokens == sum(int(sample["ntokens"]) for sample in single) == apart.tokens
        assert joined.sizes.tolist() == [
            int(row.ne(model.task.target_dictionary.pad()).sum())
            for row in together.samples[0]["target"]
        ]


def test_each_batch_s_loss_is_the_criterion_s(translation: Subject) -> None:
    """Without prefix sharing, on the model restricted; nothing of label smoothing is in it."""
    model, plan = translation.loaded, PLANS[2]
    batches = Batches(model, "valid", max_tokens=300)
    (losses,) = score_losses(model, batches.samples, [plan])
    with restricted(model.model, plan), torch.no_grad():
        logs = [model.criterion(model.model, sample)[2] for sample in batches]
    assert float(losses.sums.sum()) == pytest.approx(
        sum(float(log["nll_loss"]) for log in logs), rel=1e-6
    )
    assert losses.tokens == sum(log["ntokens"] for log in logs)
    assert losses.accuracy is None


def test_a_classifier_s_accuracy_counts_every_sentence() -> None:
    """Two sentences in three are classified right, in batches of two sizes."""

    class Criterion:
        def __call__(self, model: Any, sample: Any, reduce: bool) -> Any:
            right = int((model(sample["x"]).argmax(-1) == sample["target"]).sum())
            loss = torch.nn.functional.nll_loss(
                model(sample["x"]), sample["target"], reduction="none"
            )
            n = len(sample["target"])
            return (
                loss,
                n,
                {"loss": loss, "ncorrect": right, "nsentences": n, "sample_size": n, "ntokens": 99},
            )

    layer = torch.nn.Linear(3, 3, bias=False)
    layer.weight.data = torch.eye(3) * 4
    model: Any = torch.nn.Module()
    model.decoder = torch.nn.Module()
    model.decoder.layers = torch.nn.ModuleList([layer])
    model.forward = lambda x: model.decoder.layers[0](x).log_softmax(-1)
    eye = torch.eye(3)
    samples = [
        {"x": eye, "target": torch.tensor([0, 1, 0])},
        {"x": eye[[0, 1, 2, 0, 1, 2]], "target": torch.tensor([0, 1, 0, 0, 1, 1])},
    ]
    loaded = Loaded(model, None, _Once(Criterion()), torch.device("cpu"))
    (losses,) = score_losses(loaded, samples, [{"decoder": (0,)}])
    assert losses.accuracy == pytest.approx(100 * 6 / 9)
    right, wrong = (-math.log(math.exp(a) / (math.exp(4) + 2)) for a in (4, 0))
    assert losses.loss == pytest.approx((6 * right + 3 * wrong) / 9 / math.log(2), rel=1e-5)


class _Once:
    """A criterion that runs the model once, as all of fairseq's do."""

    def __init__(self, criterion: Any) -> None:
        self.criterion = criterion

    def __call__(self, model: Any, sample: Any, reduce: bool = True) -> Any:
        output = model(sample["x"])
        return self.criterion(lambda _: output, sample, reduce)


# What is not a number


def test_weights_that_are_no_numbers_are_refused_with_the_layers(translation: Subject) -> None:
    poison(translation.loaded, "decoder", 3)
    samples = Batches(translation.loaded, "test").samples
    without, with_it = {"encoder": (0,), "decoder": (0, 1)}, {"encoder": (0,), "decoder": (0, 3)}
    score_losses(translation.loaded, samples, [without])
    with pytest.raises(
        ValueError,
        match=r"the loss must be a number, got nan with the layers .*'decoder': \(0, 3\)",
    ):
        score_losses(translation.loaded, samples, [without, with_it])


# Every sentence


@pytest.mark.parametrize(
    "sizes", [{}, {"max_tokens": 64}, {"max_sentences": 7}, {"max_sentences": 32}], ids=str
)
def test_every_sentence_is_in_a_batch_and_in_one_half(
    translation: Subject, sizes: dict[str, int]
) -> None:
    """A hundred sentences are no multiple of eight, nor of 7 or 32."""
    seen = {}
    for half in ("all", "first", "second"):
        batches = Batches(translation.loaded, "test", half=half, **sizes)
        seen[half] = sorted(number for sample in batches for number in sample["id"].tolist())
        assert batches.sentences == len(seen[half])
    assert seen["all"] == list(range(100))
    assert sorted(seen["first"] + seen["second"]) == seen["all"]
    assert len(seen["first"]) == len(seen["second"]) == 50


def test_the_halves_and_batches_have_digests_of_their_own(translation: Subject) -> None:
    model = translation.loaded
    made = [Batches(model, "test", half=half) for half in ("all", "first", "second")]
    made += [Batches(model, "valid")]
    assert len({batches.digest for batches in made}) == 4
    assert Batches(model, "test").digest == made[0].digest


def test_a_share_of_the_batches_is_spread_over_the_lengths(translation: Subject) -> None:
    batches = Batches(translation.loaded, "test", max_sentences=5)
    lengths = [sample["net_input"]["src_tokens"].shape[1] for sample in batches.share(0.25)]
    assert len(lengths) == 5
    assert lengths == sorted(lengths)
    assert lengths[-1] - lengths[0] >= 2
    assert len(batches.share(1e-9)) == 1
    assert len({id(sample) for sample in batches.share(0.9)}) == 18


def test_a_sentence_too_long_for_the_model_is_refused(translation: Subject) -> None:
    translation.loaded.model.decoder.max_positions = lambda: 5
    with pytest.raises(
        ValueError, match=r"every sentence of test must be scored, got \d+ too long for the model"
    ):
        Batches(translation.loaded, "test")


def test_a_subset_that_is_not_there_is_named(translation: Subject) -> None:
    with pytest.raises(ValueError, match="there is no subset nowhere in the data"):
        Batches(translation.loaded, "nowhere")


def test_a_dictionary_of_another_size_is_named(official: Path, tmp_path: Path) -> None:
    data = copy_data(official / "data-bin", tmp_path / "data")
    with (data / "dict.tgt.txt").open("a") as file:
        file.write("".join(f"more{i} 1\n" for i in range(8)))
    with pytest.raises(
        ValueError, match=r"does not fit the data in .*\(its dictionaries\?\): .*size"
    ):
        load(str(official / "checkpoint.pt"), str(data))


def test_a_checkpoint_of_2019_names_the_fix(official_2019: Path) -> None:
    with pytest.raises(ValueError, match=r"prune .* OUT` writes it in today's form"):
        load(str(official_2019 / "checkpoint.pt"), str(official_2019 / "data-bin"))


def test_data_of_2019_can_be_read(official: Path, official_2019: Path) -> None:
    """Its dictionaries are of the same size."""
    model = load(str(official / "checkpoint.pt"), str(official_2019 / "data-bin"))
    assert Batches(model, "test").sentences == 100


def test_the_fix_for_a_checkpoint_of_2019_works(official_2019: Path, tmp_path: Path) -> None:
    """fairseq-validate cannot read this file, either."""
    new = load(
        str(prune(official_2019 / "checkpoint.pt", tmp_path / "new.pt")),
        str(official_2019 / "data-bin"),
    )
    assert Batches(new, "test").sentences == 100
