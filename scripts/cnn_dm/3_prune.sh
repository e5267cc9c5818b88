#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Prune the decoder, without fine-tuning: the paper's Every Other, and two more depths of its Figure 2.
# The best checkpoint: the paper names no average for this data set.
#   scripts/cnn_dm/3_prune.sh 6_6|6_8 [WORK]
set -euo pipefail
SIZE=${1:?6_6 or 6_8}
WORK=${2:-runs/cnn_dm}

mkdir -p "$WORK/pruned"
for keep in all even:4 every:2 even:2; do
  fairseq-layerdrop prune "$WORK/$SIZE/checkpoint_best.pt" "$WORK/pruned/$SIZE.decoder-${keep/:/-}.pt" --force \
    --decoder-keep "$keep"
done
