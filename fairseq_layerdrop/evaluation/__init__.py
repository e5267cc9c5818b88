# SPDX-License-Identifier: MIT
"""Scores, costs and searches on data; each result a row with the signature of its numbers."""
