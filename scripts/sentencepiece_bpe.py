# SPDX-License-Identifier: MIT
"""Train and apply a sentencepiece BPE: the `sentencepiece` package brings no programs of its own.

python scripts/sentencepiece_bpe.py train MODEL_PREFIX VOCAB_SIZE TEXT...
python scripts/sentencepiece_bpe.py encode MODEL_PREFIX < TEXT > PIECES
"""

import sys

import sentencepiece


def train(prefix: str, vocab_size: str, *texts: str) -> None:
    """Learn one vocabulary over all texts; fairseq adds its own special symbols."""
    sentencepiece.SentencePieceTrainer.train(
        input=list(texts),
        model_prefix=prefix,
        vocab_size=int(vocab_size),
        model_type="bpe",
        character_coverage=1.0,
        minloglevel=1,
    )


def encode(prefix: str) -> None:
    """Split standard input into pieces, line by line."""
    processor = sentencepiece.SentencePieceProcessor(model_file=f"{prefix}.model")
    for line in sys.stdin:
        print(" ".join(processor.encode(line.rstrip("\n"), out_type=str)))


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1] not in ("train", "encode"):
        sys.exit(__doc__)
    {"train": train, "encode": encode}[sys.argv[1]](*sys.argv[2:])
