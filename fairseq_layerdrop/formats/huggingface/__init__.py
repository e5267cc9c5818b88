# SPDX-License-Identifier: MIT
"""Models of transformers: a class of the same form, its configuration and weights, a tokenizer with
fairseq's ids, and a comparison with fairseq before anything is handed over.
"""

from fairseq_layerdrop.formats.huggingface.export import Exported, Wishes, export
from fairseq_layerdrop.formats.huggingface.inputs import SENTENCES, Sentence
from fairseq_layerdrop.formats.huggingface.tokenizer import TextFiles

__all__ = ["SENTENCES", "Exported", "Sentence", "TextFiles", "Wishes", "export"]
