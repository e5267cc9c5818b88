# SPDX-License-Identifier: MIT
"""A model of transformers, written with its own library and read again, strictly."""

from pathlib import Path
from typing import Any

from fairseq_layerdrop.formats.huggingface.library import transformers
from fairseq_layerdrop.formats.huggingface.source import Target


def write(target: Target, folder: Path) -> Any:
    """Write a model's configuration and weights, and read them again.

    Returns:
        the model that was read, in evaluation.

    Raises:
        ValueError: if a weight is missing, too many or of another shape, before or after writing.
    """
    library = transformers()
    library.utils.logging.set_verbosity_error()
    library.utils.logging.disable_progress_bar()
    model_class = getattr(library, target.architecture)
    model = model_class(model_class.config_class(**target.config))
    try:
        model.load_state_dict(target.state, strict=True)
    except RuntimeError as error:
        what = "; ".join(line.strip() for line in str(error).splitlines()[1:3])
        raise ValueError(f"the weights do not fit {target.architecture}: {what}") from error
    if target.generation is not None:
        model.generation_config = library.GenerationConfig(**target.generation)
    model.save_pretrained(folder)
    read, found = model_class.from_pretrained(folder, output_loading_info=True)
    if wrong := sorted({str(name) for names in found.values() for name in names}):
        raise ValueError(f"what was written does not load: {', '.join(wrong)}")
    return read.requires_grad_(False).eval()
