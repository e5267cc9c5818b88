#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Train the small 6+6 Transformer with LayerDrop; the same command again goes on from the last checkpoint.
#   LAYERDROP=0.2 scripts/iwslt14_de_en/2_train.sh [WORK [FLAGS]]
# Made for one GPU; on N, --max-tokens $((4000 / N)). Settings of Wu et al. 2019, which the paper names.
# The paper states no rate for this data set, only "0.2 in all experiments".
set -euo pipefail
WORK=${1:-runs/iwslt14_de_en}
P=${LAYERDROP:-0.2}

fairseq-train "$WORK/data-bin" --user-dir "$(fairseq-layerdrop user-dir)" \
  --task layerdrop_translation --source-lang de --target-lang en \
  --arch layerdrop_transformer_iwslt_de_en --encoder-layerdrop "$P" --decoder-layerdrop "$P" \
  --share-decoder-input-output-embed --dropout 0.3 --attention-dropout 0.1 \
  --criterion label_smoothed_cross_entropy --label-smoothing 0.1 \
  --optimizer adam --adam-betas '(0.9, 0.98)' --clip-norm 0.0 --weight-decay 0.0001 \
  --lr-scheduler inverse_sqrt --lr 0.0005 --warmup-init-lr 1e-7 --warmup-updates 4000 --stop-min-lr 1e-9 \
  --max-update 50000 --max-tokens 4000 --fp16 --no-epoch-checkpoints \
  --no-progress-bar --log-interval 100 --save-dir "$WORK/model" "${@:2}"
