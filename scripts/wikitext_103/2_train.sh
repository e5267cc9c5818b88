#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Train the language model with adaptive inputs and LayerDrop; the same command again goes on from the last checkpoint.
#   LAYERDROP=0.2 scripts/wikitext_103/2_train.sh 16|40 [WORK [FLAGS]]
# Made for 8 GPUs; on N, end the command with --update-freq $((3 * 8 / N)). No fp16, as in the paper.
# Dropout 0.2: one of the paper's three, and that of its authors' later command (fairseq's quant_noise); the
# architecture's own is 0.3. Guess: the 40 layers have an FFN of 2,560, with which they are the paper's 423M parameters.
set -euo pipefail
LAYERS=${1:?16 or 40}
WORK=${2:-runs/wikitext_103}
P=${LAYERDROP:-0.2}
declare -A ARCH=([16]=wiki103 [40]=wiki103_40)

fairseq-train "$WORK/data-bin" --user-dir "$(fairseq-layerdrop user-dir)" \
  --task layerdrop_language_modeling --sample-break-mode none --tokens-per-sample 3072 \
  --arch "layerdrop_transformer_lm_${ARCH[$LAYERS]}" --decoder-layerdrop "$P" --dropout 0.2 \
  --criterion adaptive_loss --optimizer nag --momentum 0.99 --weight-decay 0.0 --clip-norm 0.1 \
  --lr-scheduler cosine --lr 1.0 --warmup-init-lr 1e-7 --warmup-updates 16000 --min-lr 0.0001 --stop-min-lr 1e-9 \
  --lr-period-updates 270000 --t-mult 2 --lr-shrink 0.75 --max-update 286000 \
  --max-tokens 3072 --update-freq 3 --skip-invalid-size-inputs-valid-test --seed 1 \
  --ddp-backend legacy_ddp --no-epoch-checkpoints \
  --no-progress-bar --log-interval 100 --save-dir "$WORK/$LAYERS" "${@:3}"
