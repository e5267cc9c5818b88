# SPDX-License-Identifier: MIT
"""Results as rows, one JSON object a line, and what draws them: tables, figures, the page."""
