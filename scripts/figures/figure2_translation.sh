#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Figure 2, translation: BLEU on Multi30k's test2016 against the decoder's depth; three seeds.
#   scripts/figures/figure2_translation.sh [WORK [OUT]]
. "$(dirname "$0")/models.sh"
POINTS="6+5 6+4 6+3 6+2 6+1"
texts=(--metrics loss,bleu,chrf --remove-bpe sentencepiece --reference "$WORK/multi30k/text/test2016.de")

for seed in 1 2 3; do
  for p in 0.2 0; do
    translation "p$p-s$seed" --encoder-layerdrop "$p" --decoder-layerdrop "$p" --seed "$seed"
  done
  score multi30k "LayerDrop 0.2, pruned" "multi30k/p0.2-s$seed" "$POINTS" "${texts[@]}"
  score multi30k "no LayerDrop, pruned" "multi30k/p0-s$seed" "$POINTS" "${texts[@]}"
  for depth in 3 1; do
    translation "scratch$depth-s$seed" --encoder-layerdrop 0 --decoder-layerdrop 0 --decoder-layers "$depth" --seed "$seed"
    score multi30k "from scratch" "multi30k/scratch$depth-s$seed" all/all "${texts[@]}"
  done
done
draw "Multi30k en-de, test2016: a 6+6 model, its decoder pruned, and from scratch"
