#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Table 1: a deeper encoder with LayerDrop against the usual one without; BLEU on Multi30k's test2016.
#   scripts/figures/table1_deeper.sh [WORK [OUT]]
. "$(dirname "$0")/models.sh"

for seed in ${SEEDS:-1}; do
  for p in 0 0.2; do
    for depth in 6 12; do
      run=$([ "$depth" = 6 ] && echo "p$p-s$seed" || echo "deep-p$p-s$seed")
      translation "$run" --encoder-layerdrop "$p" --decoder-layerdrop "$p" --encoder-layers "$depth" --seed "$seed"
      score_translation "$depth+6 layers, LayerDrop $p" "$run" all/all
    done
  done
done
draw "Multi30k en-de: a deeper encoder with LayerDrop"
