# SPDX-License-Identifier: MIT
"""Stock checkpoints in the forms of other programs: CTranslate2's models, safetensors."""

import importlib
import re

FILES = re.compile(
    r"model\.(bin|safetensors)|config\.json|((source|target|shared)_)?vocabulary\.json|([^/]+/)?dict[^/]*\.txt"
)
"""What an export writes, by its path in the folder."""


def check_installed(library: str) -> None:
    """Refuse to begin without a library that is not installed with the package.

    Raises:
        ValueError: saying what installs it.
    """
    try:
        importlib.import_module(library)
    except ImportError:
        raise ValueError(
            f"to={library} needs {library}: pip install 'fairseq-layerdrop[export]'"
        ) from None
