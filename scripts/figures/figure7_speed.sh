#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Figure 7: words a second in training against the rate, 16 layers, with fairseq-layerdrop and with stock fairseq; all in turns.
# About ten minutes; on a machine that does nothing else, one core.
#   scripts/figures/figure7_speed.sh [WORK [OUT]]
. "$(dirname "$0")/models.sh"
ROUNDS=2 RATES="0 0.1 0.2 0.3 0.4 0.5"
declare -A FLAGS=(
  [fairseq-layerdrop]="--task layerdrop_language_modeling --arch layerdrop_transformer_lm"
  [stock fairseq]="--task language_modeling --arch transformer_lm"
)

for round in $(seq "$ROUNDS"); do
  for rate in $RATES; do
    for system in "${!FLAGS[@]}"; do
      run="speed/$system.$rate.$round"
      [ -f "$WORK/lm/$run/training.json" ] || rm -rf "${WORK:?}/lm/$run" # a log of one run, or speeds are mixed
      # shellcheck disable=SC2086
      language_model "$run" ${FLAGS[$system]} --decoder-layerdrop "$rate" --seed "$round" --max-update 40 \
        --log-interval 10 --no-save --disable-validation
    done
  done
done
mkdir -p "$OUT"
python scripts/figures/words_per_second.py "$WORK/lm/speed" > "$OUT/rows.jsonl"
draw "WikiText-2, 16 layers: words a second in training"
