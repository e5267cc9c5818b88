# SPDX-License-Identifier: MIT
"""The rooms of the package and who may import whom (DESIGN, section 3), read off the source."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import fairseq_layerdrop

PACKAGE = Path(fairseq_layerdrop.__file__).parent
REPOSITORY = PACKAGE.parent
FILES = sorted(path for path in PACKAGE.rglob("*.py"))

# A room imports only rooms of a lower floor: never a higher one, and never its siblings.
FLOORS = {
    "pruning": 0,
    "modules": 0,
    "distributed": 0,
    "compatibility": 0,
    "reporting": 0,
    "models": 1,
    "tasks": 1,
    "criterions": 1,
    "checkpoint": 2,
    "formats": 3,
    "evaluation": 3,
    "operations": 4,
    "cli": 5,
}
FOR_REGISTRATION = {("tasks/__init__.py", "criterions")}

# What else a room may import, beside Python's own library; heavy things belong to few.
FAIRSEQ = {"fairseq", "hydra", "omegaconf", "numpy", "torch"}
LIBRARIES = {
    "": set(),
    "pruning": {"torch"},
    "modules": {"torch"},
    "distributed": {"torch", "fairseq"},
    "compatibility": {"torch", "fairseq", "numpy"},
    "models": FAIRSEQ,
    "tasks": FAIRSEQ,
    "criterions": FAIRSEQ,
    "checkpoint": {"torch"},
    "formats": {
        *("torch", "fairseq", "ctranslate2", "safetensors"),
        *("google", "sentencepiece", "tokenizers"),  # transformers is imported by name
    },
    "reporting": {"matplotlib"},
    "evaluation": FAIRSEQ | {"optuna", "rouge_score", "sacrebleu"},
    "operations": set(),
    "cli": {"rich"},
}


class Import(NamedTuple):
    """An imported module, by its full name, and whether it is imported with the file."""

    name: str
    at_once: bool


def is_for_types(node: ast.AST) -> bool:
    """Whether a node is ``if TYPE_CHECKING:``, which is never run."""
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imports(path: Path) -> Iterator[Import]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inner = {
        id(n)
        for f in ast.walk(tree)
        if isinstance(f, (ast.FunctionDef, ast.Lambda)) or is_for_types(f)
        for n in ast.walk(f)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports here are absolute"
            # `from fairseq_layerdrop import checkpoint` imports a room, not the package alone
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (Import(name, id(node) not in inner) for name in names)


def room(path: Path) -> str:
    """The room that a file belongs to; the package's own ``__init__`` belongs to none."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return "" if parts == ("__init__",) else parts[0]


def ours(path: Path) -> set[str]:
    """The rooms that a file imports, its own left out."""
    names = [found.name.split(".") for found in imports(path)]
    rooms = {parts[1] for parts in names if parts[0] == PACKAGE.name and len(parts) > 1}
    return {name for name in rooms if not name.startswith("__")} - {room(path)}


def label(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def test_every_file_has_a_room() -> None:
    assert {room(path) for path in FILES} <= {"", *FLOORS}


@pytest.mark.parametrize("path", FILES, ids=label)
def test_a_room_imports_only_lower_ones(path: Path) -> None:
    if not room(path):
        return  # register() imports what it registers
    allowed = {name for name, floor in FLOORS.items() if floor < FLOORS[room(path)]}
    allowed |= {name for file, name in FOR_REGISTRATION if file == label(path)}
    assert ours(path) <= allowed


def test_the_package_itself_imports_only_typing_at_once() -> None:
    found = [found.name for found in imports(PACKAGE / "__init__.py") if found.at_once]
    assert {name.partition(".")[0] for name in found} == {"typing"}


def arrows(diagram: str) -> dict[str, set[str]]:
    """The arrows of a diagram in Mermaid: ``a & b["what it is"] --> c`` are two, to ``c``."""
    found: dict[str, set[str]] = {}
    for line in re.sub(r"\[.*?\]|\|.*?\|", "", diagram).splitlines():
        tails, arrow, heads = line.partition("-->")
        for tail in tails.split("&") if arrow else ():
            found.setdefault(tail.strip(), set()).update(head.strip() for head in heads.split("&"))
    return found


def reached(room: str, graph: dict[str, set[str]]) -> set[str]:
    """The rooms that arrows lead to from a room."""
    next_ = graph.get(room, set())
    return next_.union(*(reached(other, graph) for other in next_))


def test_the_diagram_in_the_documentation_is_what_the_imports_say() -> None:
    page = (REPOSITORY / "docs" / "code.md").read_text(encoding="utf-8")
    drawn = arrows(page.partition("```mermaid\n")[2].partition("```")[0])
    found: dict[str, set[str]] = {}
    for path in FILES:
        if room(path):
            found.setdefault(room(path), set()).update(ours(path))
    assert drawn.keys() <= found.keys()
    for name, imported in found.items():
        assert drawn.get(name, set()) <= imported <= reached(name, drawn)


@pytest.mark.parametrize("path", FILES, ids=label)
def test_a_room_uses_only_its_libraries(path: Path) -> None:
    foreign = (
        {found.name.partition(".")[0] for found in imports(path)}
        - sys.stdlib_module_names
        - {PACKAGE.name}
    )
    assert foreign <= LIBRARIES[room(path)]


@pytest.mark.parametrize("path", [path for path in FILES if room(path) != "checkpoint"], ids=label)
def test_only_checkpoint_reads_and_writes_files_of_torch(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    used = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    used |= {found.name for found in imports(path)}
    assert (
        used & {"torch.load", "torch.save", "torch.serialization.load", "torch.serialization.save"}
        == set()
    )


@pytest.mark.parametrize("path", FILES, ids=label)
def test_a_file_can_be_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300


def test_no_two_test_files_have_one_name() -> None:
    """pytest imports them by their names, and could not collect both."""
    names = [path.name for path in (REPOSITORY / "tests").rglob("*.py")]
    assert sorted(names) == sorted(set(names))


def source_files() -> list[Path]:
    folders = [
        folder
        for folder in REPOSITORY.iterdir()
        if folder.is_dir() and not folder.name.startswith(".")
    ]
    folders = [folder for folder in folders if folder.name not in ("build", "runs")]
    return [
        path
        for suffix in ("py", "sh")
        for path in (
            *REPOSITORY.glob(f"*.{suffix}"),
            *(p for folder in folders for p in folder.rglob(f"*.{suffix}")),
        )
    ]


def test_every_source_file_names_its_licence() -> None:
    def has_licence(path: Path) -> bool:
        lines = path.read_text(encoding="utf-8").splitlines()[:2]
        return any(line.startswith("# SPDX-License-Identifier: MIT") for line in lines)

    files = source_files()
    assert len(files) > len(FILES)
    assert [str(path.relative_to(REPOSITORY)) for path in files if not has_licence(path)] == []


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("fairseq_layerdrop", {"torch", "fairseq", "numpy", "omegaconf"}),
        ("fairseq_layerdrop.cli", {"torch", "fairseq", "numpy", "omegaconf"}),
        (
            "fairseq_layerdrop.checkpoint, fairseq_layerdrop.pruning, fairseq_layerdrop.modules",
            {"fairseq", "omegaconf", "torch._dynamo"},
        ),
        (
            "fairseq_layerdrop.operations.prune, fairseq_layerdrop.operations.average",
            {"fairseq", "omegaconf"},
        ),
        ("fairseq_layerdrop.reporting.report", {"torch", "fairseq", "numpy", "omegaconf"}),
    ],
)
def test_an_import_brings_no_more_than_it_needs(module: str, absent: set[str]) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert absent & set(done.stdout.split()) == set()
