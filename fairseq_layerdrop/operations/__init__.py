# SPDX-License-Identifier: MIT
"""What a user asks for, as functions: options in, facts out. The Python API, and what the command
calls.

Each file is an operation; ``fairseq_layerdrop`` itself hands the functions on
(``fairseq_layerdrop.prune``).
"""
