# SPDX-License-Identifier: MIT
"""Which check a file has before it takes its name, and what does not pass."""

import dataclasses
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from registry import write_checkpoint

from fairseq_layerdrop.checkpoint import load, open_source, save
from fairseq_layerdrop.operations import _check
from fairseq_layerdrop.operations.prune import check_of, prune
from fairseq_layerdrop.pruning.plan import PruningPlan
from fairseq_layerdrop.pruning.surgery import prune_checkpoint

PLUGIN = """
from fairseq.models import register_model, register_model_architecture
from fairseq.models.transformer import TransformerModel, base_architecture


@register_model("loud_transformer")
class LoudTransformer(TransformerModel):
    @staticmethod
    def add_args(parser):
        TransformerModel.add_args(parser)
        parser.add_argument("--out-gain", type=float)

    @classmethod
    def build_decoder(cls, args, words, embeddings):
        decoder = super().build_decoder(args, words, embeddings)
        decoder.out_gain = getattr(args, "out_gain", 1.0)
        return decoder

    def forward(self, *args, **kwargs):
        output, extra = super().forward(*args, **kwargs)
        return output * self.decoder.out_gain, extra


@register_model_architecture("loud_transformer", "loud_transformer")
def architecture(args):
    base_architecture(args)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("check")


@pytest.fixture(scope="module")
def plain(folder: Path) -> Path:
    """A stock Transformer, which fairseq's trainer saves with every option there is."""
    return write_checkpoint("transformer_iwslt_de_en", folder)


@pytest.fixture(scope="module")
def loud(folder: Path) -> Iterator[tuple[Path, Path]]:
    """A model of somebody's plugin with an option of its own, and the plugin."""
    plugin = folder / "loud_plugin"
    plugin.mkdir()
    (plugin / "__init__.py").write_text(PLUGIN, encoding="utf-8")
    path = write_checkpoint(
        "transformer_iwslt_de_en", folder, name="base"
    )  # the registry learns of the plugin below
    from fairseq import utils

    utils.import_user_module(Namespace(user_dir=str(plugin)))
    assert path.exists()
    yield write_checkpoint("loud_transformer", folder, "--out-gain", "3"), plugin
    sys.modules.pop("loud_plugin", None)


def gain(path: Path) -> Any:
    model = load(path)["cfg"]["model"]
    return model.out_gain if isinstance(model, Namespace) else None


def test_a_family_that_is_known_is_compared_tensor_by_tensor(plain: Path, tmp_path: Path) -> None:
    facts = prune(plain, tmp_path / "small.pt", "0,3/0,2")
    assert facts["check"] == "compared tensor by tensor"


def test_it_is_loaded_if_that_is_asked_for(plain: Path, tmp_path: Path) -> None:
    facts = prune(plain, tmp_path / "small.pt", "0,3/0,2", check="load")
    assert facts["check"] == "loaded by fairseq, outputs equal"


@pytest.mark.parametrize("languages", [("src", "tgt"), (None, None)], ids=["named", "inferred"])
@pytest.mark.parametrize("empty", [False, True], ids=["no folder", "an empty one"])
def test_the_data_need_not_be_there(
    plain: Path, tmp_path: Path, languages: tuple[str | None, str | None], empty: bool
) -> None:
    content, data = load(plain), tmp_path / "data"
    if empty:
        data.mkdir()
    source, target = languages
    content["cfg"]["task"] |= {"data": str(data), "source_lang": source, "target_lang": target}
    save(content, tmp_path / "moved.pt")
    facts = prune(tmp_path / "moved.pt", tmp_path / "small.pt", "0,3/0,2", check="load")
    assert facts["check"] == "loaded by fairseq, outputs equal"


def test_an_option_of_somebodys_own_survives(loud: tuple[Path, Path], tmp_path: Path) -> None:
    facts = prune(loud[0], tmp_path / "small.pt", "0,3/0,2", user_dir=str(loud[1]))
    assert facts["check"] == "loaded by fairseq, outputs equal"
    assert gain(tmp_path / "small.pt") == 3
    assert any("out_gain 3.0" in note for note in facts["notes"])


def test_a_style_that_loses_an_option_is_refused(loud: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"another model: its decoder\.out_gain is 1\.0, not 3\.0"):
        prune(loud[0], tmp_path / "small.pt", config_style="plain", user_dir=str(loud[1]))
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_computes_something_else_is_refused(plain: Path, tmp_path: Path) -> None:
    source = open_source(plain)
    plan = PruningPlan.from_specs({"encoder": "0,3"}, source.depths)
    small = prune_checkpoint(source, plan, version="0")
    small["cfg"]["model"]["activation_fn"] = "gelu"
    with pytest.raises(ValueError, match="computes something else than the full model: off by"):
        check_of(source, "load").save(
            small, tmp_path / "small.pt", plan.kept, lambda state: None, style="plain"
        )
    assert list(tmp_path.iterdir()) == []


def test_without_fairseq_a_family_that_is_not_known_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_check.importlib.util, "find_spec", lambda name: None)
    full = write_checkpoint("levenshtein_transformer", folder)
    with pytest.raises(ValueError, match="not installed here; check=tensors"):
        prune(full, tmp_path / "small.pt", "0,3/0,2")
    assert prune(full, tmp_path / "small.pt", "0,3/0,2", check="tensors")["check"] == (
        "compared tensor by tensor"
    )


def test_options_that_fairseq_evaluates_must_be_numbers(folder: Path, tmp_path: Path) -> None:
    full = write_checkpoint("wav2vec2", folder)
    content = load(full)
    content["cfg"]["model"]["conv_feature_layers"] = "[print('run')] or [(16,10,5)]"
    save(content, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match=r"conv_feature_layers must be numbers.*nothing was run"):
        prune(tmp_path / "evil.pt", tmp_path / "small.pt", "0,3")


def test_an_option_that_cannot_be_written_is_named(plain: Path, tmp_path: Path) -> None:
    source = open_source(plain)
    model = Namespace(**vars(source.checkpoint["cfg"]["model"]), odd=object())
    cfg = {**source.checkpoint["cfg"], "model": model}
    source = dataclasses.replace(source, checkpoint={**source.checkpoint, "cfg": cfg})
    with pytest.raises(ValueError, match="an object in odd"):
        prune_checkpoint(source, PruningPlan.from_specs({}, source.depths), version="0")


def test_sets_and_types_stay_what_they_are(plain: Path, tmp_path: Path) -> None:
    content = load(plain)
    vars(content["cfg"]["model"]).update(languages={"en", "de"}, kind=torch.float16)
    save(content, tmp_path / "full.pt")
    prune(tmp_path / "full.pt", tmp_path / "small.pt", "0,3/0,2")
    model = load(tmp_path / "small.pt")["cfg"]["model"]
    options = vars(model) if isinstance(model, Namespace) else model
    assert (options["languages"], options["kind"]) == ({"en", "de"}, torch.float16)
