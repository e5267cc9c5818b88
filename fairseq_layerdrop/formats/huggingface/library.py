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
        # fairseq's own import of transformers may have asked, and been told that it is there.
        known = importlib.import_module("transformers.utils.import_utils")
        known.is_torchaudio_available.cache_clear()
    return importlib.import_module("transformers")
