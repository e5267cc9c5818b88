#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Prune, without fine-tuning: Every Other is the paper's (16 to 8 layers: 20.78 ppl on valid); the
# others are evenly spread.
#   scripts/wikitext_103/3_prune.sh 16|40 [WORK]
set -euo pipefail
LAYERS=${1:?16 or 40}
WORK=${2:-runs/wikitext_103}

mkdir -p "$WORK/pruned"
for keep in all even:12 every:2 even:4; do
  fairseq-layerdrop prune "$WORK/$LAYERS/checkpoint_best.pt" "$WORK/pruned/$LAYERS.${keep/:/-}.pt" --force \
    --decoder-keep "$keep"
done
