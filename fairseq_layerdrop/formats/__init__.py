# SPDX-License-Identifier: MIT
"""Stock checkpoints in the forms of other programs: models of transformers and of CTranslate2,
safetensors.
"""

import importlib
import re

FILES = re.compile(
    r"model(-\d+-of-\d+)?\.(bin|safetensors)|model\.safetensors\.index\.json"
    r"|((generation|preprocessor)_)?config\.json|README\.md"
    r"|((source|target|shared)_)?vocabulary\.json|([^/]+/)?dict[^/]*\.txt"
    r"|(target/)?(tokenizer|tokenizer_config|special_tokens_map)\.json"
    r"|vocab(-src|-tgt)?\.json|merges\.txt"
)
"""What an export writes, by its path in the folder."""


_NEEDED = {
    "ctranslate2": ("export", "ctranslate2"),
    "huggingface": ("huggingface", "transformers"),
    "safetensors": ("export", "safetensors"),
}
"""For each form the package's extra and the library that is loaded."""


def check_installed(form: str) -> None:
    """Refuse to begin without a library that is not installed with the package.

    Raises:
        ValueError: saying what installs it.
    """
    extra, library = _NEEDED[form]
    try:
        importlib.import_module(library)
    except ImportError:
        raise ValueError(
            f"to={form} needs {library}: pip install 'fairseq-layerdrop[{extra}]'"
        ) from None
