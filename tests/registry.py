# SPDX-License-Identifier: MIT
"""A tiny checkpoint of any architecture that fairseq has registered, by fairseq's own parser, task
and model code, as its trainer would save it.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from fairseq import options, tasks
from fairseq.data import Dictionary
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.models import ARCH_MODEL_NAME_REGISTRY, ARCH_MODEL_REGISTRY
from omegaconf import OmegaConf

from fairseq_layerdrop.checkpoint import load, open_source
from fairseq_layerdrop.evaluation.building import build
from fairseq_layerdrop.evaluation.load_check import EQUAL, LOADED
from fairseq_layerdrop.operations.prune import prune

DEPTH = 4
CANNOT_RUN = "fairseq itself cannot run it"
SIZES = {
    **{
        f"--{stack}-{size}": value
        for stack in ("encoder", "decoder")
        for size, value in {
            "embed-dim": "16",
            "ffn-embed-dim": "16",
            "attention-heads": "2",
            "layers": str(DEPTH),
            "transformer-layers": str(DEPTH),
            "conv-dim": "16",
            "hidden-size": "16",
            "lstm-size": "16",
        }.items()
    },
    "--decoder-input-dim": "16",
    "--decoder-output-dim": "16",
    "--conv-channels": "16",
    "--final-dim": "16",
    "--conv-pos": "8",
    "--conv-pos-groups": "2",
    "--conv-feature-layers": "[(16,10,5)]+[(16,8,8)]",
}
"""Sizes of a tiny model, as far as its architecture has the flags."""


def _each(names: list[str], flags: list[str]) -> dict[str, list[str]]:
    return dict.fromkeys(names, flags)


PAIR = ["--source-lang", "src", "--target-lang", "tgt"]
SPEECH = ["--task", "speech_to_text"]
UNITS = ["--task", "speech_to_speech", "--target-is-code", "--target-code-size", "20"]
SPECTRA = ["--task", "speech_to_speech"]
TWO_PASSES = ["--multitask-config-yaml", "multitask.yaml"]
KERNELS = ["--decoder-kernel-size-list", "[3,7,15,31]"]
CONVOLUTIONS = ["--encoder-layers", "[(16, 3)] * 4", "--decoder-layers", "[(16, 3)] * 4"]
FINE_TUNED = ["--task", "audio_finetuning", "--labels", "ltr", "--w2v-path", "{wav2vec2}"]
# Its decoder attends to an encoder of 512 units, whatever the encoder has.
WITH_DECODER = [*FINE_TUNED, "--autoregressive", "--decoder-embed-dim", "512"]
HUBERT = ["{hubert}" if flag == "{wav2vec2}" else flag for flag in FINE_TUNED]
RECIPES: dict[str, list[str]] = {
    **_each(
        [
            *("nonautoregressive_transformer", "cmlm_transformer"),
            *("iterative_nonautoregressive_transformer", "levenshtein_transformer"),
            "insertion_transformer",
        ],
        ["--task", "translation_lev", "--criterion", "nat_loss", *PAIR],
    ),
    "nacrf_transformer": [
        *("--task", "translation_lev", "--criterion", "nat_loss", *PAIR, "--crf-beam-approx", "4"),
    ],
    "lightconv": [
        *("--task", "translation", *PAIR, "--encoder-kernel-size-list", "[3,7,15,31]", *KERNELS),
    ],
    "lightconv_lm": ["--task", "language_modeling", *KERNELS],
    **_each(["transformer_lm", "lstm_lm", "hf_gpt2"], ["--task", "language_modeling"]),
    "model_parallel_transformer_lm": ["--task", "language_modeling"],
    "transformer_ulm": ["--task", "speech_unit_modeling"],
    **_each(["roberta", "model_parallel_roberta"], ["--task", "masked_lm"]),
    "roberta_enc_dec": ["--task", "denoising"],
    "masked_lm": ["--task", "legacy_masked_lm"],
    "xmod": ["--task", "multilingual_masked_lm"],
    "speech_dlm": [
        *("--task", "speech_dlm_task", "--criterion", "speech_dlm_criterion"),
        *("--channels", "unitA,unitB", "--next-unit-prediction", "True"),
    ],
    **_each(["wav2vec", "wav2vec2"], ["--task", "audio_pretraining"]),
    "hubert": ["--task", "hubert_pretraining", "--labels", '["km"]', "--label-dir", "{data}"],
    **_each(["wav2vec_ctc", "wav2vec2_laser"], FINE_TUNED),
    "wav2vec_classification": [*FINE_TUNED, "--pooling", "mean"],
    "wav2vec_seq2seq": WITH_DECODER,
    "hubert_ctc": HUBERT,
    "hubert_seq2seq": [*HUBERT, "--autoregressive"],
    **_each(["tacotron_2", "tts_transformer", "fastspeech2"], ["--task", "text_to_speech"]),
    "multilingual_transformer": [
        *("--task", "multilingual_translation", "--lang-pairs", "src-tgt,tgt-src"),
    ],
    **_each(
        ["s2t_berard", "convtransformer", "s2t_transformer", "s2t_conformer"],
        SPEECH,
    ),
    "xm_transformer": [*SPEECH, "--w2v-path", "{wav2vec2}"],
    # fairseq's speech_to_speech asks for a class that this model is not of.
    "unity_xm_transformer": [*SPEECH, *TWO_PASSES, "--w2v-path", "{wav2vec2}"],
    **_each(["s2ut_transformer", "s2ut_conformer"], UNITS),
    "unity_conformer": [*UNITS, *TWO_PASSES],
    **_each(["s2spect_transformer", "s2spect_conformer"], SPECTRA),
    "s2spect2_conformer": [*SPECTRA, *TWO_PASSES],
    "dummy_model": [
        *("--task", "dummy_lm", "--dict-size", "20", "--embed-dim", "16", "--num-layers", "4"),
    ],
    **_each(["fconv", "fconv_self_att"], ["--task", "translation", *PAIR, *CONVOLUTIONS]),
    "fconv_lm": ["--task", "language_modeling", "--decoder-layers", "[(16, 3)] * 4"],
    "transformer_from_pretrained_xlm": [
        *("--task", "translation_from_pretrained_xlm", *PAIR),
        *("--pretrained-xlm-checkpoint", "{masked_lm}"),
    ],
}
"""What else a model is built with: its task, and what it is made from."""
DATA: dict[str, list[str]] = {"transformer_ulm": ["units.json"], "dummy_model": []}
"""Where in their folder a task's data are; a task that makes its data up takes none."""
OF_ARCHITECTURES: dict[str, list[str]] = {
    **_each(
        ["transformer_lm_wiki103", "transformer_lm_baevski_wiki103", "transformer_lm_baevski_gbw"],
        ["--adaptive-softmax-cutoff", "6", "--adaptive-input-cutoff", "6"],
    ),
    **_each(["speech_dlm_big"], ["--decoder-cross-layers", "4"]),
}
"""What presets ask for that is too large for a tiny model."""
UNUSUAL = {"multilingual_transformer": ["--decoder-input-dim", "--decoder-output-dim"]}
"""Flags of sizes that a model's own code does not read as numbers."""
READ_BUT_NO_FLAGS: dict[str, dict[str, Any]] = {
    name: {"load_ema": False, "freeze_regex": None}
    for name in ("xm_transformer", "unity_xm_transformer")
}
"""Options that a model's code reads, though its parser does not know them."""
CONFIG = """\
vocab_filename: dict.txt
input_feat_per_channel: 8
input_channels: 1
features: {type: spectrogram, energy_min: 0., energy_max: 1., pitch_min: 0., pitch_max: 1.,
  n_fft: 64}
"""
MULTITASK = """\
target_words:
  decoder_type: transformer
  dict: %s/dict.txt
  data: %s
  loss_weight: 1.0
  decoder_args: {decoder_layers: 2, decoder_embed_dim: 16, decoder_ffn_embed_dim: 16,
    decoder_attention_heads: 2}
  is_first_pass_decoder: true
"""


def write_data(folder: Path) -> Path:
    """The dictionaries and configurations that tasks look for; no sentences."""
    folder.mkdir(parents=True, exist_ok=True)
    words = "".join(f"{word} 10\n" for word in "abcdefghij")
    for name in ("", ".src", ".tgt", ".ltr", ".km", ".unitA", ".unitB"):
        (folder / f"dict{name}.txt").write_text(words, encoding="utf-8")
    (folder / "units.json").write_text('{"manifests": {}, "n_units": 10}', encoding="utf-8")
    (folder / "config.yaml").write_text(CONFIG, encoding="utf-8")
    (folder / "multitask.yaml").write_text(MULTITASK % (folder, folder), encoding="utf-8")
    return folder


def write_checkpoint(arch: str, folder: Path, *more: str, name: str = "") -> Path:
    """A tiny model of an architecture, as it was drawn, in a file as fairseq's trainer writes it.

    Raises whatever fairseq raises where it cannot build the model.
    """
    target = folder / f"{name or arch}.pt"
    if target.exists():
        return target
    data = write_data(folder / "data")
    model_name = ARCH_MODEL_NAME_REGISTRY[arch]
    recipe = RECIPES.get(model_name, ["--task", "translation", *PAIR])
    given = {"{data}": str(data), "dict.txt": str(data / "dict.txt")}
    for base in ("wav2vec2", "hubert", "masked_lm"):
        if f"{{{base}}}" in recipe:
            given[f"{{{base}}}"] = str(write_checkpoint(base, folder))
    flags = [*_sizes(arch, model_name, recipe), *(given.get(flag, flag) for flag in recipe)]
    flags += ["--cpu", *OF_ARCHITECTURES.get(arch, []), *more]
    args = options.parse_args_and_arch(
        options.get_training_parser(),
        [*(str(data / name) for name in DATA.get(model_name, [""])), "--arch", arch, *flags],
    )
    vars(args).update(READ_BUT_NO_FLAGS.get(model_name, {}))
    cfg = convert_namespace_to_omegaconf(args)
    torch.manual_seed(1)
    # What stock fairseq writes is more than stock fairseq reads on torch >= 2.6. (torch's
    # safe_globals() would forget a Namespace that was allowed before.)
    allowed = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals([argparse.Namespace, Dictionary])
    try:
        task = tasks.setup_task(cfg.task)
        model = task.build_model(cfg.model)
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(allowed)
    torch.save(_state(cfg, task, model), target)
    return target


def _sizes(arch: str, model_name: str, recipe: list[str]) -> list[str]:
    parser = argparse.ArgumentParser(add_help=False, conflict_handler="resolve")
    ARCH_MODEL_REGISTRY[arch].add_args(parser)
    known = {flag for action in parser._actions for flag in action.option_strings}
    unusual = {*UNUSUAL.get(model_name, []), *recipe}
    return [part for flag in SIZES if flag in known - unusual for part in (flag, SIZES[flag])]


def _state(cfg: Any, task: Any, model: Any) -> dict[str, Any]:
    return {
        "args": None,
        "cfg": OmegaConf.to_container(cfg, resolve=True, enum_to_str=True),
        "model": model.state_dict(),
        "criterion": None,
        "optimizer_history": [
            {"optimizer_name": "FairseqAdam", "lr_scheduler_state": {}, "num_updates": 4}
        ],
        "task_state": task.state_dict(),
        "extra_state": {"train_iterator": {"epoch": 1}},
        "last_optimizer_state": None,
    }


def outcome(arch: str, folder: Path) -> str:
    """What becomes of a tiny model of an architecture: cut to two layers of each stack and equal to
    the full one restricted in memory, refused in a sentence, or none that fairseq builds here.
    """
    try:
        full = write_checkpoint(arch, folder)
    except (Exception, SystemExit) as error:  # what fairseq's models and parsers raise
        said = str(error).strip().partition("\n")[0]
        return f"fairseq itself cannot build it: {type(error).__name__} {said}".strip()
    specs = {"encoder": "0,3", "decoder": "0,2"}
    target = folder / f"{arch}.small.pt"
    try:
        depths = open_source(full).depths
        plan = {stack: specs[stack] if depth > 3 else "0" for stack, depth in depths.items()}
        found = prune(full, target, plan, check="load", force=True)["check"]
    except ValueError as error:
        assert not target.exists()
        return f"refused: {str(error).removeprefix(f'{full}: ')}"
    if found == LOADED:
        return f"{CANNOT_RUN}: {_error_of_a_step(full)}"
    return {EQUAL: "cut and equal"}.get(found, found)


def _error_of_a_step(path: Path) -> str:
    """What fairseq raises where a model computes a step of its training, on made-up sentences."""
    built = build(load(path), str(path))
    source, lengths = torch.full((2, 5), 4), torch.full((2,), 5)
    try:
        built.model(source, lengths, source, source)
    except Exception as error:
        return f"{type(error).__name__} {str(error).partition(chr(10))[0]}"
    raise AssertionError(f"{path} can be run: evaluation/probes.py lacks its input")
