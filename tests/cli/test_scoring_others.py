# SPDX-License-Identifier: MIT
"""The verbs that score, of models that are no plain Transformer: they work, or say why not."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from commands import Command, Done
from fairseq import utils
from fairseq_programs import LANGUAGES, WIDTH
from planted import rows, write_model

PLUGIN = """
from argparse import Namespace
from fairseq.criterions import register_criterion
from fairseq.criterions.cross_entropy import CrossEntropyCriterion, CrossEntropyCriterionConfig
from fairseq.models import register_model, register_model_architecture
from fairseq.models.transformer import TransformerModel, base_architecture
from fairseq.tasks import register_task
from fairseq.tasks.translation import TranslationConfig, TranslationTask


@register_criterion("scoring_criterion", dataclass=CrossEntropyCriterionConfig)
class Criterion(CrossEntropyCriterion):
    pass


@register_task("scoring_task", dataclass=TranslationConfig)
class Task(TranslationTask):
    pass


@register_model("scoring_model")
class Model(TransformerModel):
    pass


@register_model_architecture("scoring_model", "scoring_model")
def architecture(args):
    base_architecture(args)
"""
DEPTHS = ["--encoder-layers", "2", "--decoder-layers", "2"]
NAT = [*LANGUAGES, "--task", "translation_lev", "--criterion", "nat_loss"]
OF_PREFIX = ["--source-lang", "src", "--target-lang", "tgt", "--langs", "src,tgt"]
MULTI = [
    *("--task", "translation_multi_simple_epoch", "--langs", "src,tgt", "--arch", "transformer"),
    *("--encoder-langtok", "src", "--decoder-langtok", "--lang-pairs", "src-tgt,tgt-src"),
]
MBART = ["--task", "translation_from_pretrained_bart", "--arch", "mbart_base", *OF_PREFIX]
VERBS: dict[str, list[str]] = {
    "importance": [],
    "search": ["--decoder-depth", "1"],
    "sweep": ["--points", "all/all 2+1", "--metrics", "loss,bleu", "--max-len-b", "9"],
    "zoo": ["--points", "2+1"],
}


def score(command: Command, verb: str, data: Path, path: Path, *flags: object) -> Done:
    """Run a verb; its output is beside the checkpoint."""
    output = path.with_name(f"{verb}.out" if verb == "zoo" else f"{verb}.jsonl")
    return command(verb, data, output, "--path", path, *VERBS[verb], *flags)


def assert_one_line(done: Done, *words: str) -> None:
    assert (done.status, done.out) == (2, "")
    assert done.err.count("\n") == 1, done.err
    for word in words:
        assert word in done.err


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Somebody's criterion, task and model."""
    folder = tmp_path_factory.mktemp("plugins") / "scoring_plugin"
    folder.mkdir()
    (folder / "__init__.py").write_text(PLUGIN)
    return folder


def test_what_a_plugin_has_is_asked_for_and_then_scored(
    command: Command, data: Path, tmp_path: Path, plugin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fairseq.criterions import CRITERION_REGISTRY

    utils.import_user_module(_Named(str(plugin)))
    names = ["--task", "scoring_task", "--arch", "scoring_model", "--criterion"]
    path = write_model(
        data, tmp_path / "full.pt", *LANGUAGES, *WIDTH, *DEPTHS, *names, "scoring_criterion"
    )
    with monkeypatch.context() as without:
        without.delitem(CRITERION_REGISTRY, "scoring_criterion")
        for verb in VERBS:
            done = score(command, verb, data, path)
            assert_one_line(done, "the criterion scoring_criterion", "--user-dir DIR")
    for verb in VERBS:
        done = score(command, verb, data, path, "--user-dir", plugin)
        assert done.status == 0, done.err


class _Named:
    """The options that name a plugin, as fairseq's programs have them."""

    def __init__(self, folder: str) -> None:
        self.user_dir = folder


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    "arch", ["nonautoregressive_transformer", "cmlm_transformer", "levenshtein_transformer"]
)
def test_what_needs_noise_in_its_batches_is_one_line(
    command: Command, data: Path, tmp_path: Path, arch: str, verb: str
) -> None:
    path = write_model(data, tmp_path / "full.pt", *NAT, *WIDTH, *DEPTHS, "--arch", arch)
    done = score(command, verb, data, path)
    criterion = "LabelSmoothedDualImitationCriterion"
    assert_one_line(done, f"no score by {criterion}", "TranslationLevenshteinTask", "prev_target")


def losses(path: Path) -> dict[str, Sequence[float]]:
    return {row["plan"]: row["loss"] for row in rows(path, "plan")}


def test_many_languages_have_losses_and_texts_if_they_are_named(
    command: Command, data: Path, tmp_path: Path
) -> None:
    path = write_model(data, tmp_path / "all.pt", *MULTI, *WIDTH, *DEPTHS, scale=1)
    assert_one_line(
        score(command, "sweep", data, path),
        "TranslationMultiSimpleEpochTask generates no text here",
        "--target-lang",
    )
    assert score(command, "sweep", data, path, "--metrics", "loss").status == 0
    for verb in ("importance", "search", "zoo"):
        done = score(command, verb, data, path)
        assert done.status == 0, done.err
    named = write_model(data, tmp_path / "one.pt", *MULTI, *LANGUAGES, *WIDTH, *DEPTHS, scale=1)
    (tmp_path / "sweep.jsonl").unlink()
    done = score(command, "sweep", data, named)
    assert done.status == 0, done.err
    assert {"bleu", "loss"} <= rows(tmp_path / "sweep.jsonl", "plan")[0].keys()


@pytest.mark.parametrize("batch_size", [5, 3])
def test_a_bart_has_the_same_losses_with_texts_beside_them_and_without(
    command: Command, data: Path, tmp_path: Path, batch_size: int
) -> None:
    path = write_model(data, tmp_path / "full.pt", *MBART, *WIDTH, *DEPTHS, scale=1)
    sizes, found = ["--batch-size", batch_size], []
    for metrics in ("loss", "loss,bleu"):
        done = score(command, "sweep", data, path, *sizes, "--metrics", metrics)
        assert done.status == 0, done.err
        found.append(losses(tmp_path / "sweep.jsonl"))
        (tmp_path / "sweep.jsonl").unlink()
    assert found[0].keys() == {"all/all", "all/0"}
    assert found[1] == pytest.approx(found[0], abs=1e-6)
    for verb in ("importance", "search", "zoo"):
        done = score(command, verb, data, path)
        assert done.status == 0, done.err
