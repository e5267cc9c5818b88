# SPDX-License-Identifier: MIT
"""What goes wrong with files."""


class CheckpointError(ValueError):
    """A file that cannot be read as a checkpoint, or written as one; its message is one line for a
    person.
    """
