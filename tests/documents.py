# SPDX-License-Identifier: MIT
"""The documents as tests read them: their commands, flags, links and headings."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from fairseq_programs import REPOSITORY, USER_DIR
from recipes import PARSED

PAGES = sorted(
    (
        *(
            REPOSITORY / name
            for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
        ),
        *(REPOSITORY / "docs").rglob("*.md"),
        *(REPOSITORY / "results").rglob("*.md"),
    )
)
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.S | re.M)
_INLINE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_PROGRAM = re.compile(
    r"(\w+=\S+ )*((sbatch )?scripts/\S+\.sh|python (-m "
    r")?(benchmarks|scripts)\S+|torchrun|fairseq-\S+)( |$)"
)
OTHERS = ("echo", "fairseq-hydra-train", "torchrun", "python", "sbatch")
"""Programs of documented commands, beside those whose parsers fairseq and this package have."""


def name(page: Path) -> str:
    """A page's name in this repository."""
    return page.relative_to(REPOSITORY).as_posix()


def text(page: Path) -> str:
    """What is on a page."""
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return [block for found, block in _FENCE.findall(text(page)) if found == language]


def spans(page: Path) -> list[str]:
    """What stands as code in running text, each on one line."""
    return [" ".join(span.split()) for span in _INLINE.findall(_FENCE.sub("", text(page)))]


def commands(page: Path) -> Iterator[list[str]]:
    """The commands on a page, in words: in blocks, in indented lines, and in running text.

    What is cut by an ellipsis is none, nor is a program's name alone.
    """
    prose = _FENCE.sub("", text(page))
    indented = re.sub(
        r"\\\n\s*",
        "",
        "\n".join(line[4:] for line in prose.splitlines() if line.startswith("    ")),
    )
    lines = [line for line in indented.splitlines() if _PROGRAM.match(line)]
    lines += [
        span for span in spans(page) if _PROGRAM.match(span) and " " in span and "…" not in span
    ]
    for block in blocks(page, "bash"):
        lines += block.replace("\\\n", " ").splitlines()
    for line in lines:
        for part in line.replace('"$(fairseq-layerdrop user-dir)"', str(USER_DIR)).split(" | "):
            words = shlex.split(re.sub(r" [<>] \S+", "", part), comments=True)
            if words := words[
                next(
                    (i for i, word in enumerate(words) if not re.match(r"\w+=", word)), len(words)
                ) :
            ]:
                yield words


def is_known(program: str) -> bool:
    """Whether the tests have a parser for a command, or something like it."""
    return program in (*PARSED, *OTHERS) or (
        program.startswith("scripts/") and program.endswith(".sh")
    )


def flags(page: Path) -> set[str]:
    """Every flag that a page names as code, but for those of whole commands."""
    parts = [span for span in spans(page) if not _PROGRAM.match(span)]
    return {flag for span in parts for flag in re.findall(r"(?<!\S)--[a-z][\w-]+", span)}


def links(page: Path) -> list[str]:
    """Where the page's links lead, but for those into the network."""
    prose = re.sub(r"`[^`\n]*`", "", _FENCE.sub("", text(page)))
    return [
        target
        for target in re.findall(r"\]\(([^)\s]+)\)", prose)
        if not target.startswith(("http:", "https:"))
    ]


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub names them in links."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", text(page)), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
