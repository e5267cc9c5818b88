#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Prune the decoder, without fine-tuning: the paper's Every Other, and two more depths of its Figure 2.
#   scripts/wmt16_en_de/4_prune.sh 6_6|12_6 [WORK]
set -euo pipefail
SIZE=${1:?6_6 or 12_6}
WORK=${2:-runs/wmt16_en_de}

mkdir -p "$WORK/pruned"
for keep in all even:4 every:2 even:2; do
  fairseq-layerdrop prune "$WORK/$SIZE/average.pt" "$WORK/pruned/$SIZE.decoder-${keep/:/-}.pt" --force \
    --decoder-keep "$keep"
done
