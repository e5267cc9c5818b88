# SPDX-License-Identifier: MIT
"""The optimizer's state of a pruned model, against fairseq's optimizers and models."""

import copy
import functools
import io
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from fairseq import checkpoint_utils, optim
from fairseq_programs import STYLE, WIDTH, batch, build_model, build_task, config, prune
from repeats import mostly_slow
from torch import Tensor

from fairseq_layerdrop.checkpoint import load
from fairseq_layerdrop.pruning.optimizer import prune_optimizer
from fairseq_layerdrop.pruning.plan import PruningPlan
from fairseq_layerdrop.pruning.stacks import prune_state, stack_depths
from fairseq_layerdrop.pruning.upgrade import tie, upgrade_state

SIZES = [*STYLE[:-1], "--encoder-layers", "4", "--decoder-layers", "4"]
STOCK = ["--arch", "transformer", *SIZES]
LM = [
    "--arch",
    "transformer_lm",
    "--task",
    "language_modeling",
    *WIDTH[6:],
    "--decoder-layers",
    "4",
]
LM_WIDTH = ["--decoder-input-dim", "32", "--decoder-output-dim", "32"]
CUTOFFS = ["--adaptive-input-cutoff", "8,16", "--adaptive-softmax-cutoff", "8,16"]
CUTOFFS += ["--criterion", "adaptive_loss", "--ddp-backend", "legacy_ddp"]
MODELS = {
    "untied": STOCK,
    "decoder tied": [*STOCK, "--share-decoder-input-output-embed"],
    "all tied": [*STOCK, "--share-all-embeddings"],
    "more norms": [
        *STOCK,
        "--share-all-embeddings",
        "--layernorm-embedding",
        "--encoder-learned-pos",
    ],
    "bart": ["--arch", "bart_base", *SIZES],
    "ours": ["--arch", "layerdrop_transformer", *SIZES, "--share-all-embeddings"],
    "lm": [*LM, *LM_WIDTH],
    "lm tied": [*LM, *LM_WIDTH, "--share-decoder-input-output-embed"],
    "lm projected": [
        *LM,
        "--decoder-input-dim",
        "16",
        "--decoder-output-dim",
        "8",
        "--decoder-normalize-before",
    ],
    "lm adaptive": [
        *LM,
        *LM_WIDTH,
        "--adaptive-input",
        *CUTOFFS,
        "--tie-adaptive-weights",
        "--tie-adaptive-proj",
    ],
}
OPTIMIZERS = {
    "adam": ["--optimizer", "adam"],
    "nag": ["--optimizer", "nag"],
    "adagrad": ["--optimizer", "adagrad"],
    "momentum": ["--optimizer", "sgd", "--momentum", "0.9"],
    "sgd": ["--optimizer", "sgd"],
}
PLANS = {"encoder": ["0,3", "1-3", "2"], "decoder": ["1,3", "all", "0,2,3"]}
# Each model with a plan, and each plan with a model: to parse fairseq's flags is what takes the
# time here.
CASES = [*((name, i % 3) for i, name in enumerate(MODELS)), ("untied", 1), ("untied", 2)]
every_case = pytest.mark.parametrize(("name", "choice"), mostly_slow(CASES, *CASES[::3]))


class Saved(NamedTuple):
    """A checkpoint's model and optimizer, and the moments of each parameter by name."""

    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    moments: dict[str, dict[str, Any]]


@functools.cache
def built(name: str, *flags: str) -> tuple[Any, Any]:
    """A model and its criterion, to be copied; without dropout, so that two can be compared."""
    cfg = config(*MODELS[name], *flags)
    return build_model(*MODELS[name], *flags).eval(), build_task(cfg).build_criterion(cfg.criterion)


def build(name: str, **depths: int) -> tuple[Any, Any]:
    """A model of these depths, 4 where none is named, and its criterion."""
    model, criterion = built(
        name, *(f"--{stack}-layers={depth}" for stack, depth in depths.items())
    )
    return copy.deepcopy(model), criterion


@functools.cache
def options(kind: str) -> Any:
    """The configuration of an optimizer."""
    flags = OPTIMIZERS.get(kind, OPTIMIZERS["adam"])
    cfg = config(*STOCK, *flags, "--lr", "0.01", "--fp16-scale-window", "9")
    cfg.common.fp16_no_flatten_grads = kind == "not flat"
    return cfg


def build_optimizer(model: Any, kind: str) -> Any:
    """fairseq's optimizer as its trainer builds it; ``flat`` as for --fp16 on a GPU."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if kind == "amsgrad":  # torch's own, whose steps are tensors
        return torch.optim.Adam(parameters, lr=0.01, amsgrad=True)
    if kind in OPTIMIZERS:
        return optim.build_optimizer(options(kind).optimizer, parameters)
    return optim.FP16Optimizer.build_optimizer(options(kind), parameters)


def update(
    model: Any, criterion: Any, optimizer: Any, seed: int, *, without: str = "nothing"
) -> None:
    """One update on one batch; one layer's parameters may have no gradient, as with LayerDrop."""
    optimizer.zero_grad()
    sample = batch(seed=seed)
    if not hasattr(model, "encoder"):
        del sample["net_input"]["prev_output_tokens"]
        sample["target"] = sample["net_input"]["src_tokens"].roll(-1, dims=1)
    loss = criterion(model, sample)[0]
    optimizer.backward(loss) if hasattr(optimizer, "backward") else loss.backward()
    for name, parameter in model.named_parameters():
        if name.startswith(without):
            parameter.grad = None
    if isinstance(optimizer, optim.FP16Optimizer):
        optimizer.clip_grad_norm(0.0)
    optimizer.step()


def stored(value: Any) -> Any:
    """What comes back from a file that is loaded with torch's safe defaults."""
    file = io.BytesIO()
    torch.save(value, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=True)


def inner(optimizer: Any) -> Any:
    """torch's optimizer within fairseq's."""
    return getattr(optimizer, "optimizer", optimizer)


@functools.cache
def trained(name: str, kind: str = "adam", *, skips: bool = True) -> Saved:
    """A model after four updates, not to be changed; decoder layer 1 misses the third."""
    model, criterion = build(name)
    optimizer = build_optimizer(model, kind)
    for seed in range(4):
        update(
            model,
            criterion,
            optimizer,
            seed,
            without="decoder.layers.1." if skips and seed == 2 else "nothing",
        )
    file = stored({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    named = model.named_parameters(remove_duplicate=False)
    moments = {
        name: copy.deepcopy(inner(optimizer).state.get(parameter, {})) for name, parameter in named
    }
    return Saved(dict(file["model"]), file["optimizer"], moments)


def both(state: dict[str, Tensor], choice: int) -> PruningPlan:
    """A plan for the stacks that there are."""
    depths = stack_depths(state)
    return PruningPlan.from_specs({stack: PLANS[stack][choice] for stack in depths}, depths)


def origin(name: str, plan: PruningPlan) -> str:
    """Where a parameter of the pruned model comes from, found independently."""
    match = re.match(r"(encoder|decoder)\.layers\.(\d+)\.", name)
    if not match:
        return name
    return (
        f"{match[1]}.layers.{plan.selections[match[1]].kept[int(match[2])]}.{name[match.end() :]}"
    )


def small_model(name: str, saved: Saved, plan: PruningPlan) -> tuple[Any, Any]:
    """The stock model of the plan's size, with the weights that the plan keeps."""
    stock = name if name != "ours" else "all tied"
    model, criterion = build(
        stock, **{stack: len(selection.kept) for stack, selection in plan.selections.items()}
    )
    model.load_state_dict(
        {key: tensor.clone() for key, tensor in prune_state(saved.model, plan).items()}
    )
    return model, criterion


def same(one: Any, two: Any) -> bool:
    """Equal, with tensors equal bit for bit."""
    if isinstance(one, Tensor):
        return isinstance(two, Tensor) and one.dtype == two.dtype and torch.equal(one, two)
    if isinstance(one, dict):
        return list(one) == list(two) and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(two) and all(map(same, one, two))
    return bool(one == two)


def weights(model: Any) -> dict[str, Tensor]:
    """The parameters alone: fairseq leaves a buffer without a value, which may be a NaN."""
    return {name: parameter.data for name, parameter in model.named_parameters()}


def assert_trains_on_alike(name: str, kind: str, saved: Saved, plan: PruningPlan) -> None:
    """One more update, from the pruned state and from moments that are put in place by name."""
    small = stored(prune_optimizer(saved.optimizer, saved.model, plan))
    model, criterion = small_model(name, saved, plan)
    optimizer = build_optimizer(model, kind)
    optimizer.load_state_dict(small)
    update(model, criterion, optimizer, 7)

    reference, criterion = small_model(name, saved, plan)
    optimizer = build_optimizer(reference, kind)
    for key, parameter in reference.named_parameters():
        if moments := saved.moments[origin(key, plan)]:
            inner(optimizer).state[parameter] = copy.deepcopy(moments)
    update(reference, criterion, optimizer, 7)
    assert same(weights(model), weights(reference))
    fresh, criterion = small_model(name, saved, plan)
    update(fresh, criterion, build_optimizer(fresh, kind), 7)
    assert kind == "sgd" or not same(weights(model), weights(fresh)), "the moments change nothing"


@every_case
def test_training_goes_on_as_if_the_other_layers_had_never_been_there(
    name: str, choice: int
) -> None:
    saved = trained(name)
    assert_trains_on_alike(name, "adam", saved, both(saved.model, choice))


@pytest.mark.parametrize("kind", [*OPTIMIZERS, "amsgrad"])
def test_every_optimizer_that_keeps_its_state_by_parameter(kind: str) -> None:
    saved = trained("decoder tied", kind)
    assert_trains_on_alike("decoder tied", kind, saved, both(saved.model, 0))


@every_case
def test_a_kept_layer_has_its_own_moments_and_steps(name: str, choice: int) -> None:
    saved = trained(name)
    plan = both(saved.model, choice)
    small = prune_optimizer(saved.optimizer, saved.model, plan)
    names = [key for key, _ in small_model(name, saved, plan)[0].named_parameters()]
    assert small["param_groups"][0]["params"] == list(range(len(names)))
    assert same(
        small["state"], {i: saved.moments[origin(key, plan)] for i, key in enumerate(names)}
    )
    assert {entry["step"] for entry in small["state"].values()} == (
        {3, 4} if 1 in plan.decoder.kept else {4}
    )


@every_case
def test_a_file_from_a_gpu_that_has_lost_its_ties_gives_the_same(name: str, choice: int) -> None:
    saved = trained(name)
    plan = both(saved.model, choice)
    lost = tie({key: tensor.clone() for key, tensor in saved.model.items()})
    small = prune_optimizer(saved.optimizer, lost, plan)
    assert same(small, prune_optimizer(saved.optimizer, saved.model, plan))


@pytest.mark.parametrize("name", ["decoder tied", "lm adaptive"])
@pytest.mark.parametrize("ties", ["as they were", "lost"])
def test_a_flat_state_is_cut_where_the_parameters_lie(
    name: str, ties: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        torch.cuda, "current_device", lambda: None
    )  # the index of a parameter's device on a CPU
    one_by_one, flat = (trained(name, kind, skips=False) for kind in ("not flat", "flat"))
    assert len(flat.optimizer["state"]) == 1 < len(one_by_one.optimizer["state"])
    plan = both(flat.model, 2)
    model = (
        flat.model
        if ties != "lost"
        else tie({key: tensor.clone() for key, tensor in flat.model.items()})
    )
    expected = prune_optimizer(one_by_one.optimizer, one_by_one.model, plan)["state"].values()
    small = prune_optimizer(flat.optimizer, model, plan)
    for moment in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(
            small["state"][0][moment], torch.cat([entry[moment].flatten() for entry in expected])
        )
    assert (small["state"][0]["step"], small["param_groups"][0]["params"]) == (4, [0])
    assert small["loss_scale"] == flat.optimizer["loss_scale"] == 128.0

    optimizer = build_optimizer(small_model(name, flat, plan)[0], "flat")
    assert optimizer.fp32_params[None].numel() == small["state"][0]["exp_avg"].numel()
    optimizer.load_state_dict(stored(small))
    assert_trains_on_alike_flat(name, one_by_one, flat._replace(model=model), plan)


def assert_trains_on_alike_flat(
    name: str, one_by_one: Saved, flat: Saved, plan: PruningPlan
) -> None:
    """One more update of the small model, from the flat state and from the other."""
    models = []
    for kind, saved in (("flat", flat), ("not flat", one_by_one)):
        model, criterion = small_model(name, one_by_one, plan)
        optimizer = build_optimizer(model, kind)
        optimizer.load_state_dict(stored(prune_optimizer(saved.optimizer, saved.model, plan)))
        update(model, criterion, optimizer, 7)
        models.append(weights(model))
    assert same(*models)


def untied(encoder: int, decoder: int) -> dict[str, Tensor]:
    """The state dict of fairseq's model of these depths, without ties."""
    return dict(build("untied", encoder=encoder, decoder=decoder)[0].state_dict())


def with_stale(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state with a stale copy at the head of each encoder layer, as fairseq 0.12.2 wrote."""
    stale = {}
    for key, tensor in state.items():
        if key.startswith("encoder.layers.") and key.endswith("self_attn.k_proj.weight"):
            stale[key.replace("self_attn.k_proj.weight", "fc1_bias")] = torch.zeros(8)
        stale[key] = tensor
    return stale


def counted(state: dict[str, Tensor], *, flat: bool) -> dict[str, Any]:
    """Adam's state over a state dict without ties; each parameter's moments are its number."""
    sizes = [
        tensor.shape
        for key, tensor in state.items()
        if not key.endswith(("version", "_float_tensor"))
    ]
    values = [torch.full(shape, float(i)) for i, shape in enumerate(sizes)]
    values = [torch.cat([value.flatten() for value in values])] if flat else values
    entries = {
        i: {"step": i, "exp_avg": value, "exp_avg_sq": -value} for i, value in enumerate(values)
    }
    return {
        "state": entries,
        "param_groups": [{"lr": 0.1, "betas": (0.9, 0.98), "params": list(entries)}],
    }


@pytest.mark.parametrize("flat", [False, True])
def test_stale_parameters_go_and_leave_no_number(flat: bool) -> None:
    state = with_stale(untied(3, 3))
    plan = PruningPlan.parse("0,2/1", stack_depths(state))
    small = prune_optimizer(counted(state, flat=flat), state, plan)
    keys = [key for key in state if not key.endswith(("version", "_float_tensor"))]
    stay = [
        key
        for key in keys
        if not re.match(r"encoder\.layers\.(1\.|\d\.fc1_bias)|decoder\.layers\.[02]\.", key)
    ]
    expected = [torch.full(state[key].shape, float(keys.index(key))) for key in stay]
    entries = small["state"].values()
    if flat:
        assert [entry["exp_avg"].tolist() for entry in entries] == [
            torch.cat([e.flatten() for e in expected]).tolist()
        ]
    else:
        assert same([entry["exp_avg"] for entry in entries], expected)
        assert [entry["step"] for entry in entries] == [keys.index(key) for key in stay]
    assert small["param_groups"] == [
        {"lr": 0.1, "betas": (0.9, 0.98), "params": list(range(1 if flat else len(stay)))}
    ]


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize(
    ("first", "second"), [("0,1,3,5/1-4", "1,3/0,2"), ("even:4/all", "last:1/every:3")]
)
def test_pruning_twice_is_pruning_once(first: str, second: str, flat: bool) -> None:
    state = with_stale(untied(6, 6))
    optimizer = counted(state, flat=flat)
    one = PruningPlan.parse(first, stack_depths(state))
    left = prune_state(upgrade_state(state), one)
    two = PruningPlan.parse(second, stack_depths(left))
    twice = prune_optimizer(prune_optimizer(optimizer, state, one), left, two)
    assert same(twice, prune_optimizer(optimizer, state, one.compose(two)))


@pytest.mark.parametrize("flat", [False, True])
def test_lost_ties_are_told_from_biases_and_norms_that_are_all_alike(flat: bool) -> None:
    names = [
        "sentence_encoder.embed_tokens.weight",
        *(f"sentence_encoder.layers.{i}.fc1.bias" for i in range(3)),
    ]
    names += [
        f"lm_head.{name}"
        for name in ("weight", "bias", "dense.weight", "dense.bias", "layer_norm.bias")
    ]
    shapes = {
        "embed_tokens.weight": (5, 3),
        "lm_head.weight": (5, 3),
        "dense.weight": (3, 3),
        "lm_head.bias": (5,),
    }
    state = {
        f"encoder.{n}": torch.ones(next((s for end, s in shapes.items() if n.endswith(end)), (3,)))
        for n in names
    }
    owners = {key: tensor for key, tensor in state.items() if key != "encoder.lm_head.weight"}
    small = prune_optimizer(
        counted(owners, flat=flat), tie(state), PruningPlan.parse("0,2", {"encoder": 3})
    )
    moments = torch.cat([entry["exp_avg"].flatten() for entry in small["state"].values()])
    assert moments.unique_consecutive().tolist() == [0, 1, 3, 4, 5, 6, 7]


def test_the_step_of_a_flat_state_may_be_a_tensor() -> None:
    state = untied(1, 1)
    optimizer = counted(state, flat=True)
    optimizer["state"][0]["step"] = torch.tensor(9.0)
    small = prune_optimizer(optimizer, state, PruningPlan.parse("0/0", stack_depths(state)))
    assert same(small["state"][0], optimizer["state"][0])


def test_layers_that_share_their_weights_are_counted_where_they_come_first() -> None:
    state = {f"encoder.layers.{i}.fc1.bias": torch.full((2,), float(i)) for i in range(4)}
    state["encoder.layers.1.fc1.bias"], state["encoder.layers.3.fc1.bias"] = list(state.values())[
        0::2
    ]
    optimizer = torch.optim.Adam(
        [torch.nn.Parameter(state[f"encoder.layers.{i}.fc1.bias"]) for i in (0, 2)]
    )
    for number, parameter in enumerate(inner(optimizer).param_groups[0]["params"]):
        parameter.grad = torch.full((2,), float(number + 1))
    optimizer.step()
    saved = optimizer.state_dict()
    for spec, numbers in (("1,2", [0, 1]), ("2,3", [1]), ("0,1", [0])):
        small = prune_optimizer(saved, state, PruningPlan.parse(spec, {"encoder": 4}))
        assert same(list(small["state"].values()), [saved["state"][number] for number in numbers])


def test_what_has_no_state_yet_gets_none() -> None:
    state = untied(2, 2)
    plan = PruningPlan.parse("1/0", stack_depths(state))
    optimizer = counted(state, flat=False)
    whole = prune_optimizer(optimizer, state, plan)
    for number in (1, 20):  # a parameter of a layer that goes, and of one that stays
        del optimizer["state"][number]
    small = prune_optimizer(optimizer, state, plan)
    lacks = [new for new, entry in whole["state"].items() if entry["step"] == 20]
    assert len(lacks) == 1
    assert same(
        small["state"], {new: entry for new, entry in whole["state"].items() if new not in lacks}
    )
    for flat in (False, True):
        none = prune_optimizer({**counted(state, flat=flat), "state": {}}, state, plan)
        assert (none["state"], len(none["param_groups"][0]["params"])) == (
            {},
            1 if flat else len(whole["state"]),
        )


def test_the_optimizers_own_values_stay_and_the_source_is_not_changed() -> None:
    state = untied(2, 2)
    optimizer = counted(state, flat=False) | {"loss_scale": 64.0}
    optimizer["state"] = {
        number + 10**14: entry for number, entry in optimizer["state"].items()
    }  # as before torch 1.5
    optimizer["param_groups"][0]["params"] = list(optimizer["state"])
    before = copy.deepcopy(optimizer)
    small = prune_optimizer(optimizer, state, PruningPlan.parse("0/1", stack_depths(state)))
    assert same(optimizer, before)
    assert small["loss_scale"] == 64.0
    assert {key: value for key, value in small["param_groups"][0].items() if key != "params"} == {
        "lr": 0.1,
        "betas": (0.9, 0.98),
    }
    assert same(stored(small), small)


def test_a_view_of_a_large_storage_does_not_drag_it_into_the_file() -> None:
    state = untied(1, 1)
    optimizer = counted(state, flat=False)
    optimizer["state"][0]["exp_avg"] = torch.zeros(10_000)[:768].view(24, 32)
    small = prune_optimizer(optimizer, state, PruningPlan.parse("0/0", stack_depths(state)))
    assert small["state"][0]["exp_avg"].untyped_storage().nbytes() == 768 * 4
    assert small["state"][1]["exp_avg"] is optimizer["state"][1]["exp_avg"]


# Each refusal: what is done to the optimizer and the model, and what the message must say of it.
def composite(optimizer: dict[str, Any], state: dict[str, Tensor]) -> dict[str, Any]:
    return {"default": optimizer, "decoder": optimizer}


def shards(optimizer: dict[str, Any], state: dict[str, Tensor]) -> dict[str, Any]:
    return {"state": [optimizer["state"]], "param_groups": optimizer["param_groups"] * 2}


def zero(optimizer: dict[str, Any], state: dict[str, Tensor]) -> dict[str, Any]:
    return shards(optimizer, state) | {"partition": [(0, 1)]}


def groups(optimizer: dict[str, Any], state: dict[str, Tensor]) -> dict[str, Any]:
    return optimizer | {"param_groups": optimizer["param_groups"] * 2}


def adafactor(optimizer: dict[str, Any], state: dict[str, Tensor]) -> dict[str, Any]:
    optimizer["state"][0]["exp_avg_sq_row"] = torch.zeros(10)
    return optimizer


def history(optimizer: dict[str, Any], state: dict[str, Tensor]) -> dict[str, Any]:
    optimizer["state"][0]["old"] = [torch.zeros(24, 32)]
    return optimizer


def unknown(optimizer: dict[str, Any], state: dict[str, Tensor]) -> dict[str, Any]:
    return optimizer | {"state": optimizer["state"] | {999: {"step": 1}}}


def criterion(optimizer: dict[str, Any], state: dict[str, Tensor]) -> dict[str, Any]:
    optimizer["state"][49] = {"step": 1, "exp_avg": torch.zeros(3)}
    optimizer["param_groups"][0]["params"].append(49)
    return optimizer


def frozen(optimizer: dict[str, Any], state: dict[str, Tensor]) -> dict[str, Any]:
    optimizer["state"] = {i - 1: entry for i, entry in optimizer["state"].items() if i}
    optimizer["param_groups"][0]["params"].pop()
    return optimizer


def shifted(optimizer: dict[str, Any], state: dict[str, Tensor]) -> dict[str, Any]:
    entries = optimizer["state"]
    entries[0], entries[1] = entries[1], entries[0]
    return optimizer


def pipeline(optimizer: dict[str, Any], state: dict[str, Tensor]) -> dict[str, Any]:
    halves = {i: {"step": 1, "exp_avg": torch.zeros(500)} for i in range(2)}
    return optimizer | {"state": halves, "param_groups": [{"params": [0, 1]}]}


def too_long(optimizer: dict[str, Any], state: dict[str, Tensor]) -> dict[str, Any]:
    flat = counted(state, flat=True)
    flat["state"][0]["exp_avg_sq"] = torch.zeros(flat["state"][0]["exp_avg"].numel() + 1)
    return flat


def of_2019(optimizer: dict[str, Any], state: dict[str, Tensor]) -> dict[str, Any]:
    state["decoder.embed_out"] = state.pop("decoder.output_projection.weight")
    return optimizer


def tied_in_2019(optimizer: dict[str, Any], state: dict[str, Tensor]) -> dict[str, Any]:
    del state["decoder.output_projection.weight"]
    return optimizer


def order_of_2019(optimizer: dict[str, Any], state: dict[str, Tensor]) -> dict[str, Any]:
    """``layer_norm`` was registered after the softmax in old adaptive models."""
    state["decoder.layer_norm.weight"] = state.pop("decoder.layer_norm.weight")
    return optimizer


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda *_: None, "there must be an optimizer's state in the checkpoint, got none"),
        (
            composite,
            "the optimizer must be one, with a dict state and a list param_groups, got default: "
            "dict, decoder: dict",
        ),
        (shards, "with a dict state and a list param_groups, got state: list, param_groups: list"),
        (zero, "the optimizer's state must be whole, got a sharded one (partition)"),
        (groups, "the optimizer must have one group of parameters, in the model's order, got 2"),
        (unknown, "the optimizer must hold state for its parameters alone, got some for 999"),
        (
            adafactor,
            "the optimizer's values for encoder.embed_tokens.weight must be numbers or of its "
            "shape, (24, 32), "
            "got exp_avg_sq_row: (10,)",
        ),
        (history, "numbers or of its shape, (24, 32), got old: list"),
        (
            criterion,
            "the optimizer must have each of the model's 49 parameters, or one that is all of "
            "them, got 50",
        ),
        (
            frozen,
            "the optimizer must have each of the model's 49 parameters, or one that is all of "
            "them, got 48",
        ),
        (
            pipeline,
            "the optimizer must have each of the model's 49 parameters, or one that is all of "
            "them, got 2",
        ),
        (shifted, "must be numbers or of its shape, (24, 32), got exp_avg: (32, 32)"),
        (
            too_long,
            "the optimizer's values for all parameters end to end must be numbers or of its "
            "shape, (19648,)",
        ),
        (
            of_2019,
            "the model must have the keys that fairseq writes since 0.10, got decoder.embed_out",
        ),
        (
            tied_in_2019,
            "must have the keys that fairseq writes since 0.10, got none for "
            "decoder.output_projection.weight",
        ),
        (
            order_of_2019,
            "the model's keys must be in the order of fairseq since 0.10, got output_projection "
            "before layer_norm in "
            "decoder",
        ),
    ],
)
def test_what_cannot_be_carried_over_is_refused_by_name(change: Any, message: str) -> None:
    state = untied(1, 1)
    plan = PruningPlan.parse("0/0", stack_depths(state))
    optimizer = change(counted(state, flat=False), state)
    with pytest.raises(ValueError) as raised:
        prune_optimizer(optimizer, state, plan)
    assert message in str(raised.value)
    assert str(raised.value).endswith("; leave keep_optimizer= out")
    assert "\n" not in str(raised.value)


def numbered(state: dict[str, Tensor]) -> dict[str, int]:
    """The number of each parameter, stale ones counted, by key; a tie is found by its storage."""
    numbers: dict[int, int] = {}
    return {
        key: numbers.setdefault(tensor.data_ptr(), len(numbers))
        for key, tensor in state.items()
        if not key.endswith((".version", "._float_tensor"))
    }


@pytest.mark.parametrize(
    ("folder", "specs", "lost"),
    [
        ("translation-0.12.2", {"encoder": "0,2,5", "decoder": "1,4"}, False),
        ("translation-0.12.2", {"encoder": "3", "decoder": "all"}, True),
        ("lm-0.12.2", {"decoder": "0,1,6,7"}, False),
        ("lm-0.12.2", {"decoder": "5"}, True),
    ],
)
def test_official_files_give_every_parameter_of_the_model_that_fairseq_builds_its_own_moments(
    folder: str, specs: dict[str, str], lost: bool, fixtures: Path, tmp_path: Path
) -> None:
    path = fixtures / folder / "checkpoint.pt"
    full = load(path)
    plan = PruningPlan.from_specs(specs, stack_depths(full["model"]))
    state = (
        tie({key: tensor.clone() for key, tensor in full["model"].items()})
        if lost
        else full["model"]
    )
    small = prune_optimizer(full["last_optimizer_state"], state, plan)
    flags = [flag for stack, spec in specs.items() for flag in (f"--{stack}-keep", spec)]
    pruned = prune(path, tmp_path / "small.pt", *flags)
    overrides = {"data": str(path.parent / "data-bin")}
    [model], _ = checkpoint_utils.load_model_ensemble([str(pruned)], arg_overrides=overrides)
    parameters = dict(model.named_parameters())
    numbers = numbered(full["model"])
    old = full["last_optimizer_state"]["state"]
    assert small["param_groups"][0]["params"] == list(range(len(parameters)))
    assert [entry["exp_avg"].shape for entry in small["state"].values()] == [
        p.shape for p in parameters.values()
    ]
    assert same(
        small["state"], {i: old[numbers[origin(key, plan)]] for i, key in enumerate(parameters)}
    )


def test_the_official_file_of_2019_is_refused(official_2019: Path) -> None:
    full = load(official_2019 / "checkpoint.pt")
    plan = PruningPlan.from_specs({}, stack_depths(full["model"]))
    with pytest.raises(
        ValueError, match=r"since 0\.10, got encoder\.layers\.0\.self_attn\.in_proj_weight; leave"
    ):
        prune_optimizer(full["last_optimizer_state"], full["model"], plan)
