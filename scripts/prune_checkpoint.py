# SPDX-License-Identifier: MIT
"""`prune` for a checkout that is not installed; needs torch and rich, not fairseq.

python scripts/prune_checkpoint.py full.pt small.pt --encoder-keep 0-11 --decoder-keep every:2
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fairseq_layerdrop.cli import main

if __name__ == "__main__":
    sys.exit(main(["prune", *sys.argv[1:]]))
