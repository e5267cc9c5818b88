# SPDX-License-Identifier: MIT
"""What Python calls arguments, the command calls flags."""

from argparse import Namespace

import pytest

from fairseq_layerdrop.cli._text import as_flags

ARGS = Namespace(target_params=None, force=False, to="", copy_dicts=None, device="cpu")


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (
            "strategy= goes with target_params=; name it",
            "strategy= goes with --target-params; name it",
        ),
        ("replace it with force=True", "replace it with --force"),
        ("to=ctranslate2 needs it", "--to ctranslate2 needs it"),
        ("copy_dicts=DATA puts it there", "--copy-dicts DATA puts it there"),
        ("target_params=: too small, got 1", "--target-params: too small, got 1"),
        ("the file a=b.pt", "the file a=b.pt"),
    ],
)
def test_arguments_that_a_verb_has_are_named_as_its_flags(message: str, said: str) -> None:
    assert as_flags(message, ARGS) == said
