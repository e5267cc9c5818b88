# SPDX-License-Identifier: MIT
"""Importing transformers, which a broken torchaudio would stop."""

import importlib
import sys
from types import ModuleType


def transformers() -> ModuleType:
    """The library.

    It imports torchaudio where that is installed. fairseq brings torchaudio along, and one that
    was built for another torch cannot be loaded; nothing here needs it, so it is hidden then.

    Raises:
        ImportError: if transformers is not installed.
    """
    try:
        importlib.import_module("torchaudio")
    except (ImportError, OSError, RuntimeError):
        sys.modules["torchaudio"] = None  # type: ignore[assignment]
    return importlib.import_module("transformers")
