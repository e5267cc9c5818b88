#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Prune the decoder, without fine-tuning. The paper reports no pruned model for ELI5: Every Other is its general rule.
#   scripts/eli5/3_prune.sh [WORK]
set -euo pipefail
WORK=${1:-runs/eli5}

mkdir -p "$WORK/pruned"
for keep in all every:2; do
  fairseq-layerdrop prune "$WORK/model/checkpoint_best.pt" "$WORK/pruned/decoder-${keep/:/-}.pt" --force \
    --decoder-keep "$keep"
done
