# SPDX-License-Identifier: MIT
"""``fairseq-layerdrop user-dir``: where fairseq finds this package."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

import fairseq_layerdrop

SUMMARY = "print the folder for fairseq's --user-dir"
EXAMPLE = (
    'fairseq-train DATA --user-dir "$(fairseq-layerdrop user-dir)" --arch layerdrop_transformer …'
)


def add_arguments(_: ArgumentParser) -> None:
    """The verb has none."""


def run(_: Namespace) -> None:
    """Run the verb."""
    print(Path(fairseq_layerdrop.__file__).parent)
