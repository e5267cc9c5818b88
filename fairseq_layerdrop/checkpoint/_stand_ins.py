# SPDX-License-Identifier: MIT
"""Objects in old files, where plain data is today: stand-ins, and the data they held."""

import argparse
import os
import re
import struct
from collections.abc import Iterable, Mapping
from typing import Any

# What fairseq writes beside plain data: options in a Namespace (attributes, nothing that runs), and
# training statistics, which nobody needs afterwards: the arrays of --eval-bleu, the meters of 2019.
_STATISTICS = [
    *(f"numpy.{name}" for name in ("ndarray", "dtype")),
    *(f"numpy.{core}.multiarray._reconstruct" for core in ("core", "_core")),
    *(f"fairseq.meters.{name}" for name in ("AverageMeter", "StopwatchMeter", "TimeMeter")),
]
# Some files hold OmegaConf's objects, fairseq's enums or dictionaries; these libraries name them in
# their pickles.
_OF_LIBRARIES = re.compile(
    r"(fairseq|omegaconf|numpy|typing)\..*|collections\.defaultdict|builtins\.(dict|list|tuple|set|int|float|bool|str)"
)
_HARMLESS = re.compile(
    rf"torch\..*|collections\.OrderedDict|argparse\.Namespace|_codecs\.encode|{_OF_LIBRARIES.pattern}"
)
_INTERPOLATION = re.compile(r"\$\{([\w.]+)\}")


HOLDING = ("_content", "_val")
"""Where OmegaConf's containers and leaves hold what they hold."""


class StandIn:
    """Stands for an object of another library: it notes what it is given and does nothing."""

    args: tuple[Any, ...] = ()
    state: Any = None

    def __init__(self, *args: Any) -> None:
        self.args = args

    def __setstate__(self, state: Any) -> None:
        self.state = state


_NUMBERS = {"b1": "?", "f2": "e", "f4": "f", "f8": "d"} | {
    f"{sign}{size}": code.upper() if sign == "u" else code
    for sign in "iu"
    for size, code in ((1, "b"), (2, "h"), (4, "i"), (8, "q"))
}
"""numpy's names of its numbers, and what the module struct calls them."""


def number(kind: StandIn, content: Any = b"") -> Any:
    """A number of numpy's as one of Python's."""
    code = _NUMBERS.get(str(kind.args[0])) if kind.args else None
    if code is None or not isinstance(content, bytes) or not isinstance(kind.state, tuple):
        return StandIn(kind, content)
    order = ">" if kind.state[1] == ">" else "<"
    return struct.unpack(order + code, content)[0]


def path(*parts: str) -> str:
    """A path of pathlib's as text."""
    return os.path.join(*parts) if parts else "."


KNOWN: list[Any] = [
    argparse.Namespace,
    *((StandIn, name) for name in _STATISTICS),
    (set, "builtins.frozenset"),
    *((number, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *(
        (path, f"{module}.{kind}Path")
        for module in ("pathlib", "pathlib._local")
        for kind in ("", "Pure", "Posix", "PurePosix")
    ),
]
"""What every file may hold."""


def stand_ins(names: Iterable[str]) -> list[Any]:
    """Stand-ins for the objects that a file names, as far as they are of libraries we know.

    What every file may hold is left out: torch keeps what is allowed as a set, and of two things by
    one name it takes either.
    """
    known = {entry[1] for entry in KNOWN if isinstance(entry, tuple)}
    others = set(names) - known
    return [(StandIn, name) for name in others if _OF_LIBRARIES.fullmatch(name)]


def foreign(names: Iterable[str]) -> list[str]:
    """Those of a file's objects that stand for code, or that nobody knows."""
    return sorted({name for name in names if not _HARMLESS.fullmatch(name)})


def to_plain(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The checkpoint with OmegaConf's objects as plain data; objects of other kinds stay."""
    checkpoint = {key: _content(value) for key, value in checkpoint.items()}
    checkpoint["cfg"] = _interpolate(checkpoint.get("cfg"), checkpoint.get("cfg"))
    return checkpoint


def _content(value: Any) -> Any:
    if isinstance(value, StandIn):
        state = value.state if isinstance(value.state, dict) else {}
        for held in HOLDING:
            if held in state:
                return _content(state[held])
        (only,) = value.args if len(value.args) == 1 else (None,)
        is_enum = isinstance(only, (str, int)) and value.state is None
        return only if is_enum else value  # an enum is written as its value
    if isinstance(value, argparse.Namespace):
        return argparse.Namespace(**_content(vars(value)))
    if isinstance(value, dict):
        return {key: _content(item) for key, item in value.items()}
    return type(value)(map(_content, value)) if isinstance(value, (list, tuple)) else value


def _interpolate(value: Any, root: Any) -> Any:
    """OmegaConf's ``${common.seed}`` stands for the value of another key, counted from the root.

    Other references stay as they are: OmegaConf resolves them when fairseq reads the file.
    """
    if isinstance(value, Mapping):
        return {key: _interpolate(item, root) for key, item in value.items()}
    if isinstance(value, list):
        return [_interpolate(item, root) for item in value]
    reference = _INTERPOLATION.fullmatch(value) if isinstance(value, str) else None
    if not reference:
        return value
    target = root
    for key in reference[1].split("."):
        if not isinstance(target, Mapping) or key not in target:
            return value
        target = target[key]
    return target
