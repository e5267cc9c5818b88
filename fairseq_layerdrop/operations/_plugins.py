# SPDX-License-Identifier: MIT
"""What ``fairseq-train`` is given for ``--user-dir``: this package, with people's own plugin."""

import os
from pathlib import Path

import fairseq_layerdrop

OURS = Path(fairseq_layerdrop.__file__).parent
_BOTH = """\
# --user-dir takes one plugin; this one imports two.
from argparse import Namespace

import fairseq_layerdrop
from fairseq.utils import import_user_module

fairseq_layerdrop.register()
import_user_module(Namespace(user_dir={theirs!r}))
"""


def user_dir_for_training(folder: Path, theirs: str | None) -> Path:
    """The folder of the plugin: this package's own, or one in ``folder`` that is made for both."""
    if theirs is None or Path(theirs).resolve() == OURS.resolve():
        return OURS
    both = folder / "layerdrop_and_plugin"
    both.mkdir(parents=True, exist_ok=True)
    (both / "__init__.py").write_text(_BOTH.format(theirs=os.path.abspath(theirs)))
    return both
