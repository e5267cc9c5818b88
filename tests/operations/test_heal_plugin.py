# SPDX-License-Identifier: MIT
"""``heal --user-dir``: people's own models, tasks and criterions are trained as theirs."""

import json
from argparse import Namespace
from pathlib import Path

import pytest
from commands import Command
from fairseq import utils
from fairseq_programs import LANGUAGES, WIDTH
from planted import write_model

from fairseq_layerdrop.checkpoint import load, open_source, save
from fairseq_layerdrop.operations._heal_options import HealOptions
from fairseq_layerdrop.pruning.config import plain
from fairseq_layerdrop.pruning.plan import PruningPlan

PLUGIN = """
from fairseq.criterions import register_criterion
from fairseq.criterions.cross_entropy import CrossEntropyCriterion, CrossEntropyCriterionConfig
from fairseq.models import register_model, register_model_architecture
from fairseq.models.transformer import TransformerDecoder, TransformerModel, base_architecture
from fairseq.tasks import register_task
from fairseq.tasks.translation import TranslationConfig, TranslationTask


class GainDecoder(TransformerDecoder):
    def output_layer(self, features):
        return super().output_layer(features) * self.out_gain


@register_model("gain_model")
class GainModel(TransformerModel):
    @staticmethod
    def add_args(parser):
        TransformerModel.add_args(parser)
        parser.add_argument("--out-gain", type=float, default=1)
        parser.add_argument("--plain-out", action="store_true")

    @classmethod
    def build_decoder(cls, args, tgt_dict, embed_tokens):
        return GainDecoder(args, tgt_dict, embed_tokens)

    @classmethod
    def build_model(cls, args, task):
        model = super().build_model(args, task)
        model.decoder.out_gain = 1 if args.plain_out else args.out_gain
        return model


@register_model_architecture("gain_model", "gain_model")
def architecture(args):
    base_architecture(args)
    args.plain_out = getattr(args, "plain_out", False)


@register_criterion("gain_criterion", dataclass=CrossEntropyCriterionConfig)
class GainCriterion(CrossEntropyCriterion):
    pass


@register_task("gain_task", dataclass=TranslationConfig)
class GainTask(TranslationTask):
    pass
"""
MODEL = [*LANGUAGES, *WIDTH, "--encoder-layers", "2", "--decoder-layers", "2", "--arch"]
MODEL += ["gain_model", "--out-gain", "0.5", "--task", "gain_task", "--lr", "0.01"]
MODEL += ["--optimizer", "adam"]


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Somebody's model with an option of its own, criterion and task."""
    folder = tmp_path_factory.mktemp("plugins") / "gain_plugin"
    folder.mkdir()
    (folder / "__init__.py").write_text(PLUGIN)
    utils.import_user_module(Namespace(user_dir=str(folder)))
    return folder


@pytest.mark.parametrize("teacher", [pytest.param(True, marks=pytest.mark.slow), False])
def test_a_plugin_is_healed_with_its_own_options(
    teacher: bool, data: Path, tmp_path: Path, plugin: Path, command: Command
) -> None:
    criterion = "cross_entropy" if teacher else "gain_criterion"
    path = write_model(data, tmp_path / "full.pt", *MODEL, "--criterion", criterion, scale=1)
    flags = ["--path", path, "--points", "2+1", "--max-update", "8", "--user-dir", plugin]
    flags += [] if teacher else ["--no-teacher"]
    out = tmp_path / "healed"
    done = command("heal", data, out, *flags, "--json", "--", "--cpu", "--batch-size", "8")
    assert done.status == 0, done.err
    (model,) = json.loads(done.out)["models"]
    assert model["loss"]["healed"] < model["loss"]["compensated"]
    arguments = json.loads((out / "training" / "2+1" / "arguments.json").read_text())
    assert arguments[arguments.index("--out-gain") + 1] == "0.5"
    assert "--plain-out" not in arguments
    cfg = load(out / "2+1.pt")["cfg"]
    assert (cfg["model"]["out_gain"], cfg["task"]["_name"]) == (0.5, "gain_task")
    assert cfg["criterion"]["_name"] == criterion
    assert cfg["common"]["user_dir"] is None


def in_one_namespace(path: Path, target: Path) -> Path:
    """The same checkpoint as fairseq wrote them before 2021."""
    checkpoint = load(path)
    cfg = plain(checkpoint["cfg"])
    args = Namespace(arch=cfg["model"]["_name"])
    for name, section in cfg.items():
        if isinstance(section, dict):
            vars(args).update(section, **{name: section.get("_name")})
    del args._name
    save({**checkpoint, "args": args, "cfg": None}, target)
    return target


def test_a_model_of_before_2021_is_trained_with_the_same_options(
    data: Path, tmp_path: Path, plugin: Path
) -> None:
    new = write_model(data, tmp_path / "new.pt", *MODEL, "--criterion", "cross_entropy")
    old = in_one_namespace(new, tmp_path / "old.pt")
    found = []
    for path in (new, old):
        source = open_source(path)
        plan = PruningPlan.everything(source.depths)
        arguments = HealOptions().arguments(
            source, plan, whole=source, data=str(data), updates=9, user_dir=plugin
        )
        found.append([argument.replace(str(path), "FILE") for argument in arguments])
    assert sorted(found[0]) == sorted(found[1])
    assert found[0][found[0].index("--out-gain") + 1] == "0.5"


def test_a_criterion_that_no_teacher_can_join_is_refused_before_anything_is_written(
    data: Path, tmp_path: Path, plugin: Path, command: Command
) -> None:
    path = write_model(data, tmp_path / "full.pt", *MODEL, "--criterion", "gain_criterion")
    flags = ["--path", path, "--points", "2+1", "--max-update", "8", "--user-dir", plugin]
    status, out, err = command("heal", data, tmp_path / "healed", *flags)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "got gain_criterion; heal it without one" in err
    assert not (tmp_path / "healed").exists()


def test_a_cut_plugin_is_compensated(
    data: Path, tmp_path: Path, plugin: Path, command: Command
) -> None:
    path = write_model(data, tmp_path / "full.pt", *MODEL, "--criterion", "cross_entropy")
    flags = ["--decoder-keep", "0", "--compensate", data, "--user-dir", plugin]
    done = command("prune", path, tmp_path / "small.pt", *flags)
    assert done.status == 0, done.err
    assert "held-out loss: " in done.out
