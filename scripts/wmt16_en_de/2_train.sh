#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Train Transformer-big with LayerDrop; the same command again goes on from the last checkpoint.
#   LAYERDROP=0.2 scripts/wmt16_en_de/2_train.sh 6_6|12_6 [WORK [FLAGS]]
# Made for 8 GPUs; on N, end the command with --update-freq $((16 * 8 / N)).
# Schedule of Wu et al. 2019, which the paper names; fairseq's README points to inverse_sqrt instead (docs/recipes.md).
# Guess: dropout 0.2, one of the paper's three, 0.1 below the usual 0.3 as fairseq's LayerDrop README advises.
set -euo pipefail
SIZE=${1:?6_6 or 12_6}
WORK=${2:-runs/wmt16_en_de}
P=${LAYERDROP:-0.2}
declare -A ARCH=([6_6]=wmt_en_de_big [12_6]=wmt_en_de_big_12_6)

fairseq-train "$WORK/data-bin" --user-dir "$(fairseq-layerdrop user-dir)" \
  --task layerdrop_translation --source-lang en --target-lang de \
  --arch "layerdrop_transformer_${ARCH[$SIZE]}" --encoder-layerdrop "$P" --decoder-layerdrop "$P" \
  --share-all-embeddings --dropout 0.2 --attention-dropout 0.1 \
  --criterion label_smoothed_cross_entropy --label-smoothing 0.1 \
  --optimizer adam --adam-betas '(0.9, 0.98)' --clip-norm 0.0 --weight-decay 0.0 \
  --lr-scheduler cosine --lr 0.001 --warmup-init-lr 1e-7 --warmup-updates 10000 --min-lr 1e-7 --stop-min-lr 1e-9 \
  --lr-period-updates 20000 --t-mult 1 --lr-shrink 1 --max-update 30000 \
  --max-tokens 3584 --update-freq 16 --fp16 --keep-last-epochs 10 \
  --no-progress-bar --log-interval 100 --save-dir "$WORK/$SIZE" "${@:3}"
