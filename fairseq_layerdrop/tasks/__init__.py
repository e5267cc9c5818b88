# SPDX-License-Identifier: MIT
"""Registers the tasks, fairseq's with depth on demand, and the criterions."""

import fairseq_layerdrop.criterions.layerdrop_distill  # noqa: F401
