#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Prune both models to the depths of the figure: the decoder layer by layer, the encoder, both.
#   scripts/multi30k/3_prune.sh [WORK]
set -euo pipefail
WORK=${1:-runs/multi30k}
PLANS="all/all all/even:5 all/even:4 all/every:2 all/even:2 all/even:1 every:2/all every:2/every:2"

mkdir -p "$WORK/pruned"
for run in layerdrop plain; do
  for plan in $PLANS; do
    fairseq-layerdrop prune "$WORK/$run/checkpoint_best.pt" "$WORK/pruned/$run.${plan//[\/:]/-}.pt" --force \
      --encoder-keep "${plan%/*}" --decoder-keep "${plan#*/}"
  done
done
