# SPDX-License-Identifier: MIT
"""Every architecture that fairseq has registered: cut and equal, refused in a sentence, or none
that fairseq itself builds or runs. What came out is the second table of docs/families.md.

``pytest -m slow tests/test_registry.py --write-docs`` builds them all and writes the table anew.
"""

import re
from pathlib import Path

import numpy
import pytest
from fairseq.models import ARCH_MODEL_NAME_REGISTRY
from fairseq_programs import REPOSITORY
from registry import CANNOT_RUN, outcome
from repeats import mostly_slow

import fairseq_layerdrop

fairseq_layerdrop.register()

DOCUMENT = REPOSITORY / "docs" / "families.md"
BEGIN, END = "<!-- made by tests/test_registry.py -->\n", "<!-- end of the registry -->"
ARCHITECTURES = [arch for arch in ARCH_MODEL_NAME_REGISTRY if not arch.startswith("layerdrop_")]
OUTCOME = re.compile(
    f"cut and equal|refused: .+|{CANNOT_RUN}: .+|fairseq itself cannot build it: .+"
)
REPRESENTATIVES = [
    *("transformer_iwslt_de_en", "lightconv", "levenshtein_transformer", "xmod_base_13"),
    *("s2t_conformer", "wav2vec_seq2seq", "lstm", "fconv", "nacrf_transformer", "dummy_model"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("registry")


def told() -> dict[str, str]:
    """What the document says of each architecture."""
    table = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    rows = [row.strip("| ").split(" | ") for row in table.splitlines()[2:]]
    return {arch: row[2] for row in rows for arch in re.findall(r"`(\w+)`", row[1])}


def table(outcomes: dict[str, str]) -> str:
    """The outcomes as Markdown: a row a model and outcome."""
    rows: dict[tuple[str, str], list[str]] = {}
    for arch, found in outcomes.items():
        rows.setdefault((ARCH_MODEL_NAME_REGISTRY[arch], found), []).append(f"`{arch}`")
    lines = ["| model | architectures | outcome |", "| --- | --- | --- |"]
    for (model, found), archs in rows.items():
        lines.append(f"| {model} | {', '.join(archs)} | {found} |")
    return "".join(f"{line}\n" for line in lines)


def without_paths(found: str, folder: Path) -> str:
    """An outcome as a document can tell it."""
    found = re.sub(r"(/[\w.-]+)+/(?=[\w.-]+)", "", found.replace(f"{folder}/", ""))
    return found.replace("|", "/").rstrip(": ")


def test_the_document_tells_of_every_architecture() -> None:
    outcomes = told()
    assert sorted(outcomes) == sorted(ARCHITECTURES)
    assert [arch for arch, found in outcomes.items() if not OUTCOME.fullmatch(found)] == []


@pytest.mark.parametrize(
    "arch", mostly_slow(REPRESENTATIVES, "transformer_iwslt_de_en", "s2t_conformer", "lstm")
)
def test_what_the_document_tells_is_so(arch: str, folder: Path) -> None:
    assert without_paths(outcome(arch, folder), folder) == told()[arch]


def test_what_numpy_2_stops_is_cut_and_equal_with_the_name_that_it_took_away(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numpy, "float", float, raising=False)
    assert outcome("nacrf_transformer", folder) == "cut and equal"


@pytest.mark.slow
def test_every_architecture(folder: Path, request: pytest.FixtureRequest) -> None:
    found = {arch: without_paths(outcome(arch, folder), folder) for arch in ARCHITECTURES}
    assert {arch: text for arch, text in found.items() if not OUTCOME.fullmatch(text)} == {}
    head, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
    old, mark, tail = rest.partition(END)
    if request.config.getoption("--write-docs"):
        text = f"{head}{BEGIN}{table(found)}{mark or END}{tail}"
        DOCUMENT.write_text(text, encoding="utf-8")
    else:
        assert old == table(found), "run pytest -m slow tests/test_registry.py --write-docs"
