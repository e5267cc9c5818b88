#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Train two 6+6 models that differ in LayerDrop alone: 20 epochs at a high rate, then 6 in which it falls to zero.
# A run that was stopped goes on from its last epoch.
#   scripts/multi30k/2_train.sh layerdrop|plain [WORK]
set -euo pipefail
RUN=${1:?layerdrop or plain}
WORK=${2:-runs/multi30k}

declare -A MODEL=(
  [layerdrop]="--arch layerdrop_transformer --encoder-layerdrop 0.2 --decoder-layerdrop 0.2"
  [plain]="--arch transformer"
)

train() {
  fairseq-train "$WORK/data-bin" --user-dir "$(fairseq-layerdrop user-dir)" \
    --task layerdrop_translation --source-lang en --target-lang de \
    ${MODEL[$RUN]} --encoder-layers 6 --decoder-layers 6 \
    --encoder-embed-dim 128 --encoder-ffn-embed-dim 256 --encoder-attention-heads 4 --decoder-attention-heads 4 \
    --encoder-normalize-before --decoder-normalize-before --share-all-embeddings --dropout 0.2 \
    --criterion label_smoothed_cross_entropy --label-smoothing 0.1 \
    --optimizer adam --adam-betas '(0.9, 0.98)' --weight-decay 0.0001 --clip-norm 1.0 \
    --max-tokens 4096 --required-batch-size-multiple 1 --seed 1 \
    --valid-plans "6+3 3+6 3+3 6+1" --no-epoch-checkpoints --no-progress-bar --log-interval 100 "$@"
}

train --save-dir "$WORK/$RUN.high" --lr 4e-3 --lr-scheduler inverse_sqrt --warmup-updates 1000 --max-epoch 20
train --save-dir "$WORK/$RUN" --finetune-from-model "$WORK/$RUN.high/checkpoint_last.pt" \
  --lr 2e-3 --lr-scheduler polynomial_decay --warmup-updates 100 --total-num-update 780 --max-epoch 6
