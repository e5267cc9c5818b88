#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Prune the decoder, without fine-tuning: the paper's Every Other, and two more depths. The best checkpoint, no average:
# so the paper says (Wu et al. 2019 average ten).
#   scripts/iwslt14_de_en/3_prune.sh [WORK]
set -euo pipefail
WORK=${1:-runs/iwslt14_de_en}

mkdir -p "$WORK/pruned"
for keep in all even:4 every:2 even:2; do
  fairseq-layerdrop prune "$WORK/model/checkpoint_best.pt" "$WORK/pruned/decoder-${keep/:/-}.pt" --force \
    --decoder-keep "$keep"
done
