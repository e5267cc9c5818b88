# SPDX-License-Identifier: MIT
"""``python -m fairseq_layerdrop.cli``: the command of a checkout that is not installed."""

import sys

from fairseq_layerdrop.cli import main

sys.exit(main())
