# SPDX-License-Identifier: MIT
"""Old checkpoints, upgraded over the full depth: keys of 2019, options in ``args``."""

import copy
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import WHERE, cut, family_checkpoint, family_state, training_checkpoint

from fairseq_layerdrop.checkpoint import save
from fairseq_layerdrop.pruning.config import architecture, model_section, training_rates
from fairseq_layerdrop.pruning.plan import PruningPlan
from fairseq_layerdrop.pruning.source import Source
from fairseq_layerdrop.pruning.surgery import check_surgery, prune_checkpoint
from fairseq_layerdrop.pruning.upgrade import is_stale, upgrade_checkpoint, upgrade_state

DEPTH, DIM = 6, 2


def old_state() -> dict[str, torch.Tensor]:
    """A model of 2019; in layer i the projections are 10 i + 1, 2, 3 for q, k, v, norms i."""
    state = {"encoder.version": torch.tensor([2.0]), "decoder.version": torch.tensor([2.0])}
    for stack, norms in (("encoder", 2), ("decoder", 3)):
        state[f"{stack}.embed_tokens.weight"] = torch.full((4, DIM), 0.5)
        state[f"{stack}.layer_norm.weight"] = torch.ones(DIM)
        for i in range(DEPTH):
            values = torch.tensor([1.0, 2.0, 3.0]).repeat_interleave(DIM) + 10 * i
            state[f"{stack}.layers.{i}.self_attn.in_proj_weight"] = values[:, None].repeat(1, DIM)
            state[f"{stack}.layers.{i}.self_attn.in_proj_bias"] = values.clone()
            for n in range(norms):
                state[f"{stack}.layers.{i}.layer_norms.{n}.weight"] = torch.full((DIM,), i + n / 10)
    return state


def old_checkpoint() -> dict[str, Any]:
    """A checkpoint as fairseq wrote it in 2019."""
    options = {
        "encoder_layers": DEPTH,
        "decoder_layers": DEPTH,
        "arch": "transformer",
        "task": "translation",
    }
    args = Namespace(**options, data=["bin"], criterion="cross_entropy", user_dir="/home/somebody")
    return {
        "args": args,
        "model": old_state(),
        "optimizer_history": [{"num_updates": 3}],
        "extra_state": {},
    }


def test_the_three_projections_of_an_attention_come_apart() -> None:
    state = upgrade_state(old_state())
    for name, value in zip("qkv", (41.0, 42.0, 43.0), strict=True):
        for kind in ("weight", "bias"):
            assert state[f"decoder.layers.4.self_attn.{name}_proj.{kind}"].unique().tolist() == [
                value
            ]
    assert not [key for key in state if "in_proj" in key]


@pytest.mark.parametrize(
    ("stack", "names"),
    [
        ("encoder", ["self_attn_layer_norm", "final_layer_norm"]),
        ("decoder", ["self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"]),
    ],
)
def test_numbered_norms_get_their_names(stack: str, names: list[str]) -> None:
    state = upgrade_state(old_state())
    for n, name in enumerate(names):
        assert state[f"{stack}.layers.5.{name}.weight"][0].item() == pytest.approx(5 + n / 10)
    assert not [key for key in state if "layer_norms" in key]


def test_a_separate_output_embedding_gets_its_name() -> None:
    output = torch.rand(4, DIM)
    state = upgrade_state(old_state() | {"decoder.embed_out": output})
    assert state["decoder.output_projection.weight"] is output
    assert "decoder.embed_out" not in state


def test_a_shared_output_embedding_is_the_same_tensor() -> None:
    state = upgrade_state(old_state())
    assert state["decoder.output_projection.weight"] is state["decoder.embed_tokens.weight"]


def test_an_adaptive_softmax_gets_no_output_projection() -> None:
    state = upgrade_state(old_state() | {"decoder.adaptive_softmax.head.weight": torch.ones(1)})
    assert "decoder.output_projection.weight" not in state


@pytest.mark.parametrize(("version", "there"), [(1.0, False), (2.0, False), (3.0, True)])
def test_the_decoder_s_last_norm_is_there_if_fairseq_reads_it(version: float, there: bool) -> None:
    state = upgrade_state(old_state() | {"decoder.version": torch.tensor([version])})
    assert ("decoder.layer_norm.weight" in state) == there
    assert "encoder.layer_norm.weight" in state


def test_todays_keys_come_back_with_the_same_tensors() -> None:
    today = upgrade_state(old_state() | {"decoder.version": torch.tensor([3.0])})
    again = upgrade_state(today)
    assert list(again) == list(today)
    assert all(again[key] is today[key] for key in today)


def test_an_old_checkpoint_is_pruned_at_layers_beyond_the_new_depth() -> None:
    """fairseq's own pruning upgrades the first two layers only, and fails on these."""
    plan = PruningPlan.from_specs(
        {"encoder": "1,5", "decoder": "3,4"}, {"encoder": DEPTH, "decoder": DEPTH}
    )
    small = cut(old_checkpoint(), plan, source="", version="")
    queries = {
        key: value[0].item()
        for key, value in small["model"].items()
        if key.endswith("self_attn.q_proj.bias")
    }
    assert queries == {
        "encoder.layers.0.self_attn.q_proj.bias": 11.0,
        "encoder.layers.1.self_attn.q_proj.bias": 51.0,
        "decoder.layers.0.self_attn.q_proj.bias": 31.0,
        "decoder.layers.1.self_attn.q_proj.bias": 41.0,
    }


def test_options_in_args_become_sections() -> None:
    checkpoint = old_checkpoint()
    upgraded = upgrade_checkpoint(checkpoint)
    assert upgraded["args"] is None
    assert model_section(upgraded)["_name"] == "transformer"
    assert (upgraded["cfg"]["task"]["_name"], upgraded["cfg"]["task"]["data"]) == (
        "translation",
        "bin",
    )
    assert checkpoint["args"] is not None and "cfg" not in checkpoint  # the source is not changed


def test_a_checkpoint_with_sections_is_left_as_it_is() -> None:
    checkpoint = {"args": None, "cfg": {"model": {"_name": "transformer"}}, "model": {}}
    assert upgrade_checkpoint(checkpoint) == checkpoint


def test_what_is_written_of_args_is_plain_and_of_no_machine() -> None:
    plan = PruningPlan.from_specs({}, {"encoder": DEPTH, "decoder": DEPTH})
    cfg = cut(old_checkpoint(), plan, source="", version="")["cfg"]
    assert all(section is None or type(section) is dict for section in cfg.values())
    assert "user_dir" in cfg["model"] and "/home/somebody" not in str(cfg)


def test_parameters_alone_get_no_output_projection() -> None:
    """An EMA's own copies are the parameters, of which a shared one is there once."""
    parameters = {
        "decoder.embed_tokens.weight": torch.ones(4, DIM),
        "decoder.layers.0.fc1.weight": torch.ones(1),
    }
    assert list(upgrade_state(parameters)) == list(parameters)


def test_a_matrix_that_is_not_three_projections_is_named() -> None:
    with pytest.raises(
        ValueError, match=r"self_attn\.in_proj_weight must hold three projections, got \(4, 2\)"
    ):
        upgrade_state({"encoder.layers.0.self_attn.in_proj_weight": torch.zeros(4, 2)})


def prune(checkpoint: dict[str, Any], **specs: str) -> dict[str, Any]:
    source = Source.of(checkpoint)
    plan = PruningPlan.from_specs(specs, source.depths)
    small = prune_checkpoint(source, plan, version="")
    check_surgery(source.weights, small["model"], plan)
    return small


def roberta_of_2019() -> dict[str, torch.Tensor]:
    """RoBERTa's keys of 2019 (a decoder); in layer i the projections are 10 i + 1, 2, 3."""
    stack = "decoder.sentence_encoder"
    state = {f"{stack}.embed_tokens.weight": torch.full((4, DIM), 0.5)}
    state |= {
        f"{stack}.embed_positions.weight": torch.ones(9, DIM),
        f"{stack}.emb_layer_norm.weight": torch.ones(DIM),
    }
    for i in range(DEPTH):
        values = torch.tensor([1.0, 2.0, 3.0]).repeat_interleave(DIM) + 10 * i
        state[f"{stack}.layers.{i}.self_attn.in_proj_weight"] = values[:, None].repeat(1, DIM)
        state[f"{stack}.layers.{i}.self_attn.in_proj_bias"] = values
        state[f"{stack}.layers.{i}.fc1.weight"] = torch.full((3, DIM), float(i))
    state["decoder.lm_head.weight"] = state[f"{stack}.embed_tokens.weight"]
    state["decoder.lm_head.dense.bias"] = torch.zeros(DIM)
    state["classification_heads.mnli.dense.weight"] = torch.ones(DIM, DIM)
    return state


def test_roberta_of_2019_gets_todays_keys() -> None:
    stack = "encoder.sentence_encoder"
    projections = [f"{name}_proj.{kind}" for kind in ("weight", "bias") for name in "qkv"]
    names = [*(f"self_attn.{name}" for name in projections), "fc1.weight"]
    assert list(upgrade_state(roberta_of_2019())) == [
        *(
            f"{stack}.{name}"
            for name in (
                "embed_tokens.weight",
                "embed_positions.weight",
                "layernorm_embedding.weight",
            )
        ),
        *(f"{stack}.layers.{i}.{name}" for i in range(DEPTH) for name in names),
        *(
            "encoder.lm_head.weight",
            "encoder.lm_head.dense.bias",
            "classification_heads.mnli.dense.weight",
        ),
    ]


def test_roberta_of_2019_is_pruned_at_layers_beyond_the_new_depth() -> None:
    args = Namespace(
        encoder_layers=DEPTH, arch="roberta_base", task="masked_lm", criterion="masked_lm"
    )
    small = prune({"args": args, "model": roberta_of_2019()}, encoder="1,4,5")
    for name, value in zip("qkv", (1.0, 2.0, 3.0), strict=True):
        for kind in ("weight", "bias"):
            keys = [
                f"encoder.sentence_encoder.layers.{i}.self_attn.{name}_proj.{kind}"
                for i in range(3)
            ]
            assert [small["model"][key].unique().tolist() for key in keys] == [
                [n + value] for n in (10.0, 40.0, 50.0)
            ]
    assert (
        small["model"]["encoder.lm_head.weight"]
        is small["model"]["encoder.sentence_encoder.embed_tokens.weight"]
    )
    model = small["cfg"]["model"]
    assert (model["_name"], model["encoder_layers"]) == ("roberta_base", 3)


def test_a_decoder_with_a_norm_of_that_name_keeps_it_unless_it_is_a_roberta() -> None:
    norm = {"decoder.emb_layer_norm.weight": torch.ones(DIM)}
    assert "decoder.emb_layer_norm.weight" in upgrade_state(old_state() | norm)


def of_languages(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        f"models.{pair}.{key}": tensor
        for pair in ("de-en", "fr-en")
        for key, tensor in state.items()
    }


def test_a_multilingual_model_is_upgraded_language_by_language() -> None:
    one, other = old_state(), old_state() | {"decoder.embed_out": torch.rand(4, DIM)}
    other["decoder.version"] = torch.tensor([3.0])
    state = {key: value for key, value in of_languages(one).items() if "de-en" in key}
    state |= {key: value for key, value in of_languages(other).items() if "fr-en" in key}
    upgraded = upgrade_state(state)
    assert upgraded.keys() == {
        *(f"models.de-en.{key}" for key in upgrade_state(one)),
        *(f"models.fr-en.{key}" for key in upgrade_state(other)),
    }
    german, french = (f"models.{pair}.decoder" for pair in ("de-en", "fr-en"))
    assert (
        upgraded[f"{german}.output_projection.weight"] is upgraded[f"{german}.embed_tokens.weight"]
    )
    assert upgraded[f"{french}.output_projection.weight"] is other["decoder.embed_out"]
    assert (
        f"{german}.layer_norm.weight" in upgraded,
        f"{french}.layer_norm.weight" in upgraded,
    ) == (False, True)
    assert upgraded["models.fr-en.decoder.layers.5.encoder_attn_layer_norm.weight"][
        0
    ].item() == pytest.approx(5.1)


def test_an_old_multilingual_model_is_pruned_at_layers_beyond_the_new_depth() -> None:
    checkpoint = old_checkpoint()
    checkpoint["args"].arch = "multilingual_transformer"
    small = prune(checkpoint | {"model": of_languages(old_state())}, encoder="2,5", decoder="0,3")[
        "model"
    ]
    for pair in ("de-en", "fr-en"):
        kept = [
            small[f"models.{pair}.{stack}.layers.1.self_attn.q_proj.bias"][0].item()
            for stack in ("encoder", "decoder")
        ]
        assert kept == [51.0, 31.0]


STALE = [
    f"{name}_{kind}"
    for name in ("in_proj", "out_proj", "fc1", "fc2")
    for kind in ("weight", "bias")
]


@pytest.mark.parametrize("family", [family for family in WHERE if "encoder" in WHERE[family]])
def test_stale_copies_of_0_12_2_are_left_out_in_every_family(family: str) -> None:
    state = family_state(family)
    layers = [f"{module}.layers.{i}" for module in WHERE[family]["encoder"] for i in range(6)]
    stale = {f"{layer}.{name}": torch.zeros(1) for layer in layers for name in STALE}
    assert all(map(is_stale, stale))
    upgraded = upgrade_state(state | stale)
    assert list(upgraded) == list(state)
    assert all(upgraded[key] is state[key] for key in state)


@pytest.mark.parametrize(
    "key",
    [
        "encoder.layers.0.fc1.weight",
        "w2v_encoder.w2v_model.encoder.layers.0.fc2.bias",
        "w2v_encoder.w2v_model.encoder.layers.0.self_attn.out_proj.weight",
        "encoder.layers.0.self_attn.in_proj_weight",
        "encoder.layers.0.experts.fc1_weight",
        "decoder.layers.0.fc1_weight",
        "encoder.fc1_weight",
    ],
)
def test_what_only_looks_like_a_stale_copy_is_not_one(key: str) -> None:
    assert not is_stale(key)


def test_the_output_embedding_of_a_speech_decoder_has_that_name_still() -> None:
    """wav2vec2's and HuBERT's own decoders, which have no version, call it so to this day."""
    state = family_state("wav2vec_seq2seq") | {"decoder.embed_out": torch.ones(4, DIM)}
    assert list(upgrade_state(state)) == list(state)


@pytest.mark.parametrize("section", ["model", "task"])
def test_positions_of_old_options_are_those_of_source_and_target(section: str) -> None:
    """Of the model's embeddings, and of the sentences that the task lets through."""
    checkpoint = old_checkpoint()
    checkpoint["args"].max_positions = 77
    options = prune(checkpoint, encoder="0")["cfg"][section]
    assert (options.get("max_source_positions"), options.get("max_target_positions")) == (77, 77)


def test_positions_that_are_there_already_stay() -> None:
    checkpoint = old_checkpoint()
    checkpoint["args"].__dict__ |= {
        "max_positions": 77,
        "max_source_positions": 55,
        "max_target_positions": 66,
    }
    model = model_section(upgrade_checkpoint(checkpoint))
    assert (model["max_source_positions"], model["max_target_positions"]) == (55, 66)


def test_a_model_without_positions_gets_none() -> None:
    assert not [
        key for key in model_section(upgrade_checkpoint(old_checkpoint())) if "positions" in key
    ]


def test_the_oldest_options_name_no_task() -> None:
    checkpoint = old_checkpoint()
    del checkpoint["args"].task
    assert upgrade_checkpoint(checkpoint)["cfg"]["task"]["_name"] == "translation"


W2V_ARGS = {
    "arch": "wav2vec2",
    "task": "audio_pretraining",
    "encoder_layers": 6,
    "encoder_layerdrop": 0.05,
    "data": ["a"],
}


@pytest.mark.parametrize("form", ["args", "a Namespace in cfg", "a dictionary in cfg"])
def test_the_options_of_a_model_within_become_sections(form: str) -> None:
    checkpoint = family_checkpoint("wav2vec_ctc")
    options = {"_name": "wav2vec_ctc", "arch": "wav2vec_ctc", "w2v_args": Namespace(**W2V_ARGS)}
    if form == "args":
        checkpoint = checkpoint | {
            "cfg": None,
            "args": Namespace(**options, task="audio_finetuning"),
        }
    else:
        checkpoint["cfg"]["model"] = options if "dictionary" in form else Namespace(**options)
    before = copy.deepcopy(checkpoint["args"] if form == "args" else checkpoint["cfg"])
    inner = model_section(upgrade_checkpoint(checkpoint))["w2v_args"]
    assert (inner["model"]["_name"], inner["model"]["encoder_layers"]) == ("wav2vec2", 6)
    assert (inner["task"]["_name"], inner["task"]["data"]) == ("audio_pretraining", "a")
    assert training_rates(model_section(upgrade_checkpoint(checkpoint))) == {"encoder": 0.05}
    small = prune(checkpoint, encoder="0,5")["cfg"]["model"]
    assert (architecture(small), small["w2v_args"]["model"]["encoder_layers"]) == ("wav2vec_ctc", 2)
    assert before == (checkpoint["args"] if form == "args" else checkpoint["cfg"])


def history(checkpoint: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """What fairseq makes of the optimizer's history of a pruned file."""
    from fairseq.checkpoint_utils import load_checkpoint_to_cpu

    save(prune(checkpoint, encoder="0,3"), folder / "small.pt")
    read = load_checkpoint_to_cpu(str(folder / "small.pt"))
    assert read.get("last_optimizer_state") is None
    return list(read["optimizer_history"])


def test_the_oldest_files_kept_the_optimizers_state_in_its_history_and_there_it_goes(
    tmp_path: Path,
) -> None:
    checkpoint = old_checkpoint()
    entries = [
        {"criterion_name": "C", "best_loss": 2.5, "optimizer": {"state": torch.ones(1000)}}
        for _ in range(2)
    ]
    checkpoint["optimizer_history"] = copy.deepcopy(entries)
    small = prune(checkpoint, encoder="0")["optimizer_history"]
    assert small == [{"num_updates": 0, "criterion_name": "C", "best_loss": 2.5}] * 2
    assert history(checkpoint, tmp_path)[-1]["lr_scheduler_state"] == {"best": 2.5}
    assert "optimizer" in checkpoint["optimizer_history"][-1]  # the source is not changed


@pytest.mark.parametrize("missing", ["no key", None, []], ids=str)
def test_a_file_of_a_model_alone_gets_a_history_that_fairseq_can_read(
    tmp_path: Path, missing: Any
) -> None:
    checkpoint = {key: training_checkpoint()[key] for key in ("cfg", "model")}
    if missing != "no key":
        checkpoint["optimizer_history"] = missing
    (entry,) = history(checkpoint, tmp_path)
    assert entry["num_updates"] == 0


def test_the_number_of_updates_stays(tmp_path: Path) -> None:
    (entry,) = history(training_checkpoint(), tmp_path)
    assert (entry["num_updates"], entry["optimizer_name"]) == (1200, "FairseqAdam")
