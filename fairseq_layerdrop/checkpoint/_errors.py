# SPDX-License-Identifier: MIT
"""What goes wrong with files."""


class CheckpointError(ValueError):
    """A file that cannot be read or written as a checkpoint; the message is one line."""
