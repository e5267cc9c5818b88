# SPDX-License-Identifier: MIT
"""What a user asks for, as functions: the Python API, which the command calls, too.

Each file is an operation; ``fairseq_layerdrop`` itself hands the functions on
(``fairseq_layerdrop.prune``).
"""
