# SPDX-License-Identifier: MIT
"""constraints.txt is an environment that works: all that it pins is there and can be imported."""

import json
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from importlib.util import find_spec
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
IMPORT_ALL = """
import importlib, json, sys
import torch  # first: fairseq's compiled parts need its libraries
failed = {}
for name in json.load(sys.stdin):
    try:
        importlib.import_module(name)
    except BaseException as error:
        failed[name] = f"{type(error).__name__}: {error}"
print(json.dumps(failed))
"""


def normalized(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned() -> dict[str, str]:
    """Each package in constraints.txt with its version."""
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {normalized(name): number for name, number in pins}


def installed(name: str) -> str:
    """The version of a package in this environment, without torch's ``+cpu``."""
    try:
        return version(name).partition("+")[0]
    except PackageNotFoundError:
        return "none"


def modules() -> dict[str, list[str]]:
    """The modules that each installed package has at its top."""
    found: dict[str, list[str]] = {}
    for module, packages in packages_distributions().items():
        for package in packages:
            if module.isidentifier():
                found.setdefault(normalized(package), []).append(module)
    return found


def run(code: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run some lines of Python in a process of their own."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)


def test_every_pinned_package_is_there_in_its_version() -> None:
    assert {name: installed(name) for name in pinned()} == pinned()


def test_every_pinned_package_can_be_imported() -> None:
    found = modules()
    names = {name: found.get(name, []) for name in pinned()}
    assert [name for name, has in names.items() if not has] == []
    done = run(IMPORT_ALL, json.dumps(sorted({name for has in names.values() for name in has})))
    assert json.loads(done.stdout.splitlines()[-1]) == {}, done.stderr


@pytest.mark.slow
def test_transformers_gives_its_models_because_torchaudio_is_absent_or_works() -> None:
    audio = "" if find_spec("torchaudio") is None else "import torchaudio\n"
    done = run(f"{audio}from transformers import PreTrainedModel")
    assert done.returncode == 0, done.stderr
