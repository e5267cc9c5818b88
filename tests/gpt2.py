# SPDX-License-Identifier: MIT
"""GPT-2's files, of a text of one's own."""

import json
from pathlib import Path


def gpt2_files(folder: Path, lines: list[str]) -> tuple[Path, Path]:
    """Files as GPT-2 has them, of a small byte-pair encoding."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(lines, trainer)
    state = json.loads(made.to_str())["model"]
    encoder, merges = folder / "encoder.json", folder / "vocab.bpe"
    encoder.write_text(json.dumps(state["vocab"]))
    pairs = [" ".join(pair) if isinstance(pair, list) else pair for pair in state["merges"]]
    merges.write_text("#version: 0.2\n" + "\n".join(pairs) + "\n", encoding="utf-8")
    return encoder, merges
