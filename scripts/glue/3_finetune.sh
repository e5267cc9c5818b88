#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Fine-tune a pruned model on one task, on one GPU; the log has each epoch's dev accuracy, the best one's file stays.
#   LAYERDROP=0 LR=1e-5 BATCH=32 scripts/glue/3_finetune.sh MNLI|QNLI|SST-2|MRPC 12|6|3 [WORK [FLAGS]]
# Pruned models: LAYERDROP=0; the whole one: LAYERDROP=0.2, as in pre-training. The paper takes the best dev result of
# LR 1e-5, 2e-5, 3e-5 and BATCH 16, 32; the defaults are those of fairseq's RoBERTa (with --restore-file and three
# --reset-… flags, which is the same, but would begin again where this goes on). For a large model, --arch.
set -euo pipefail
TASK=${1:?MNLI, QNLI, SST-2 or MRPC}
LAYERS=${2:?12, 6 or 3}
WORK=${3:-runs/glue}
declare -A CLASSES=([MNLI]=3 [QNLI]=2 [SST-2]=2 [MRPC]=2) SENTENCES=([MNLI]=32 [QNLI]=32 [SST-2]=32 [MRPC]=16)
declare -A UPDATES=([MNLI]=123873 [QNLI]=33112 [SST-2]=20935 [MRPC]=2296)
declare -A WARMUP=([MNLI]=7432 [QNLI]=1986 [SST-2]=1256 [MRPC]=137)
BATCH=${BATCH:-${SENTENCES[$TASK]}}

fairseq-train "$WORK/$TASK-bin" --user-dir "$(fairseq-layerdrop user-dir)" \
  --finetune-from-model "$WORK/pruned/$LAYERS.pt" \
  --task layerdrop_sentence_prediction --criterion sentence_prediction --num-classes "${CLASSES[$TASK]}" \
  --init-token 0 --separator-token 2 --max-positions 512 --max-tokens 4400 --required-batch-size-multiple 1 \
  --arch layerdrop_roberta_base --encoder-layers "$LAYERS" --encoder-layerdrop "${LAYERDROP:-0}" \
  --dropout 0.1 --attention-dropout 0.1 --weight-decay 0.1 --clip-norm 0.0 \
  --optimizer adam --adam-betas '(0.9, 0.98)' --adam-eps 1e-6 \
  --lr-scheduler polynomial_decay --lr "${LR:-1e-5}" --warmup-updates "${WARMUP[$TASK]}" \
  --total-num-update "${UPDATES[$TASK]}" --max-epoch 10 --batch-size "$BATCH" \
  --fp16 --fp16-init-scale 4 --threshold-loss-scale 1 --fp16-scale-window 128 --find-unused-parameters \
  --best-checkpoint-metric accuracy --maximize-best-checkpoint-metric --no-epoch-checkpoints \
  --no-progress-bar --log-interval 100 --save-dir "$WORK/$TASK.$LAYERS.lr${LR:-1e-5}.batch$BATCH" "${@:4}"
