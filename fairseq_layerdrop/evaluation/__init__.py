# SPDX-License-Identifier: MIT
"""Results as rows: one JSON object a line, each with the signature of everything that its numbers
depend on.
"""
