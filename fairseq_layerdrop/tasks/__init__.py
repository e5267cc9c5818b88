# SPDX-License-Identifier: MIT
"""Registration of the tasks: fairseq's own, with depth on demand."""
