#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Figure 6: the rate in training against the share that is pruned, on WikiText-2's valid set.
#   scripts/figures/figure6_rates.sh [WORK [OUT]]
. "$(dirname "$0")/models.sh"

for seed in ${SEEDS:-1}; do
  for p in ${RATES:-0 0.1 0.2 0.5}; do
    language_model "p$p-s$seed" --decoder-layerdrop "$p" --seed "$seed"
    score wikitext-2 "trained at $p" "lm/p$p-s$seed" "even:14 even:12 even:10 even:8 even:6 even:4 even:2" --gen-subset valid
  done
done
draw "WikiText-2, 16 layers: rate in training against pruning"
