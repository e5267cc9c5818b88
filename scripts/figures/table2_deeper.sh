#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Table 2: deeper with LayerDrop against shallow without, on WikiText-2's test set.
#   scripts/figures/table2_deeper.sh [WORK [OUT]]
. "$(dirname "$0")/models.sh"

for p in 0 0.2; do
  for depth in 16 32; do
    run=$([ "$depth" = 16 ] && echo "p$p-s1" || echo "deep-p$p")
    language_model "$run" --decoder-layerdrop "$p" --decoder-layers "$depth"
    score wikitext-2 "$depth layers, LayerDrop $p" "lm/$run" all
  done
done
draw "WikiText-2: deeper with LayerDrop"
