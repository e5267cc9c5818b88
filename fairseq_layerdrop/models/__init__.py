# SPDX-License-Identifier: MIT
"""Registers the models: ``--user-dir`` imports this package, then each file without a ``_``."""

from fairseq_layerdrop import compatibility, distributed

distributed.patch_launchers()
compatibility.accept_linked_user_dir()
compatibility.allow_checkpoint_objects()
