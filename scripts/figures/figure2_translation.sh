#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Figure 2, translation: BLEU on Multi30k's test2016 against the decoder's depth; three seeds (small models from scratch:
# at every depth one seed, at 3 and 1 three).
#   scripts/figures/figure2_translation.sh [WORK [OUT]]
. "$(dirname "$0")/models.sh"
POINTS="6+5 6+4 6+3 6+2 6+1"

for seed in ${SEEDS:-1 2 3}; do
  for p in 0.2 0; do
    translation "p$p-s$seed" --encoder-layerdrop "$p" --decoder-layerdrop "$p" --seed "$seed"
  done
  score_translation "LayerDrop 0.2, pruned" "p0.2-s$seed" "$POINTS"
  score_translation "no LayerDrop, pruned" "p0-s$seed" "$POINTS"
  for depth in ${DEPTHS:-$([ "$seed" = 1 ] && echo 5 4 3 2 1 || echo 3 1)}; do
    translation "scratch$depth-s$seed" --encoder-layerdrop 0 --decoder-layerdrop 0 --decoder-layers "$depth" --seed "$seed"
    score_translation "from scratch" "scratch$depth-s$seed" all/all
  done
done
draw "Multi30k en-de, test2016: a 6+6 model, its decoder pruned, and from scratch"
