#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# The mean of the last ten epochs, as in the paper.
#   scripts/wmt16_en_de/3_average.sh 6_6|12_6 [WORK]
set -euo pipefail
SIZE=${1:?6_6 or 12_6}
WORK=${2:-runs/wmt16_en_de}

fairseq-layerdrop average "$WORK/$SIZE" "$WORK/$SIZE/average.pt" --num-epoch-checkpoints 10 --force
