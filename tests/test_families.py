# SPDX-License-Identifier: MIT
"""Every family all the way, by fairseq's programs; the table of docs/families.md.

``pytest tests/test_families.py -m "" --write-docs`` writes the table anew.
"""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run
from fairseq import checkpoint_utils
from fairseq.models import ARCH_MODEL_REGISTRY, MODEL_REGISTRY
from fairseq_programs import (
    REPOSITORY,
    USER_DIR,
    assert_same_tensors,
    fairseq,
    in_stock,
    prune,
    weights,
)
from families import FAMILIES, OPTIMIZER, Family, outputs
from repeats import mostly_slow

import fairseq_layerdrop
from fairseq_layerdrop import cli
from fairseq_layerdrop.checkpoint import load
from fairseq_layerdrop.modules.subnetwork import depths, restricted
from fairseq_layerdrop.pruning.config import model_section, training_rates
from fairseq_layerdrop.pruning.plan import PruningPlan

fairseq_layerdrop.register()

CELLS = {
    "train with LayerDrop": "trained 4 updates with LayerDrop 0.5",
    "both sides": "prune both stacks",
    "one side": "prune one stack",
    "non-contiguous": "prune to layers with gaps",
    "loads in stock fairseq": "no plugin, no override",
    "equal to in-memory": "the outputs are those of the full model restricted in memory, within "
    "1e-5",
    "fine-tune, save, load": "2 updates by `--finetune-from-model` with the printed flags; no "
    "override to load it",
    "inside the layers": "heads, FFN units and sub-layers removed: the outputs are those of the "
    "full model masked",
    "twice = once": "pruning in two steps gives the tensors and the configuration of one",
}
DOCUMENT = REPOSITORY / "docs" / "families.md"
NOT_THERE = "–"

ALWAYS = [family for family in FAMILIES if family.ours or family.name == "wav2vec2"]
every_family = pytest.mark.parametrize(
    "family", mostly_slow(FAMILIES, *ALWAYS), ids=lambda family: family.name
)
done: dict[tuple[str, str], str] = {}
"""What ran to its end, by family and cell: what the table shows."""


@pytest.fixture(scope="module")
def folders(data: Path, text_data: Path, audio_data: Path) -> dict[str, Path]:
    return {"pairs": data, "text": text_data, "audio": audio_data}


@pytest.fixture(scope="module")
def training(
    folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Family], Run]:
    """A family's checkpoint, trained once for all its tests."""
    runs: dict[str, Run] = {}

    def run(family: Family) -> Run:
        if family.name not in runs:
            folder = tmp_path_factory.mktemp("family")
            flags = [*family.model, *made_from(family, run), "--max-update", "4"]
            runs[family.name] = Run(folder, train(family, folders, folder, *flags))
        return runs[family.name]

    return run


def made_from(
    family: Family, training: Callable[[Family], Run], pruned_to: Path | None = None
) -> list[str | Path]:
    """The flags that name the (pruned) pre-trained model of a family that is made from one."""
    base = next((base for base in FAMILIES if base.name == family.made_from), None)
    if base is None:
        return []
    full = training(base).last
    # What fairseq's own training wrote is loaded only where a plugin allows it (torch >= 2.6).
    return [
        "--user-dir",
        USER_DIR,
        "--w2v-path",
        prune(full, pruned_to, *family.once) if pruned_to else full,
    ]


def train(family: Family, folders: dict[str, Path], folder: Path, *flags: object) -> str:
    """Run ``fairseq-train``, with the plugin if the family is of the plugin."""
    plugin = ["--user-dir", USER_DIR] if "layerdrop_" in " ".join(map(str, flags)) else []
    labels = ["--label-dir", folders["audio"]] if family.name == "hubert" else []
    where = [*plugin, "--save-dir", folder, *labels]
    return fairseq("train", folders[family.data], *where, *family.task, *OPTIMIZER, *flags)


def in_memory(checkpoint: Path, flags: list[str]) -> Any:
    """What the full model computes when it is restricted in memory."""
    (model,), _, _ = checkpoint_utils.load_model_ensemble_and_task([str(checkpoint)])
    specs = {flag.split("-")[2]: spec for flag, spec in zip(flags[::2], flags[1::2], strict=True)}
    with restricted(model, PruningPlan.from_specs(specs, depths(model)).kept):
        return outputs(model)


def in_files(*checkpoints: Path, user_dir: bool) -> list[dict[str, Any]]:
    """What models from files compute in stock fairseq."""
    plugin = ["--user-dir", USER_DIR] if user_dir else []
    target = checkpoints[0].with_suffix(".outputs")
    in_stock(str(Path(__file__).with_name("outputs_in_stock.py")), target, *plugin, *checkpoints)
    return torch.load(target)


def test_every_model_of_this_package_is_a_family() -> None:
    ours = {name for name in MODEL_REGISTRY if name.startswith("layerdrop_")}
    assert ours == {family.name for family in FAMILIES if family.ours}
    assert {
        model for arch, model in ARCH_MODEL_REGISTRY.items() if arch.startswith("layerdrop_")
    } == {MODEL_REGISTRY[name] for name in ours}


@every_family
def test_it_trains_with_layerdrop(family: Family, training: Callable[[Family], Run]) -> None:
    run = training(family)
    stacks = {
        flag.split("-")[2] for cut in family.cuts.values() for flag in cut if flag.startswith("--")
    }
    assert training_rates(model_section(load(run.last))) == dict.fromkeys(stacks, 0.5)
    if family.ours:
        assert "effective rate 0.4" in run.output
    done[family.name, "train with LayerDrop"] = "this package's" if family.ours else "fairseq's own"


@every_family
def test_it_is_pruned_and_computes_what_the_full_model_does_in_memory(
    family: Family, training: Callable[[Family], Run], tmp_path: Path
) -> None:
    full = training(family).last
    small = {
        cut: prune(full, tmp_path / f"{i}.pt", *flags)
        for i, (cut, flags) in enumerate(family.cuts.items())
    }
    found = in_files(*small.values(), user_dir=family.needs_user_dir)
    for (cut, flags), result in zip(family.cuts.items(), found, strict=True):
        assert not result["model"].startswith("LayerDrop")
        kept = PruningPlan.from_json(
            load(small[cut])["extra_state"]["layerdrop"]["steps"][-1]["plan"]
        ).kept
        assert result["layers"] == len(kept.get("encoder", ())) + family.decoders * len(
            kept.get("decoder", ())
        )
        expected = in_memory(full, flags)
        assert result["outputs"].shape == expected.shape
        assert (result["outputs"] - expected).abs().max() < 1e-5
        assert (outputs_of_another_cut(full, flags) - expected).abs().max() > 1e-4, (
            "the cut makes no difference"
        )
        done[family.name, cut] = "yes"
    done[family.name, "loads in stock fairseq"] = (
        "with --user-dir¹" if family.needs_user_dir else "yes"
    )
    done[family.name, "equal to in-memory"] = "yes"


def outputs_of_another_cut(full: Path, flags: list[str]) -> Any:
    return in_memory(full, [flag if flag.startswith("--") else "last:1" for flag in flags])


@every_family
def test_it_is_fine_tuned_saved_and_loaded_again(
    family: Family,
    training: Callable[[Family], Run],
    folders: dict[str, Path],
    tmp_path: Path,
    capsys: Any,
) -> None:
    small = tmp_path / "small.pt"
    assert cli.main(["prune", str(training(family).last), str(small), *family.once, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)["training_flags"]
    flags = shlex.split(printed.replace("$(fairseq-layerdrop user-dir)", str(USER_DIR)))
    folder = tmp_path / "tuned"
    base = made_from(family, training, tmp_path / "base.pt")
    output = train(family, folders, folder, *family.model, *base, *flags, "--max-update", "2")
    assert "loading pretrained model from" in output
    # Stock fairseq on torch >= 2.6 does not load what it wrote itself, unless a plugin allows it
    # to.
    before, after = in_files(small, folder / "checkpoint_last.pt", user_dir=True)
    assert (after["model"], after["layers"]) == (before["model"], before["layers"])
    assert not torch.equal(before["outputs"], after["outputs"])
    done[family.name, "fine-tune, save, load"] = "yes"


def masked(checkpoint: Path, inside: dict[str, Any]) -> Any:
    """The full model with masks and idle norms instead of what is pruned inside its layers."""
    (model,), _, _ = checkpoint_utils.load_model_ensemble_and_task([str(checkpoint)])
    with torch.no_grad():
        for path, kept in inside["kept"].items():
            weight, size = reader(model, path)
            mask = torch.zeros(weight.shape[1] // size)
            mask[kept] = 1
            weight.mul_(mask.repeat_interleave(size))
        for path in inside["without"]:
            layer, part = model.get_submodule(path.rpartition(".")[0]), path.rpartition(".")[2]
            out = layer.fc2 if part == "ffn" else getattr(layer, part).out_proj
            out.weight.zero_()
            out.bias.zero_()
            setattr(
                layer,
                "final_layer_norm" if part == "ffn" else f"{part}_layer_norm",
                torch.nn.Identity(),
            )
    return outputs(model)


def reader(model: Any, path: str) -> tuple[Any, int]:
    """The matrix that reads an attention's heads or an FFN's units, and columns a group."""
    module = model.get_submodule(path.removesuffix(".ffn"))
    return (
        (module.fc2.weight, 1)
        if path.endswith(".ffn")
        else (module.out_proj.weight, module.head_dim)
    )


@every_family
def test_what_is_pruned_inside_the_layers_is_gone(
    family: Family, training: Callable[[Family], Run], tmp_path: Path
) -> None:
    if not family.ours:
        pytest.skip("a family of whose layers this package has none")
    full, stack = (
        training(family).last,
        "decoder" if "--decoder-layers" in family.model else "encoder",
    )
    gone = [f"{stack}:1.ffn", f"{stack}:2.self_attn"]
    gone += (
        ["decoder:0.encoder_attn"]
        if "--encoder-layers" in family.model and stack == "decoder"
        else []
    )
    flags = ["--heads-keep", "0.5", "--ffn-keep", "12", "--sublayers-remove", ",".join(gone)]
    small = prune(full, tmp_path / "small.pt", *flags)
    smaller = prune(small, tmp_path / "smaller.pt", "--ffn-keep", "0.5")
    uniform = prune(full, tmp_path / "uniform.pt", "--ffn-keep", "0.5")
    steps = [load(path)["extra_state"]["layerdrop"]["steps"] for path in (small, uniform)]
    assert len(steps[0][0]["inside"]["without"]) == len(gone)
    found = in_files(small, smaller, user_dir=True)
    assert {result["model"].startswith("LayerDrop") for result in found} == {True}
    assert (found[0]["outputs"] - masked(full, steps[0][0]["inside"])).abs().max() < 1e-5
    (plain,) = in_files(uniform, user_dir=family.needs_user_dir)
    assert not plain["model"].startswith("LayerDrop")
    assert (plain["outputs"] - masked(full, steps[1][0]["inside"])).abs().max() < 1e-5
    counts = [sum(t.numel() for t in weights(path).values()) for path in (full, small, smaller)]
    sizes = [path.stat().st_size for path in (full, small, smaller)]
    assert sorted(counts, reverse=True) == counts and sorted(sizes, reverse=True) == sizes
    done[family.name, "inside the layers"] = "yes"


@every_family
def test_pruning_twice_is_pruning_once(
    family: Family, training: Callable[[Family], Run], tmp_path: Path
) -> None:
    full = training(family).last
    once = prune(full, tmp_path / "once.pt", *family.once)
    first, second = family.twice
    twice = prune(prune(full, tmp_path / "first.pt", *first), tmp_path / "twice.pt", *second)
    assert_same_tensors(weights(once), weights(twice))
    assert load(once)["cfg"] == load(twice)["cfg"]
    done[family.name, "twice = once"] = "yes"


def table() -> str:
    """What ran, as Markdown."""
    rows = [["family", *CELLS], ["---"] * (len(CELLS) + 1)]
    rows += [
        [f"`{family.name}`", *(done.get((family.name, cell), NOT_THERE) for cell in CELLS)]
        for family in FAMILIES
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


@pytest.mark.slow
def test_the_table_in_the_documentation_is_what_ran(request: pytest.FixtureRequest) -> None:
    if {name for name, _ in done} != {family.name for family in FAMILIES}:
        pytest.skip("only some of the families ran")
    head, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(
        "<!-- made by tests/test_families.py -->\n"
    )
    old, mark, tail = rest.partition("<!-- end -->")
    if request.config.getoption("--write-docs"):
        DOCUMENT.write_text(
            f"{head}<!-- made by tests/test_families.py -->\n{table()}{mark}{tail}",
            encoding="utf-8",
        )
    else:
        assert old == table(), "run pytest tests/test_families.py -m '' --write-docs"
