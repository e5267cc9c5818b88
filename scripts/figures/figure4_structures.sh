#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Figure 4, left: which structure to drop in training. Perplexity on WikiText-2's valid set, whole and pruned to 8 of 16 layers.
#   scripts/figures/figure4_structures.sh [WORK [OUT]]
. "$(dirname "$0")/models.sh"

structure() { # CURVE RUN FLAGS...
  language_model "$2" "${@:3}"
  score wikitext-2 "$1" "lm/$2" every:2 --gen-subset valid
}
structure "nothing" p0-s1 --decoder-layerdrop 0
structure "layer" p0.2-s1 --decoder-layerdrop 0.2
structure "sub-layer" sublayer --decoder-layerdrop 0 --sublayerdrop 0.2
structure "head" head --decoder-layerdrop 0 --headdrop 0.2
structure "half FFN" half-ffn --decoder-layerdrop 0 --ffndrop 0.2 --ffndrop-blocks 2
structure "weight" weight --decoder-layerdrop 0 --weightdrop 0.2
structure "head + layer" head-layer --decoder-layerdrop 0.2 --headdrop 0.2
structure "head + sub-layer" head-sublayer --decoder-layerdrop 0 --sublayerdrop 0.2 --headdrop 0.2
draw "WikiText-2, 16 layers: what was dropped in training, at a rate of 0.2"
