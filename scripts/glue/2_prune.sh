#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Prune the pre-trained RoBERTa before it is fine-tuned: 6 layers by Every Other, and 3 evenly spread (the paper does
# not say which three of twelve it kept); the whole model, too, for comparison.
#   scripts/glue/2_prune.sh CKPT [WORK]
set -euo pipefail
CKPT=${1:?a pre-trained model of 12 layers, e.g. runs/roberta/base/checkpoint_last.pt}
WORK=${2:-runs/glue}

mkdir -p "$WORK/pruned"
fairseq-layerdrop prune "$CKPT" "$WORK/pruned/12.pt" --encoder-keep all --force
fairseq-layerdrop prune "$CKPT" "$WORK/pruned/6.pt" --encoder-keep every:2 --force
fairseq-layerdrop prune "$CKPT" "$WORK/pruned/3.pt" --encoder-keep even:3 --force
