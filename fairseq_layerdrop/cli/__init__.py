# SPDX-License-Identifier: MIT
"""The command: facts on stdout, progress on stderr; exit 0, or 2 and one line.

Each verb is a module with a ``SUMMARY``, an ``EXAMPLE``, ``add_arguments(parser)`` and
``run(args)``; what takes long to import (torch, matplotlib) is imported when a verb runs.
"""

import argparse
import sys
from typing import NoReturn

import fairseq_layerdrop
from fairseq_layerdrop.cli import (
    average,
    export,
    heal,
    importance,
    inspect,
    prune,
    report,
    search,
    sweep,
    user_dir,
    zoo,
)
from fairseq_layerdrop.cli._text import as_flags

VERBS = {
    "user-dir": user_dir,
    "inspect": inspect,
    "prune": prune,
    "average": average,
    "importance": importance,
    "search": search,
    "sweep": sweep,
    "zoo": zoo,
    "heal": heal,
    "report": report,
    "export": export,
}


class _Parser(argparse.ArgumentParser):
    """argparse, but a mistake is one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def main(argv: list[str] | None = None) -> int:
    """Run the command; a mistake of the user's is one line on stderr and exit status 2."""
    arguments = sys.argv[1:] if argv is None else argv
    own, passed_on = split(arguments)
    args = _parser().parse_args(own)
    args.command = ["fairseq-layerdrop", *arguments]
    args.passed_on = passed_on
    try:
        VERBS[args.verb].run(args)
    except OSError as error:
        return _fail(args.verb, f"{error.filename or ''}: {error.strerror or error}".lstrip(": "))
    except ValueError as error:
        return _fail(args.verb, as_flags(str(error), args))
    except KeyboardInterrupt:
        _fail(args.verb, "interrupted")
        return 130
    return 0


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The command's own arguments, and those behind ``--``, which ``heal`` passes on."""
    if arguments[:1] != ["heal"] or "--" not in arguments:
        return arguments, []
    end = arguments.index("--")
    return arguments[:end], arguments[end + 1 :]


def _fail(verb: str, message: str) -> int:
    print(f"fairseq-layerdrop {verb}: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="fairseq-layerdrop", description="Train one Transformer, ship it at any depth."
    )
    parser.add_argument("--version", action="version", version=fairseq_layerdrop.__version__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, verb in VERBS.items():
        sub = verbs.add_parser(
            name, help=verb.SUMMARY, description=verb.SUMMARY, epilog=f"example: {verb.EXAMPLE}"
        )
        verb.add_arguments(sub)
    return parser
