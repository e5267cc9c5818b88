#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Train Transformer-big, norms before (transformer_wmt_en_de_big_t2t), with LayerDrop; the same command again goes on.
#   LAYERDROP=0.2 scripts/eli5/2_train.sh [WORK [FLAGS]]
# Made for 8 GPUs; on N, end the command with --update-freq $((4 * 8 / N)). Settings of the ELI5 repository, which the
# paper names. The rate is not stated, only "0.2 in all experiments". Guesses: batch, number of updates.
set -euo pipefail
WORK=${1:-runs/eli5}
P=${LAYERDROP:-0.2}

fairseq-train "$WORK/data-bin" --user-dir "$(fairseq-layerdrop user-dir)" \
  --task layerdrop_translation --source-lang qd_source_bpe --target-lang qd_target_bpe \
  --arch layerdrop_transformer_wmt_en_de_big --encoder-layerdrop "$P" --decoder-layerdrop "$P" \
  --encoder-normalize-before --decoder-normalize-before --share-decoder-input-output-embed \
  --dropout 0.1 --attention-dropout 0.1 --activation-dropout 0.1 \
  --max-source-positions 4096 --max-target-positions 4096 --skip-invalid-size-inputs-valid-test \
  --criterion label_smoothed_cross_entropy --label-smoothing 0.1 \
  --optimizer adam --adam-betas '(0.9, 0.98)' --clip-norm 0.0 \
  --lr-scheduler inverse_sqrt --lr 1e-4 --warmup-init-lr 1e-7 --warmup-updates 4000 --stop-min-lr 1e-9 \
  --max-update 100000 --max-tokens 4096 --update-freq 4 --fp16 --no-epoch-checkpoints \
  --no-progress-bar --log-interval 100 --save-dir "$WORK/model" "${@:2}"
