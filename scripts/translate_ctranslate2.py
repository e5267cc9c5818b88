# SPDX-License-Identifier: MIT
"""Translate standard input, line by line, with a model exported to CTranslate2.

    python scripts/translate_ctranslate2.py MODEL SENTENCEPIECE < TEXT > TRANSLATIONS
    python scripts/translate_ctranslate2.py MODEL --bpe-codes CODES --moses en de < TEXT
    python scripts/translate_ctranslate2.py MODEL SENTENCEPIECE \\
        --source '__en__ PIECES' --prefix __de__ < TEXT

SENTENCEPIECE is the file (.model) that split the training text into pieces, CODES that of
subword-nmt. What a multilingual model needs is the last line that `export` prints. The settings are
those at which CTranslate2 searches as fairseq-generate does.
"""

import argparse
import itertools
import sys
from collections.abc import Iterator
from typing import Any

import ctranslate2

MAX_LENGTH = 200
"""What fairseq-generate has for --max-len-b."""
NOT_TEXT = {"<s>", "</s>"}


class SentencePieces:
    """Pieces of a sentencepiece model."""

    def __init__(self, file: str) -> None:
        from sentencepiece import SentencePieceProcessor

        self._processor = SentencePieceProcessor(model_file=file)

    def encode(self, text: str) -> list[str]:
        """The pieces of a line."""
        pieces: list[str] = self._processor.encode(text, out_type=str)
        return pieces

    def decode(self, pieces: list[str]) -> str:
        """The line of some pieces."""
        text: str = self._processor.decode(pieces)
        return text


class SubwordCodes:
    """Pieces of subword-nmt's codes, of text that Moses tokenized or that is tokenized already."""

    def __init__(self, file: str, languages: list[str] | None) -> None:
        from subword_nmt.apply_bpe import BPE

        with open(file, encoding="utf-8") as codes:
            self._codes = BPE(codes)
        self._moses = None
        if languages:
            from sacremoses import MosesDetokenizer, MosesTokenizer

            self._moses = MosesTokenizer(languages[0]), MosesDetokenizer(languages[1])

    def encode(self, text: str) -> list[str]:
        """The pieces of a line, as fairseq-interactive --tokenizer moses has them."""
        if self._moses:
            text = self._moses[0].tokenize(text, aggressive_dash_splits=True, return_str=True)
        pieces: list[str] = self._codes.process_line(text).split()
        return pieces

    def decode(self, pieces: list[str]) -> str:
        """The line of some pieces."""
        text = f"{' '.join(pieces)} ".replace("@@ ", "").rstrip()
        return self._moses[1].detokenize(text.split()) if self._moses else text


def translate(translator: Any, pieces: Any, args: argparse.Namespace) -> Iterator[str]:
    """The translation of each line of standard input, as soon as its batch is done."""
    before, _, after = (part.split() for part in args.source.partition("PIECES"))
    sources = ([*before, *pieces.encode(line.rstrip("\n")), *after] for line in sys.stdin)
    settings = {
        "beam_size": args.beam,
        "length_penalty": args.lenpen,
        "max_decoding_length": MAX_LENGTH,
    }
    prefix = args.prefix.split()
    if prefix:
        sources, again = itertools.tee(sources)
        settings["target_prefix"] = (prefix for _ in again)
    if args.end:
        settings["end_token"] = args.end
    results = translator.translate_iterable(
        sources, max_batch_size=args.batch_size, max_input_length=0, **settings
    )
    marks = NOT_TEXT.union(prefix)
    for result in results:
        yield pieces.decode([piece for piece in result.hypotheses[0] if piece not in marks])


def parse() -> argparse.Namespace:
    """Read the flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="a folder that `export --to ctranslate2` wrote")
    add("pieces", metavar="SENTENCEPIECE", nargs="?", help="a sentencepiece model (.model)")
    add("--bpe-codes", metavar="FILE", help="subword-nmt's codes, instead of SENTENCEPIECE")
    add(
        "--moses",
        nargs=2,
        metavar=("SOURCE", "TARGET"),
        help="with --bpe-codes: the languages (en de) of Moses' tokenizer; without it the text is "
        "tokenized, and so is the translation",
    )
    add("--source", metavar="WORDS", default="PIECES", help="what is read of each line's PIECES")
    add("--prefix", metavar="WORDS", default="", help="what each translation begins with")
    add("--end", metavar="WORD", help="what ends a translation (default: </s>)")
    add(
        "--beam", metavar="N", type=int, default=5, help="hypotheses that are followed (default: 5)"
    )
    add("--lenpen", metavar="X", type=float, default=1.0, help="length penalty (default: 1)")
    add("--batch-size", metavar="N", type=int, default=64, help="sentences (default: 64)")
    add("--threads", metavar="N", type=int, default=0, help="of the CPU (default: CTranslate2's)")
    add("--device", default="cpu", help="cpu (default) or cuda")
    args = parser.parse_args()
    if bool(args.pieces) == bool(args.bpe_codes):
        parser.error("name either SENTENCEPIECE or --bpe-codes")
    if args.moses and not args.bpe_codes:
        parser.error("--moses goes with --bpe-codes")
    if args.source.split().count("PIECES") != 1:
        parser.error(f"--source must have the word PIECES once, got {args.source!r}")
    return args


def main() -> None:
    """Read the flags and translate."""
    args = parse()
    try:
        pieces = (
            SentencePieces(args.pieces) if args.pieces else SubwordCodes(args.bpe_codes, args.moses)
        )
        translator = ctranslate2.Translator(
            args.model, device=args.device, intra_threads=args.threads
        )
    except (ImportError, RuntimeError, ValueError, OSError) as error:
        sys.exit(f"translate_ctranslate2: {error}")
    for text in translate(translator, pieces, args):
        print(text, flush=True)


if __name__ == "__main__":
    main()
