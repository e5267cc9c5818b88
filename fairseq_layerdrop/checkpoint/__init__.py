# SPDX-License-Identifier: MIT
"""The one door for checkpoint files: safe to read, atomic to write, cheap to identify.

Reading never executes a pickle. Tensors are mapped, not read: the optimizer's state of a training
checkpoint stays on disk. Writing goes to a temporary file beside the target, which takes the
target's name only when it is whole, on disk and checked.
"""

from fairseq_layerdrop.checkpoint._errors import CheckpointError
from fairseq_layerdrop.checkpoint._folder import alone_in, check_folder, new_folder
from fairseq_layerdrop.checkpoint._read import digest, file_format, load, reading_for_fairseq
from fairseq_layerdrop.checkpoint._source import naming_file, open_source
from fairseq_layerdrop.checkpoint._stand_ins import StandIn
from fairseq_layerdrop.checkpoint._write import check_target, save

__all__ = [
    "CheckpointError",
    "StandIn",
    "alone_in",
    "check_folder",
    "check_target",
    "digest",
    "file_format",
    "load",
    "naming_file",
    "new_folder",
    "open_source",
    "reading_for_fairseq",
    "save",
]
