# SPDX-License-Identifier: MIT
"""Checkpoint files: nothing in one is ever run, and one is written whole or not at all."""

import enum
import importlib
import os
import pickle
import resource
import subprocess
import sys
import zipfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy
import pytest
import torch
from builders import family_checkpoint, layer_values, training_checkpoint
from fairseq.data import Dictionary
from fairseq.data.text_compressor import TextCompressionLevel
from fairseq.dataclass import constants
from fairseq.dataclass.configs import CheckpointConfig, EMAConfig, OptimizationConfig
from omegaconf import OmegaConf

from fairseq_layerdrop.checkpoint import (
    CheckpointError,
    StandIn,
    check_target,
    digest,
    file_format,
    load,
    save,
)
from fairseq_layerdrop.cli import main


class Evil:
    """What a malicious file holds: an object that runs a command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self.marker}'",)


def write(path: Path, **changes: Any) -> Path:
    """A checkpoint as fairseq's trainer writes it."""
    torch.save(training_checkpoint() | changes, path)
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def small() -> dict[str, Any]:
    return {"model": {"w": torch.arange(6.0)}, "cfg": {"a": [1, None, "x"]}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder for outputs."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def test_what_was_saved_is_loaded(folder: Path, small: dict[str, Any]) -> None:
    save(small, folder / "a.pt")
    loaded = load(folder / "a.pt")
    assert torch.equal(loaded["model"]["w"], small["model"]["w"])
    assert loaded["cfg"] == small["cfg"]
    assert names(folder) == ["a.pt"]


def test_a_path_can_be_a_string(folder: Path, small: dict[str, Any]) -> None:
    save(small, str(folder / "a.pt"))
    assert load(str(folder / "a.pt"))["cfg"] == small["cfg"]


def test_what_was_saved_is_read_by_torchs_safe_defaults(
    folder: Path, small: dict[str, Any]
) -> None:
    save(small, folder / "a.pt")
    assert torch.load(folder / "a.pt", weights_only=True)["cfg"] == small["cfg"]


def test_a_training_checkpoint_is_read_with_its_namespaces(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pt", **training_checkpoint(namespace=True))
    assert load(path)["cfg"]["model"].arch == "transformer"


def test_the_statistics_of_eval_bleu_do_not_stop_it(tmp_path: Path) -> None:
    statistics = {"array": numpy.arange(4), "scalar": numpy.float64(1.5), "integer": numpy.int64(3)}
    path = write(tmp_path / "a.pt", extra_state={"metrics": statistics})
    assert load(path)["model"].keys() == training_checkpoint()["model"].keys()


@pytest.mark.skipif(
    not Path("/proc/self/maps").exists(), reason="the maps of a process are Linux's"
)
def test_tensors_are_mapped_from_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "mapped.pt")
    checkpoint = load(path)
    assert str(path) in Path("/proc/self/maps").read_text()
    del checkpoint


def test_both_formats_are_read_and_told_apart(tmp_path: Path, small: dict[str, Any]) -> None:
    torch.save(small, tmp_path / "new.pt")
    torch.save(small, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for name, kind in (("new.pt", "zip"), ("old.pt", "legacy")):
        assert file_format(tmp_path / name) == kind
        assert torch.equal(load(tmp_path / name)["model"]["w"], small["model"]["w"])


@pytest.mark.parametrize("new_format", [True, False])
def test_the_digest_is_the_contents_and_not_the_names(
    tmp_path: Path, small: dict[str, Any], new_format: bool
) -> None:
    for name in ("one.pt", "another.pt"):
        torch.save(small, tmp_path / name, _use_new_zipfile_serialization=new_format)
    small["model"]["w"][3] += 1
    torch.save(small, tmp_path / "changed.pt", _use_new_zipfile_serialization=new_format)
    one, another, changed = (
        digest(tmp_path / name) for name in ("one.pt", "another.pt", "changed.pt")
    )
    assert one == another != changed
    assert len(one) == 32
    assert int(one, 16)


def test_the_digest_sees_the_configuration_too(tmp_path: Path, small: dict[str, Any]) -> None:
    torch.save(small, tmp_path / "a.pt")
    torch.save(small | {"cfg": {"a": [2, None, "x"]}}, tmp_path / "b.pt")
    assert digest(tmp_path / "a.pt") != digest(tmp_path / "b.pt")


def missing(path: Path) -> None:
    pass


def directory(path: Path) -> None:
    path.mkdir()


def empty(path: Path) -> None:
    path.touch()


def fifo(path: Path) -> None:
    os.mkfifo(path)


def truncated(path: Path) -> None:
    write(path)
    path.write_bytes(path.read_bytes()[:-200])


def truncated_early(path: Path) -> None:
    write(path)
    path.write_bytes(path.read_bytes()[:100])


def truncated_legacy(path: Path) -> None:
    torch.save(training_checkpoint(), path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:-200])


def text(path: Path) -> None:
    path.write_text("| epoch 001 | loss 5.3\n" * 100)


def yaml(path: Path) -> None:  # its first letter is an operation of pickles
    path.write_text("common:\n  seed: 1\n  fp16: false\n")


def noise(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 40)


def other_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", "<w/>")


def no_model(path: Path) -> None:
    torch.save({"weights": {}}, path)


def model_of_another_kind(path: Path) -> None:
    torch.save({"model": [1, 2]}, path)


def bare_tensor(path: Path) -> None:
    torch.save(torch.zeros(3), path)


BAD_FILES: list[tuple[Callable[[Path], None], str]] = [
    (missing, "no file"),
    (directory, "is a directory"),
    (empty, "is empty"),
    (fifo, "not a regular file"),
    (truncated, "damaged"),
    (truncated_early, "damaged"),
    (truncated_legacy, "not a checkpoint"),
    (text, "not a checkpoint"),
    (yaml, "not a checkpoint"),
    (noise, "not a checkpoint"),
    (other_zip, "not a checkpoint"),
    (no_model, "not a fairseq checkpoint"),
    (model_of_another_kind, "not a fairseq checkpoint"),
    (bare_tensor, "not a fairseq checkpoint"),
]


@pytest.mark.parametrize(
    ("make", "reason"), BAD_FILES, ids=[make.__name__ for make, _ in BAD_FILES]
)
def test_a_bad_file_is_refused_in_one_line(
    tmp_path: Path, make: Callable[[Path], None], reason: str
) -> None:
    path = tmp_path / "bad.pt"
    make(path)
    with pytest.raises(CheckpointError, match=reason) as error:
        load(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def evil_zip(evil: Any, path: Path) -> None:
    torch.save(evil, path)


def evil_zip_of_protocol_4(evil: Any, path: Path) -> None:
    torch.save(evil, path, pickle_protocol=4)


def evil_legacy(evil: Any, path: Path) -> None:
    torch.save(evil, path, _use_new_zipfile_serialization=False)


def evil_pickle(protocol: int) -> Callable[[Any, Path], None]:
    def write_pickle(evil: Any, path: Path) -> None:
        path.write_bytes(pickle.dumps(evil, protocol=protocol))

    return write_pickle


EVIL_FORMS = {
    "zip": evil_zip,
    "zip4": evil_zip_of_protocol_4,
    "legacy": evil_legacy,
    **{f"protocol{n}": evil_pickle(n) for n in range(6)},
}


@pytest.mark.parametrize("form", EVIL_FORMS)
@pytest.mark.parametrize("place", ["whole", "model", "beside"])
def test_a_file_that_would_run_code_is_refused_by_name_and_nothing_is_run(
    tmp_path: Path, form: str, place: str
) -> None:
    evil = Evil(tmp_path / "marker")
    content = {"whole": evil, "model": {"model": evil}, "beside": {"model": {"w": 1}, "x": evil}}
    path = tmp_path / "evil.pt"
    EVIL_FORMS[form](content[place], path)
    with pytest.raises(CheckpointError, match=r"system.*nothing was run"):
        load(path)
    assert not (tmp_path / "marker").exists()


def test_the_evil_files_of_these_tests_are_evil(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Evil(tmp_path / "marker")))
    assert (tmp_path / "marker").exists()


@pytest.mark.parametrize("form", ["zip4", "protocol4"])
def test_what_would_be_run_has_its_full_name_even_where_the_pickle_reuses_a_string(
    tmp_path: Path, form: str
) -> None:
    evil = Evil(tmp_path / "marker")
    EVIL_FORMS[form]({"model": {}, os.system.__module__: 1, "x": evil}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match=rf"{os.system.__module__}\.system"):
        load(tmp_path / "evil.pt")


def test_a_class_of_an_unknown_library_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a.pt", extra_state={"when": UUID(int=1)})
    with pytest.raises(CheckpointError, match="uuid"):
        load(tmp_path / "a.pt")


def test_paths_and_numbers_of_numpy_are_plain_data(tmp_path: Path) -> None:
    kinds = {"path": Path("/a/b"), "set": frozenset("a"), "type": torch.float16}
    numbers = {"f8": 0.25, "f2": 0.5, "i8": -3, "u1": 200, "b1": True, ">i4": 7}
    made = {kind: numpy.dtype(kind).type(value) for kind, value in numbers.items()}
    write(tmp_path / "a.pt", extra_state=kinds | made)
    found = load(tmp_path / "a.pt")["extra_state"]
    assert found == {"path": "/a/b", "set": {"a"}, "type": torch.float16, **numbers}
    assert {type(found[kind]) for kind in numbers} == {float, int, bool}


# Objects of other libraries

in_both_formats = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def write_as(zipped: bool, path: Path, **changes: Any) -> Path:
    torch.save(training_checkpoint() | changes, path, _use_new_zipfile_serialization=zipped)
    return path


def objects(value: Any) -> Iterator[Any]:
    """Everything in nested containers that is not plain data."""
    if isinstance(value, Namespace):
        value = vars(value)
    if isinstance(value, dict):
        for item in (*value.keys(), *value.values()):
            yield from objects(item)
    elif type(value) in (list, tuple):
        for item in value:
            yield from objects(item)
    elif type(value) not in (str, int, float, bool, type(None), torch.Tensor):
        yield value


def options(**model: Any) -> dict[str, Any]:
    """A configuration as hydra composes it: typed sections, references to other sections."""
    cfg = OmegaConf.create(
        {
            "_name": None,
            "common": {
                "seed": 7,
                "fp16": False,
                "model_parallel_size": 1,
                "sizes": [1, [2.5, None], {"a": "b"}],
            },
            "model": {
                "_name": "transformer",
                "encoder_layers": 6,
                "decoder_layers": 6,
                "seed": "${common.seed}",
                **model,
            },
            "task": {"_name": "translation", "data": "bin", "lr": "${optimization.lr}"},
            "bpe": None,
        }
    )
    for section, kind in (
        ("checkpoint", CheckpointConfig),
        ("optimization", OptimizationConfig),
        ("ema", EMAConfig),
    ):
        cfg[section] = OmegaConf.structured(kind)
    return cfg


@in_both_formats
def test_a_configuration_of_omegaconf_comes_back_as_plain_data(
    tmp_path: Path, zipped: bool
) -> None:
    cfg = options(parts=["${common.sizes}", "${model.seed}"], section="${common}", none=None)
    loaded = load(write_as(zipped, tmp_path / "a.pt", cfg=cfg))["cfg"]
    resolved = OmegaConf.to_container(cfg, resolve=True)
    assert list(objects(loaded)) == []
    assert {key: section for key, section in loaded.items() if key != "model"} == {
        key: section for key, section in resolved.items() if key != "model"
    }
    assert (loaded["model"]["seed"], loaded["checkpoint"]["model_parallel_size"]) == (7, 1)
    assert (loaded["task"]["lr"], loaded["model"]["none"]) == ([0.25], None)
    assert (loaded["model"]["section"], loaded["model"]["parts"][0]) == (
        resolved["common"],
        resolved["common"]["sizes"],
    )


REFERENCES = {
    "a value": "${common.seed}",
    "a section": "${common}",
    "a reference": "${model.seed}",
    "within a text": "seed ${common.seed}",
    "relative": "${.encoder_layers}",
    "relative, a level up": "${..common.seed}",
    "an item of a list": "${common.sizes.0}",
    "an item in brackets": "${common[seed]}",
}


@pytest.mark.parametrize("reference", REFERENCES)
def test_fairseq_reads_the_same_options_whatever_refers_to_what(
    tmp_path: Path, reference: str
) -> None:
    cfg = options(other=REFERENCES[reference], several=[REFERENCES["a value"], 1])
    loaded = load(write_as(True, tmp_path / "a.pt", cfg=cfg))["cfg"]
    assert OmegaConf.to_container(OmegaConf.create(loaded), resolve=True) == OmegaConf.to_container(
        cfg, resolve=True
    )


def test_options_in_args_may_be_of_omegaconf_too(tmp_path: Path) -> None:
    args = Namespace(
        arch="transformer",
        lr=OmegaConf.create([0.1, 0.2]),
        w2v_args=Namespace(a=OmegaConf.create({"b": 1})),
    )
    loaded = load(write_as(True, tmp_path / "a.pt", args=args, cfg=None))["args"]
    assert loaded == Namespace(arch="transformer", lr=[0.1, 0.2], w2v_args=Namespace(a={"b": 1}))


class Backend(str, enum.Enum):  # noqa: UP042 (what fairseq's choices are)
    """One of fairseq's choices, of those that have a name in its module."""

    C10D = "c10d"


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> type[Backend]:
    monkeypatch.setattr(constants, "Backend", Backend, raising=False)
    monkeypatch.setattr(Backend, "__module__", constants.__name__)
    return Backend


@in_both_formats
def test_an_enum_of_texts_is_its_text(tmp_path: Path, backend: type[Backend], zipped: bool) -> None:
    cfg = options(backend=backend.C10D)
    cfg["task"]["plain"] = {"choices": [backend.C10D]}
    plain = OmegaConf.to_container(options()) | {
        "distributed_training": {"ddp_backend": backend.C10D}
    }
    assert load(write_as(zipped, tmp_path / "a.pt", cfg=cfg))["cfg"]["model"]["backend"] == "c10d"
    loaded = load(write_as(zipped, tmp_path / "b.pt", cfg=plain))["cfg"]["distributed_training"]
    assert (loaded, type(loaded["ddp_backend"])) == ({"ddp_backend": "c10d"}, str)


@in_both_formats
@pytest.mark.parametrize("typed", [False, True])
def test_an_enum_of_numbers_is_its_number(tmp_path: Path, typed: bool, zipped: bool) -> None:
    cfg = options(text_compression_level=TextCompressionLevel.low)
    cfg = cfg if typed else OmegaConf.to_container(cfg, resolve=True)
    model = load(write_as(zipped, tmp_path / "a.pt", cfg=cfg))["cfg"]["model"]
    assert model.pop("text_compression_level") == TextCompressionLevel.low.value
    assert model == OmegaConf.to_container(options(), resolve=True)["model"]


def words(*symbols: str) -> Dictionary:
    dictionary = Dictionary()
    for symbol in symbols:
        dictionary.add_symbol(symbol)
    return dictionary


@pytest.fixture
def nothing_allowed() -> Iterator[None]:
    """Forget for a while what this process has allowed torch to read (our plugin allows some)."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    yield
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(before)


@in_both_formats
@pytest.mark.usefixtures("nothing_allowed")
def test_a_dictionary_in_the_tasks_state_is_a_stand_in(tmp_path: Path, zipped: bool) -> None:
    state = {
        "dictionaries": [words("a"), words("b")],
        "target_dictionary": words("a", "b"),
        "epochs": 3,
    }
    loaded = load(write_as(zipped, tmp_path / "a.pt", task_state=state))["task_state"]
    assert (type(loaded["target_dictionary"]), loaded["epochs"]) == (StandIn, 3)
    assert loaded["target_dictionary"].state["symbols"][-2:] == ["a", "b"]
    assert [type(dictionary) for dictionary in loaded["dictionaries"]] == [StandIn, StandIn]


@pytest.mark.usefixtures("nothing_allowed")
def test_what_a_process_has_allowed_is_allowed_afterwards_and_nothing_more(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pt", **all_kinds())
    for allowed in ([], [Dictionary, Namespace, numpy.ndarray]):
        torch.serialization.add_safe_globals(allowed)
        load(path)
        assert set(torch.serialization.get_safe_globals()) == set(allowed)


@in_both_formats
@pytest.mark.usefixtures("nothing_allowed")
def test_what_a_process_has_allowed_changes_nothing_of_what_is_read(
    tmp_path: Path, zipped: bool
) -> None:
    """With our plugin fairseq may read arrays and dictionaries; a damaged array is refused."""
    state = {"dictionary": words("a"), "array": numpy.arange(4), "scalar": numpy.float64(1.5)}
    path = write_as(zipped, tmp_path / "a.pt", task_state=state)
    multiarray: Any = importlib.import_module("numpy._core.multiarray")
    of_numpy = [
        numpy.ndarray,
        numpy.dtype,
        multiarray._reconstruct,
        multiarray.scalar,
    ]
    torch.serialization.add_safe_globals([Dictionary, *of_numpy])
    found = {name: type(item) for name, item in load(path)["task_state"].items()}
    assert found == {"dictionary": StandIn, "array": StandIn, "scalar": float}


def all_kinds(**more: Any) -> dict[str, Any]:
    """What HuBERT's files hold, and what those of hydra do."""
    cfg = options(text_compression_level=TextCompressionLevel.low)
    return {"cfg": cfg, "task_state": {"target_dictionary": words("a"), "epochs": 3}, **more}


@in_both_formats
@pytest.mark.parametrize("place", ["beside", "in the task's state", "in the model"])
def test_what_is_evil_is_refused_among_objects_that_are_not_and_named_alone(
    tmp_path: Path, place: str, zipped: bool
) -> None:
    evil, content = Evil(tmp_path / "marker"), all_kinds()
    if place == "beside":
        content["x"] = evil
    elif place == "in the model":
        content["model"] = training_checkpoint()["model"] | {"encoder.layers.0.w": evil}
    else:
        content["task_state"]["dictionary"] = evil
    path = write_as(zipped, tmp_path / "evil.pt", **content)
    with pytest.raises(CheckpointError) as error:
        load(path)
    name = f"{os.system.__module__}.system"
    assert str(error.value) == (
        f"{path} is refused: loading it would run {name}, which is not plain data; nothing was run"
    )
    assert not (tmp_path / "marker").exists()


class Call:
    """An object that a pickle makes by calling a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@in_both_formats
@pytest.mark.parametrize(
    "function", [eval, exec, getattr, __import__, open, pickle.loads, subprocess.Popen]
)
def test_no_function_of_python_is_taken_for_one_of_a_known_library(
    tmp_path: Path, function: Callable[..., Any], zipped: bool
) -> None:
    path = write_as(zipped, tmp_path / "a.pt", **all_kinds(x=Call(function, "1")))
    with pytest.raises(
        CheckpointError, match=rf"would run \w+\.{function.__name__}, which .* nothing was run"
    ):
        load(path)


@pytest.mark.parametrize(
    "module", ["fairsequel", "omegaconfig", "numpyro", "typing_more", "my_fairseq"]
)
def test_a_library_of_a_similar_name_is_not_the_known_one(
    tmp_path: Path, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = type("Thing", (), {"__module__": module})
    monkeypatch.setitem(sys.modules, module, Namespace(Thing=known))
    path = write(tmp_path / "a.pt", **all_kinds(x=known()))
    with pytest.raises(CheckpointError, match=rf"would run {module}\.Thing, which"):
        load(path)


@in_both_formats
def test_a_function_of_a_known_library_is_not_run_either(tmp_path: Path, zipped: bool) -> None:
    marker = tmp_path / "marker.npy"
    path = write_as(zipped, tmp_path / "a.pt", x=Call(numpy.save, str(marker), 1))
    assert isinstance(load(path)["x"], StandIn)
    assert not marker.exists()


@in_both_formats
def test_a_function_of_torch_is_not_run_either(tmp_path: Path, zipped: bool) -> None:
    path = write_as(
        zipped, tmp_path / "a.pt", **all_kinds(x=Call(torch.save, {}, str(tmp_path / "marker")))
    )
    with pytest.raises(CheckpointError):
        load(path)
    assert not (tmp_path / "marker").exists()


@in_both_formats
@pytest.mark.parametrize("allowed", [[], [Dictionary]], ids=["", "with our plugin"])
@pytest.mark.usefixtures("nothing_allowed")
def test_what_is_pruned_of_such_a_file_is_plain(
    tmp_path: Path, zipped: bool, allowed: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    torch.serialization.add_safe_globals(allowed)
    content = all_kinds()
    content["task_state"]["source_dictionary"] = words("b")
    source, small = write_as(zipped, tmp_path / "full.pt", **content), tmp_path / "small.pt"
    flags = ["--decoder-keep", "0,2", "--check", "tensors"]
    assert main(["prune", str(source), str(small), *flags]) == 0
    (note,) = (line for line in capsys.readouterr().out.splitlines() if "task's state" in line)
    assert note.endswith(": source_dictionary, target_dictionary")
    written = torch.load(small, weights_only=True)
    assert written["task_state"] == {"epochs": 3}
    model = written["cfg"]["model"]
    assert (model["encoder_layers"], model["decoder_layers"], model["seed"]) == (6, 2, 7)
    assert model["text_compression_level"] == TextCompressionLevel.low.value
    assert (
        written["cfg"]["checkpoint"]
        == OmegaConf.to_container(options(), resolve=True)["checkpoint"]
    )
    assert layer_values(written["model"], "decoder") == [0, 2]


def test_what_is_pruned_of_a_speech_model_of_hydra_has_its_new_depth(tmp_path: Path) -> None:
    checkpoint = family_checkpoint("wav2vec_ctc")
    cfg = OmegaConf.create(
        {"model": checkpoint["cfg"]["model"], "task": {"_name": "audio_finetuning"}}
    )
    torch.save(
        checkpoint | {"cfg": cfg, "task_state": {"target_dictionary": words("a")}},
        tmp_path / "full.pt",
    )
    assert (
        main(
            [
                "prune",
                str(tmp_path / "full.pt"),
                str(tmp_path / "small.pt"),
                "--encoder-keep",
                "1,4",
                *("--check", "tensors"),
            ]
        )
        == 0
    )
    written = torch.load(tmp_path / "small.pt", weights_only=True)
    assert written["cfg"]["model"]["w2v_args"]["model"]["encoder_layers"] == 2
    assert layer_values(written["model"], "w2v_encoder.w2v_model.encoder") == [1, 4]


# Writing


def test_the_check_sees_the_whole_file_before_it_has_its_name(
    folder: Path, small: dict[str, Any]
) -> None:
    seen = []

    def check(written: Path) -> None:
        seen.append(load(written)["cfg"])
        assert not (folder / "a.pt").exists()

    save(small, folder / "a.pt", check=check)
    assert seen == [small["cfg"]]
    assert names(folder) == ["a.pt"]


def refuse(_: Path) -> None:
    raise ValueError("it is not what it should be")


def test_a_failing_check_leaves_nothing(folder: Path, small: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="should be"):
        save(small, folder / "a.pt", check=refuse)
    assert names(folder) == []


def test_a_failing_check_leaves_the_old_target(folder: Path, small: dict[str, Any]) -> None:
    (folder / "a.pt").write_bytes(b"old")
    with pytest.raises(ValueError, match="should be"):
        save(small, folder / "a.pt", force=True, check=refuse)
    assert (folder / "a.pt").read_bytes() == b"old"
    assert names(folder) == ["a.pt"]


def test_what_cannot_be_pickled_leaves_nothing(folder: Path) -> None:
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        save({"model": lambda: None}, folder / "a.pt")
    assert names(folder) == []


def test_an_existing_target_is_replaced_only_by_force(folder: Path, small: dict[str, Any]) -> None:
    (folder / "a.pt").write_bytes(b"old")
    with pytest.raises(CheckpointError, match="force=True"):
        save(small, folder / "a.pt")
    assert (folder / "a.pt").read_bytes() == b"old"
    save(small, folder / "a.pt", force=True)
    assert load(folder / "a.pt")["cfg"] == small["cfg"]
    assert names(folder) == ["a.pt"]


def test_a_target_that_appears_meanwhile_is_not_replaced(
    folder: Path, small: dict[str, Any]
) -> None:
    def appear(_: Path) -> None:
        (folder / "a.pt").write_bytes(b"other")

    with pytest.raises(CheckpointError, match="force=True"):
        save(small, folder / "a.pt", check=appear)
    assert (folder / "a.pt").read_bytes() == b"other"
    assert names(folder) == ["a.pt"]


@pytest.mark.parametrize("alias", ["itself", "symlink", "hard link", "other spelling"])
def test_the_input_is_never_the_output(folder: Path, small: dict[str, Any], alias: str) -> None:
    source, target = folder / "a.pt", folder / "b.pt"
    save(small, source)
    if alias == "symlink":
        target.symlink_to(source)
    elif alias == "hard link":
        target.hardlink_to(source)
    else:
        target = source if alias == "itself" else folder / ".." / "out" / "a.pt"
    with pytest.raises(CheckpointError, match="the input itself"):
        check_target(target, source=source, force=True)


@pytest.mark.parametrize(
    ("target", "reason"),
    [("", "is a directory"), ("no/a.pt", "no directory"), ("file/a.pt", "no directory")],
)
def test_a_target_that_cannot_be_is_refused(folder: Path, target: str, reason: str) -> None:
    (folder / "file").touch()
    with pytest.raises(CheckpointError, match=reason):
        check_target(folder / target, force=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_read_only_folder_is_refused(folder: Path) -> None:
    folder.chmod(0o500)
    with pytest.raises(CheckpointError, match="no permission"):
        check_target(folder / "a.pt", force=False)


def test_a_target_beside_a_plain_name_is_in_the_working_folder(
    folder: Path, small: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    save(small, "a.pt")
    assert names(folder) == ["a.pt"]


def test_a_second_writer_is_refused_while_the_first_writes(
    folder: Path, small: dict[str, Any]
) -> None:
    def write_the_same(_: Path) -> None:
        with pytest.raises(CheckpointError, match="another process"):
            save({"model": {}}, folder / "a.pt", force=True)

    save(small, folder / "a.pt", check=write_the_same)
    assert load(folder / "a.pt")["cfg"] == small["cfg"]
    assert names(folder) == ["a.pt"]


def test_another_process_is_refused_too(folder: Path, small: dict[str, Any]) -> None:
    code = f"from fairseq_layerdrop.checkpoint import save; save({{}}, {str(folder / 'a.pt')!r})"

    def write_the_same(_: Path) -> None:
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert "another process is writing" in other.stderr

    save(small, folder / "a.pt", check=write_the_same)
    assert names(folder) == ["a.pt"]


def test_what_a_killed_process_left_is_overwritten(folder: Path, small: dict[str, Any]) -> None:
    code = f"""
import os, signal
from fairseq_layerdrop.checkpoint import save
content = {{"model": {{}}, "rest": "x" * 100000}}
save(content, {str(folder / "a.pt")!r}, check=lambda _: os.kill(os.getpid(), signal.SIGKILL))
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert names(folder) != []
    assert "a.pt" not in names(folder)
    save(small, folder / "a.pt")
    assert load(folder / "a.pt")["cfg"] == small["cfg"]
    assert names(folder) == ["a.pt"]


def test_a_full_disk_is_one_line_and_leaves_the_old_target_alone(
    tmp_path: Path, folder: Path
) -> None:
    source = write(tmp_path / "full.pt")
    (folder / "small.pt").write_bytes(b"old")

    def limit() -> (
        None
    ):  # Python ignores SIGXFSZ: writing beyond this fails as it does on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    command = [
        sys.executable,
        "-m",
        "fairseq_layerdrop.cli",
        "prune",
        source,
        folder / "small.pt",
        "--force",
    ]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "File too large" in done.stderr
    assert names(folder) == ["small.pt"]
    assert (folder / "small.pt").read_bytes() == b"old"
