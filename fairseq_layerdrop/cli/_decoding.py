# SPDX-License-Identifier: MIT
"""The flags of verbs that generate text, named as in fairseq-generate."""

from argparse import ArgumentParser

from fairseq_layerdrop.operations._choices import METRICS


def add_decoding(parser: ArgumentParser, *, metrics: str) -> None:
    """Add flags for the metrics and for generation; references are the data's own by default."""
    parser.add_argument(
        "--metrics",
        default=metrics,
        help=f"of {', '.join(METRICS)}, separated by commas; loss has accuracy along (default: "
        f"{metrics})",
    )
    parser.add_argument(
        "--beam", metavar="N", type=int, default=5, help="hypotheses that are followed (default: 5)"
    )
    parser.add_argument(
        "--lenpen", metavar="X", type=float, default=1.0, help="length penalty (default: 1)"
    )
    parser.add_argument(
        "--max-len-a", metavar="X", type=float, default=0, help="see --max-len-b (default: 0)"
    )
    parser.add_argument(
        "--max-len-b",
        metavar="N",
        type=int,
        default=200,
        help="at most a·source length + b tokens (default: 200)",
    )
    parser.add_argument(
        "--remove-bpe", metavar="HOW", help="how pieces become words: sentencepiece, '@@ ', …"
    )
