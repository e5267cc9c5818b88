# SPDX-License-Identifier: MIT
"""Encoders of sound and models that transcribe it: transformers hears what fairseq hears."""

from pathlib import Path

import pytest
import torch
from fairseq.tasks import TASK_REGISTRY
from fairseq_programs import config
from huggingface_models import DECODER, ENCODER, PRE, Built, agreement, exported, plain_options
from planted import write_model

from fairseq_layerdrop.formats.huggingface.convert import convert

pytestmark = pytest.mark.usefixtures("short_texts")

SMALL = ["--final-dim", "16", "--conv-pos", "8", "--conv-pos-groups", "2", *ENCODER]
LAYERS = ["--conv-feature-layers", "[(16,10,5)]+[(16,8,8)]"]
SAME_WIDTH = ["--conv-feature-layers", "[(32,10,5)]+[(32,8,8)]"]
STABLE = ["--extractor-mode", "layer_norm", "--layer-norm-first", "--conv-bias"]
WAV2VEC = ["--task", "audio_pretraining", "--arch", "wav2vec2", *SMALL, "--latent-vars", "8"]
HUBERT = [
    *("--task", "hubert_pretraining", "--labels", '["km"]', "--label-rate", "50"),
    *("--arch", "hubert", *SMALL),
]
S2T = [
    *("--task", "speech_to_text", "--config-yaml", "config.yaml", "--arch", "s2t_transformer"),
    *(*ENCODER, *DECODER, "--conv-channels", "16"),
]
FORMS = {
    "wav2vec2": ("Wav2Vec2Model", [*WAV2VEC, *LAYERS, "--quantize-targets"]),
    "wav2vec2, stable": ("Wav2Vec2Model", [*WAV2VEC, *LAYERS, *STABLE]),
    "wav2vec2, nothing to project": ("Wav2Vec2Model", [*WAV2VEC, *SAME_WIDTH]),
    "HuBERT": ("HubertModel", [*HUBERT, *LAYERS]),
    "HuBERT, stable": ("HubertModel", [*HUBERT, *LAYERS, *STABLE]),
}


def build(data: Path, *flags: str) -> Built:
    """The model of these flags, its task over a data set's dictionaries."""
    cfg = config(*flags)
    cfg.task.data = str(data)
    if "data" in cfg.model:
        cfg.model.data = str(data)  # of a CTC model: the encoder inside has a task of its own
    task = TASK_REGISTRY[cfg.task._name].setup_task(cfg.task)
    torch.manual_seed(4)
    model = task.build_model(cfg.model).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return Built(model, task, plain_options(cfg.model))


@pytest.mark.parametrize("name", FORMS)
def test_an_encoder_of_sound_computes_the_same(audio_data: Path, tmp_path: Path, name: str) -> None:
    expected, flags = FORMS[name]
    built = build(audio_data, *flags)
    _, target = convert(*built)
    assert target.architecture == expected
    assert agreement(built, tmp_path).logits < 1e-5


def test_fairseq_merges_the_norm_of_the_positions_where_it_generates(
    audio_data: Path, tmp_path: Path
) -> None:
    built = build(audio_data, *FORMS["wav2vec2"][1])
    built.model.make_generation_fast_()
    assert agreement(built, tmp_path).logits < 1e-5


@pytest.mark.parametrize("pretrained", ["wav2vec2, stable", "wav2vec2"])
def test_a_ctc_head_is_kept_and_its_blank_is_the_padding(
    audio_data: Path, tmp_path: Path, pretrained: str
) -> None:
    source = write_model(audio_data, tmp_path / "pretrained.pt", *FORMS[pretrained][1])
    flags = ["--task", "audio_finetuning", "--labels", "ltr", "--arch", "wav2vec_ctc"]
    built = build(audio_data, *flags, "--w2v-path", str(source))
    _, target, model = exported(built, tmp_path / "out")
    assert target.architecture == "Wav2Vec2ForCTC"
    assert (model.config.pad_token_id, model.config.bos_token_id) == (0, 1)
    assert agreement(built, tmp_path / "again").logits < 1e-5


@pytest.fixture
def speech_data(tmp_path: Path) -> Path:
    """What ``speech_to_text`` needs to know of its data: the features' width and the words."""
    (tmp_path / "config.yaml").write_text("vocab_filename: dict.txt\ninput_feat_per_channel: 8\n")
    (tmp_path / "dict.txt").write_text("".join(f"w{i} 1\n" for i in range(20)))
    return tmp_path


@pytest.mark.parametrize("ties", [[], ["--share-decoder-input-output-embed"]])
def test_speech_is_transcribed_as_in_fairseq(
    speech_data: Path, tmp_path: Path, ties: list[str]
) -> None:
    built = build(speech_data, *S2T, *PRE, *ties)
    found = agreement(built, tmp_path / "out")
    assert (found.logits < 1e-5, found.generated) == (True, 20)


HOMELESS = {
    "--layer-type conformer": [*WAV2VEC, *LAYERS, "--layer-type", "conformer"],
    "--pos-conv-depth 2": [*WAV2VEC, *LAYERS, "--pos-conv-depth", "2"],
    "--quantize-input": [*WAV2VEC, *LAYERS, "--quantize-input"],
    "--conv-pos-batch-norm": [*HUBERT, *LAYERS, "--conv-pos-batch-norm"],
}


@pytest.mark.parametrize("words", HOMELESS)
def test_a_form_of_sound_without_a_home_is_refused(audio_data: Path, words: str) -> None:
    with pytest.raises(ValueError, match="transformers has no home for") as error:
        convert(*build(audio_data, *HOMELESS[words]))
    assert words in str(error.value)
