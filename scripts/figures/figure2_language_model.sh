#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Figure 2, language modelling: perplexity on WikiText-2's test set against depth. With LayerDrop, without it, and
# small models trained from scratch.
#   scripts/figures/figure2_language_model.sh [WORK [OUT]]
. "$(dirname "$0")/models.sh"
POINTS="even:12 even:8 even:6 even:4 even:2"

for seed in ${SEEDS:-1}; do
  language_model "p0.2-s$seed" --decoder-layerdrop 0.2 --seed "$seed"
  score wikitext-2 "LayerDrop 0.2, pruned" "lm/p0.2-s$seed" "$POINTS"
  language_model "p0-s$seed" --decoder-layerdrop 0 --seed "$seed"
  score wikitext-2 "no LayerDrop, pruned" "lm/p0-s$seed" "$POINTS"
  for depth in ${DEPTHS:-12 8 6 4 2}; do
    language_model "scratch$depth-s$seed" --decoder-layerdrop 0 --decoder-layers "$depth" --seed "$seed"
    score wikitext-2 "from scratch" "lm/scratch$depth-s$seed" all
  done
done
draw "WikiText-2, 16 layers: pruned, and from scratch"
