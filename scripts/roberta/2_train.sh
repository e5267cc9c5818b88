#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Pre-train RoBERTa with LayerDrop; the same command again goes on from the last checkpoint.
#   LAYERDROP=0.2 scripts/roberta/2_train.sh base|large|large_48 [WORK [FLAGS]]
# 8,192 sequences a step on 8 GPUs (--batch-size x --update-freq x 8); on fewer, --update-freq as many times larger.
# The paper states layers, rates, warmup, peak rate and batch. Guesses: 500K updates for base, too; for large_48
# (rate 0.5, 300K updates) warmup and peak rate of large; dropouts, Adam and decay are RoBERTa's.
set -euo pipefail
SIZE=${1:?base, large or large_48}
WORK=${2:-runs/roberta}
declare -A RATE=([base]=0.2 [large]=0.2 [large_48]=0.5) UPDATES=([base]=500000 [large]=500000 [large_48]=300000)
declare -A LR=([base]=0.0006 [large]=0.0004 [large_48]=0.0004) WARMUP=([base]=24000 [large]=30000 [large_48]=30000)
declare -A BATCH=([base]=16 [large]=8 [large_48]=4)

fairseq-train "$WORK/data-bin" --user-dir "$(fairseq-layerdrop user-dir)" \
  --task layerdrop_masked_lm --criterion masked_lm --sample-break-mode complete --tokens-per-sample 512 \
  --arch "layerdrop_roberta_$SIZE" --encoder-layerdrop "${LAYERDROP:-${RATE[$SIZE]}}" \
  --dropout 0.1 --attention-dropout 0.1 --weight-decay 0.01 --clip-norm 0.0 \
  --optimizer adam --adam-betas '(0.9, 0.98)' --adam-eps 1e-6 \
  --lr-scheduler polynomial_decay --lr "${LR[$SIZE]}" --warmup-updates "${WARMUP[$SIZE]}" \
  --total-num-update "${UPDATES[$SIZE]}" --max-update "${UPDATES[$SIZE]}" \
  --batch-size "${BATCH[$SIZE]}" --update-freq $((8192 / 8 / ${BATCH[$SIZE]})) --fp16 \
  --save-interval-updates 2000 --keep-interval-updates 1 --no-epoch-checkpoints \
  --no-progress-bar --log-interval 100 --save-dir "$WORK/$SIZE" "${@:3}"
