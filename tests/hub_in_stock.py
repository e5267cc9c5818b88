# SPDX-License-Identifier: MIT
"""What stock ``from_pretrained`` makes of a checkpoint; runs where this package is not.

hub_in_stock.py translate|score CHECKPOINT SENTENCES OUT
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from fairseq.models.transformer import TransformerModel
from fairseq.models.transformer_lm import TransformerLanguageModel


def scores(hub: Any, sentence: str) -> list[float]:
    """Each token's log probability; ``hub.score`` fails on numpy 2, for any model."""
    tokens = hub.encode(sentence)
    (logits, _) = hub.models[0](torch.cat([tokens[-1:], tokens[:-1]])[None])
    found: list[float] = logits[0].log_softmax(-1).gather(1, tokens[:, None])[:, 0].tolist()
    return found


if __name__ == "__main__":
    verb, checkpoint, sentences, target = sys.argv[1], *map(Path, sys.argv[2:])
    lines = sentences.read_text().splitlines()
    if verb == "translate":
        hub = TransformerModel.from_pretrained(str(checkpoint.parent), checkpoint.name)
        found = hub.translate(lines, beam=5, max_len_a=0, max_len_b=12)
    else:
        hub = TransformerLanguageModel.from_pretrained(str(checkpoint.parent), checkpoint.name)
        found = [scores(hub, line) for line in lines]
    assert not any(name.startswith("fairseq_layerdrop") for name in sys.modules)
    target.write_text(json.dumps(found))
