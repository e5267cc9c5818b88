#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Train Transformer-base with LayerDrop; the same command again goes on from the last checkpoint.
#   LAYERDROP=0.2 scripts/cnn_dm/2_train.sh 6_6|6_8 [WORK [FLAGS]]
# Made for 8 GPUs; on N, end the command with --update-freq $((16 * 8 / N)).
# The paper states Adam, cosine, warmup of 10K, dropout 0.2 or 0.3. Guesses, taken from its WMT model: peak rate,
# period, batch, label smoothing, attention dropout, embeddings shared.
set -euo pipefail
SIZE=${1:?6_6 or 6_8}
WORK=${2:-runs/cnn_dm}
P=${LAYERDROP:-0.2}
declare -A ARCH=([6_6]=cnn_dm [6_8]=cnn_dm_6_8)

fairseq-train "$WORK/data-bin" --user-dir "$(fairseq-layerdrop user-dir)" \
  --task layerdrop_translation --source-lang source --target-lang target \
  --arch "layerdrop_transformer_${ARCH[$SIZE]}" --encoder-layerdrop "$P" --decoder-layerdrop "$P" \
  --share-all-embeddings --dropout 0.2 --attention-dropout 0.1 \
  --criterion label_smoothed_cross_entropy --label-smoothing 0.1 \
  --optimizer adam --adam-betas '(0.9, 0.98)' --clip-norm 0.0 \
  --lr-scheduler cosine --lr 0.001 --warmup-init-lr 1e-7 --warmup-updates 10000 --min-lr 1e-7 --stop-min-lr 1e-9 \
  --lr-period-updates 20000 --t-mult 1 --lr-shrink 1 --max-update 30000 \
  --max-tokens 3584 --update-freq 16 --fp16 --no-epoch-checkpoints \
  --no-progress-bar --log-interval 100 --save-dir "$WORK/$SIZE" "${@:3}"
