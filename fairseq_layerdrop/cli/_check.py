# SPDX-License-Identifier: MIT
"""The flags of the verbs that write checkpoints and check them."""

from argparse import ArgumentParser, _ArgumentGroup

from fairseq_layerdrop.operations._choices import CHECKS


def add_check(parser: ArgumentParser | _ArgumentGroup) -> None:
    """How what is written is checked."""
    parser.add_argument(
        "--check",
        choices=CHECKS,
        default="auto",
        help="of what is written, before it takes its name. tensors: each is compared with the "
        "input's; load: fairseq builds the model and its outputs are compared, too; auto: load, "
        "but for families whose every option is known (default: auto)",
    )


def add_user_dir(parser: ArgumentParser | _ArgumentGroup) -> None:
    """The plugin that a model, a task or a criterion is of."""
    parser.add_argument(
        "--user-dir",
        metavar="DIR",
        help="the plugin that the model, its task or its criterion needs; its code is run",
    )
