# SPDX-License-Identifier: MIT
"""configs/: each says what its recipe's script says, and trains through ``fairseq-hydra-train``."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from fairseq.dataclass.initialize import add_defaults, hydra_init
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.models import ARCH_MODEL_INV_REGISTRY
from fairseq_programs import (
    REPOSITORY,
    WIDTH,
    build_model,
    build_task,
    config,
    fairseq,
    masked_lm_data,
    prune,
    sentence_data,
    stacks,
    weights,
)
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from recipes import Bench, parse
from repeats import mostly_slow

CONFIGS = REPOSITORY / "configs"
LAUNCHER = ("hydra/launcher=", "hydra.launcher.")  # of a plugin that is not here
PRESETS = sorted(path.stem for path in (CONFIGS / "model").glob("*.yaml"))

# A command of the recipes' scripts; the same for fairseq-hydra-train; the depths.
SAME = [
    ("wmt16_en_de/2_train.sh 6_6", "wmt16_en_de", (6, 6)),
    (
        "wmt16_en_de/2_train.sh 12_6",
        "wmt16_en_de model=layerdrop_transformer_wmt_en_de_big_12_6",
        (12, 6),
    ),
    ("iwslt14_de_en/2_train.sh", "iwslt14_de_en", (6, 6)),
    ("cnn_dm/2_train.sh 6_6", "cnn_dm", (6, 6)),
    ("cnn_dm/2_train.sh 6_8", "cnn_dm model=layerdrop_transformer_cnn_dm_6_8", (6, 8)),
    ("wikitext_103/2_train.sh 16", "wikitext_103", (16,)),
    ("wikitext_103/2_train.sh 40", "wikitext_103 model=layerdrop_transformer_lm_wiki103_40", (40,)),
    ("roberta/2_train.sh base", "roberta", (12,)),
    ("roberta/2_train.sh large", "roberta roberta=large", (24,)),
    ("roberta/2_train.sh large_48", "roberta roberta=large_48", (48,)),
    ("glue/3_finetune.sh MNLI 6", "glue", (6,)),
    ("glue/3_finetune.sh QNLI 3", "glue glue=qnli model.encoder_layers=3", (3,)),
    ("glue/3_finetune.sh SST-2 12", "glue glue=sst2 model.encoder_layers=12", (12,)),
    ("glue/3_finetune.sh MRPC 6", "glue glue=mrpc", (6,)),
    ("eli5/2_train.sh", "eli5", (6, 6)),
]
ALWAYS = ("wmt16_en_de", "wikitext_103", "roberta", "glue glue=qnli model.encoder_layers=3")
ONE_A_TASK = [case for case in SAME if case[1] in ALWAYS]
some_scripts = pytest.mark.parametrize(
    ("script", "words", "depths"), mostly_slow(SAME, *ONE_A_TASK)
)

TINY = [
    "common.cpu=true",
    "common.fp16=false",
    "optimization.max_update=2",
    "dataset.num_workers=0",
]
TRANSLATIONS = ("wmt16_en_de", "iwslt14_de_en", "cnn_dm", "eli5")
ENCODER = [
    "model.encoder_embed_dim=32",
    "model.encoder_ffn_embed_dim=32",
    "model.encoder_attention_heads=2",
]
DECODER = [override.replace("encoder", "decoder") for override in ENCODER]
ADAPTIVE = ["model.adaptive_input_cutoff='6,9'", "model.adaptive_softmax_cutoff='6,9'"]
NARROW = {
    **dict.fromkeys(TRANSLATIONS, (*ENCODER, *DECODER)),
    "wikitext_103": [
        *DECODER,
        "model.decoder_input_dim=32",
        "model.decoder_output_dim=32",
        *ADAPTIVE,
    ],
    "roberta": ENCODER,
    "glue": ENCODER,
}
"""What makes each recipe's model small."""

PAIRS = (
    "task.source_lang=src",
    "task.target_lang=tgt",
    "model.encoder_layers=2",
    "model.decoder_layers=2",
)
TOY = {
    **dict.fromkeys(TRANSLATIONS, PAIRS),
    "wikitext_103": [
        "task.tokens_per_sample=16",
        "dataset.max_tokens=64",
        "model.decoder_layers=2",
    ],
    "roberta": ["task.tokens_per_sample=24", "model.encoder_layers=4", "dataset.batch_size=4"],
    "glue": [
        "task.max_positions=24",
        "model.max_positions=24",
        "model.encoder_layers=2",
        "glue=mrpc",
    ],
}
"""What makes it fit toy data."""


@pytest.fixture(autouse=True)
def _no_hydra_run_is_left() -> Iterator[None]:
    yield
    HydraConfig.instance().cfg = None


def composed(recipe: str, *overrides: str) -> Any:
    """What ``fairseq-hydra-train`` would train by, with the plugin's defaults filled in."""
    GlobalHydra.instance().clear()
    kept = mock.patch.dict(
        ConfigStore.instance().repo
    )  # where fairseq puts a schema under the recipe's name
    with kept, initialize_config_dir(str(CONFIGS), job_name="hydra_train", version_base="1.1"):
        hydra_init(recipe)
        cfg = compose(recipe, overrides=list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    OmegaConf.set_struct(cfg, False)
    del cfg["hydra"]
    add_defaults(cfg)
    return OmegaConf.create(OmegaConf.to_container(cfg, resolve=True, enum_to_str=True))


def sections(cfg: Any) -> dict[str, Any]:
    """A configuration as plain containers, without what is a place and what no training reads."""
    plain: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    del plain["scoring"]  # of fairseq-generate; fairseq-train's flags fill it in
    for section, name in (("common", "user_dir"), ("checkpoint", "save_dir"), ("model", "_name")):
        del plain[section][name]
    return plain


# What they say


def test_there_is_a_configuration_for_every_training_script() -> None:
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == {"base", *NARROW}
    assert {overrides.split()[0] for _, overrides, _ in SAME} == set(NARROW)


@some_scripts
def test_a_configuration_says_what_the_script_says(
    script: str,
    words: str,
    depths: tuple[int, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(tmp_path)
    work = tmp_path / "runs" / script.split("/")[0]
    for name in (
        "data-bin",
        *(f"pruned/{n}.pt" for n in (3, 6, 12)),
        "MNLI-bin",
        "QNLI-bin",
        "SST-2-bin",
        "MRPC-bin",
    ):
        (work / name).mkdir(parents=True)
    done = bench.run(*script.split())
    assert done.returncode == 0, done.stderr
    (command,) = bench.calls("fairseq-train")
    # The script's places are relative to where it runs.
    flags = convert_namespace_to_omegaconf(
        parse([re.sub("^runs/", f"{tmp_path}/runs/", word) for word in command])
    )
    add_defaults(flags)
    monkeypatch.chdir(tmp_path)
    assert sections(composed(*words.split())) == sections(flags)


@some_scripts
def test_a_configuration_builds_its_model(script: str, words: str, depths: tuple[int, ...]) -> None:
    recipe, *overrides = words.split()
    cfg = composed(recipe, *overrides, *NARROW[recipe])
    model = build_task(cfg).build_model(cfg.model)
    built = stacks(model)
    rate = {"glue": 0.0, "roberta=large_48": 0.5}.get(
        words.split()[-1] if recipe == "roberta" else recipe, 0.2
    )
    assert tuple(len(stack.layers) for stack in built.values()) == depths
    assert {stack.layers.rates for stack in built.values()} == {(rate,) * depth for depth in depths}


@pytest.mark.parametrize("name", PRESETS)
def test_a_model_s_values_are_those_of_the_architecture_of_that_name(name: str) -> None:
    task = "language_modeling" if "_lm_" in name else "translation"
    alone = composed("base", f"+model={name}", f"+task={{_name: {task}, data: x}}").model
    preset = config("--arch", name, "--task", task).model
    assert name in ARCH_MODEL_INV_REGISTRY[alone._name]
    assert {**alone, "_name": name} == dict(preset)


# Architectures are for the command line


@pytest.mark.parametrize("how", ["program", "launcher"])
def test_an_architecture_s_name_is_refused_in_a_hydra_run(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "program":
        monkeypatch.setattr(sys, "argv", ["/bin/fairseq-hydra-train"])
    else:  # in a process that a cluster's launcher has started
        composed("iwslt14_de_en")
    build_model("--arch", "layerdrop_transformer", *WIDTH)
    with pytest.raises(
        ValueError, match="layerdrop_transformer_cnn_dm is an architecture"
    ) as refused:
        build_model("--arch", "layerdrop_transformer_cnn_dm", *WIDTH)
    assert "set model._name=layerdrop_transformer and" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_it_is_not_in_any_other_program() -> None:
    build_model("--arch", "layerdrop_transformer_cnn_dm", *WIDTH)


# They train


def hydra_train(recipe: str, run: Path, *overrides: str, flags: tuple[str, ...] = ()) -> str:
    """Run ``fairseq-hydra-train`` as documented, in small; return all that it printed."""
    program = str(Path(sys.executable).with_name("fairseq-hydra-train"))
    command = [
        program,
        *flags,
        "--config-dir",
        "configs",
        "--config-name",
        recipe,
        *TINY,
        *NARROW[recipe],
    ]
    command += [*TOY[recipe], f"hydra.{'sweep' if flags else 'run'}.dir={run}", *overrides]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-1500:]
    return done.stdout + done.stderr


def assert_trained(output: str, run: Path, updates: int = 2) -> None:
    assert output.count("done training") == 1
    assert re.findall(r"num_updates: (\d+) >= max_update", output) == [str(updates)]
    assert weights(run / "checkpoints" / "checkpoint_last.pt")


def test_wikitext_103_trains(text_data: Path, tmp_path: Path) -> None:
    assert_trained(hydra_train("wikitext_103", tmp_path, f"task.data={text_data}"), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["iwslt14_de_en", "wmt16_en_de", "cnn_dm", "eli5"])
def test_a_translation_trains(recipe: str, data: Path, tmp_path: Path) -> None:
    assert_trained(hydra_train(recipe, tmp_path, f"task.data={data}"), tmp_path)


@pytest.mark.slow
def test_roberta_is_pre_trained_pruned_and_fine_tuned(tmp_path: Path) -> None:
    text, first, second = masked_lm_data(tmp_path), tmp_path / "first", tmp_path / "second"
    assert_trained(hydra_train("roberta", first, f"task.data={text}"), first)
    pruned = prune(
        first / "checkpoints/checkpoint_last.pt", tmp_path / "small.pt", "--encoder-keep", "every:2"
    )
    (tmp_path / "classes").mkdir()
    classes = sentence_data(tmp_path / "classes", text / "dict.txt")
    output = hydra_train(
        "glue", second, f"task.data={classes}", f"checkpoint.finetune_from_model={pruned}"
    )
    assert "loading pretrained model from" in output
    assert_trained(output, second)
    # As scripts/glue/4_score.sh: stock, no plugin.
    model = prune(
        second / "checkpoints/checkpoint_last.pt", tmp_path / "tuned.pt", "--encoder-keep", "all"
    )
    whole = [
        "--valid-subset",
        "valid",
        "--batch-size",
        "32",
        "--required-batch-size-multiple",
        "1",
        "--cpu",
    ]
    task = ["--task", "sentence_prediction", "--criterion", "sentence_prediction"]
    printed = fairseq("validate", classes, *task, "--path", model, *whole)
    assert re.search(r"\| valid \| .*accuracy [\d.]+", printed)


@pytest.mark.slow
def test_the_trained_language_model_is_pruned_and_evaluated_by_stock_fairseq(
    data: Path, text_data: Path, tmp_path: Path
) -> None:
    hydra_train("wikitext_103", tmp_path, f"task.data={text_data}")
    model = prune(
        tmp_path / "checkpoints/checkpoint_last.pt",
        tmp_path / "small.pt",
        "--decoder-keep",
        "every:2",
    )
    # As scripts/wikitext_103/4_evaluate.sh, all sizes a 192nd.
    sizes = [
        "--tokens-per-sample",
        "16",
        "--max-tokens",
        "16",
        "--context-window",
        "13",
        "--softmax-batch",
        "5",
    ]
    whole = ["--sample-break-mode", "complete", "--required-batch-size-multiple", "1", "--cpu"]
    printed = fairseq("eval_lm", text_data, "--path", model, "--gen-subset", "test", *whole, *sizes)
    (tokens,) = re.findall(r"Evaluated (\d+) tokens", printed)
    lines = (data.parent / "test.src").read_text().splitlines()
    assert int(tokens) == sum(
        len(line.split()) + 1 for line in lines
    )  # all words, and each line's end


@pytest.mark.slow
def test_the_same_command_again_goes_on(data: Path, tmp_path: Path) -> None:
    hydra_train("iwslt14_de_en", tmp_path, f"task.data={data}")
    output = hydra_train(
        "iwslt14_de_en", tmp_path, f"task.data={data}", "optimization.max_update=3"
    )
    assert "Loaded checkpoint checkpoints/checkpoint_last.pt (epoch 3 @ 2 updates)" in output
    assert_trained(output, tmp_path, updates=3)


# Sweeps


def documented() -> list[list[str]]:
    """The commands of docs/recipes.md for fairseq-hydra-train."""
    text = (REPOSITORY / "docs" / "recipes.md").read_text(encoding="utf-8").replace("\\\n", " ")
    return [
        shlex.split(line)
        for line in text.splitlines()
        if line.strip().startswith("fairseq-hydra-train")
    ]


@pytest.mark.parametrize("command", mostly_slow(documented(), *documented()[:3]), ids=" ".join)
def test_a_documented_command_composes(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert command[1:-1][command[1:].index("--config-dir") + 1] == "configs"
    recipe, *words = command[command.index("--config-name") + 1 :]
    overrides = OverridesParser.create().parse_overrides(
        [w for w in words if not w.startswith(LAUNCHER)]
    )
    (jobs,) = BasicSweeper.split_arguments(overrides, max_batch_size=None)
    assert (len(jobs) > 1) == ("--multirun" in command)
    rates = [composed(recipe, *job).model.get("encoder_layerdrop") for job in jobs]
    assert len(set(rates)) == len(jobs)


@pytest.mark.slow
def test_a_sweep_trains_each_rate_in_a_folder_of_its_own(data: Path, tmp_path: Path) -> None:
    sweep = "model.encoder_layerdrop=0.1,0.5"
    output = hydra_train(
        "iwslt14_de_en", tmp_path, f"task.data={data}", sweep, flags=("--multirun",)
    )
    assert output.count("done training") == 2
    assert sorted(re.findall(r"LayerDrop, decoder: asked rate (\S+),", output)) == ["0.1", "0.5"]
    assert len(list(tmp_path.rglob("checkpoint_last.pt"))) == 2
