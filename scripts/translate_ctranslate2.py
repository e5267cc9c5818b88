# SPDX-License-Identifier: MIT
"""Translate standard input, line by line, with a model exported to CTranslate2.

    python scripts/translate_ctranslate2.py MODEL SENTENCEPIECE < TEXT > TRANSLATIONS

SENTENCEPIECE is the file (.model) that split the training text into pieces. The settings are those
at which CTranslate2 searches as fairseq-generate does.
"""

import argparse
import sys
from collections.abc import Iterator
from typing import Any

import ctranslate2
from sentencepiece import SentencePieceProcessor

MAX_LENGTH = 200
"""What fairseq-generate has for --max-len-b."""


def translate(translator: Any, pieces: Any, args: argparse.Namespace) -> Iterator[str]:
    """The translation of each line of standard input, as soon as its batch is done."""
    sources = (pieces.encode(line.rstrip("\n"), out_type=str) for line in sys.stdin)
    settings = {
        "beam_size": args.beam,
        "length_penalty": args.lenpen,
        "max_decoding_length": MAX_LENGTH,
    }
    results = translator.translate_iterable(
        sources, max_batch_size=args.batch_size, max_input_length=0, **settings
    )
    for result in results:
        yield pieces.decode(result.hypotheses[0])


def main() -> None:
    """Read the flags and translate."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "model", metavar="MODEL", help="a folder that `export --to ctranslate2` wrote"
    )
    parser.add_argument("pieces", metavar="SENTENCEPIECE", help="a sentencepiece model (.model)")
    parser.add_argument(
        "--beam", metavar="N", type=int, default=5, help="hypotheses that are followed (default: 5)"
    )
    parser.add_argument(
        "--lenpen", metavar="X", type=float, default=1.0, help="length penalty (default: 1)"
    )
    parser.add_argument(
        "--batch-size", metavar="N", type=int, default=64, help="sentences (default: 64)"
    )
    parser.add_argument(
        "--threads", metavar="N", type=int, default=0, help="of the CPU (default: CTranslate2's)"
    )
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    args = parser.parse_args()
    try:
        translator = ctranslate2.Translator(
            args.model, device=args.device, intra_threads=args.threads
        )
        pieces = SentencePieceProcessor(model_file=args.pieces)
    except (RuntimeError, ValueError, OSError) as error:
        sys.exit(f"translate_ctranslate2: {error}")
    for text in translate(translator, pieces, args):
        print(text, flush=True)


if __name__ == "__main__":
    main()
