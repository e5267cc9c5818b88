#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Figure 5: which layers matter. The loss without a layer and how far it turns what enters it, on WikiText-2's valid
# set; means over 20 random halves of the 16 layers that lack a layer (320 sub-networks), on a tenth of it.
#   scripts/figures/figure5_importance.sh [WORK [OUT]]
. "$(dirname "$0")/models.sh"

language_model p0.2-s1 --decoder-layerdrop 0.2
mkdir -p "$OUT"
importance() { # DATA MEASURE
  fairseq-layerdrop importance "$WORK/wikitext-2/$1" "$OUT/rows.jsonl" --path "$WORK/lm/p0.2-s1/checkpoint_best.pt" \
    --curve "LayerDrop 0.2" --threads 1 --measure "$2"
}
importance data-bin leave-one-out
importance data-bin angular
importance tenth-bin random-subsets
draw "WikiText-2, 16 layers, LayerDrop 0.2: importance of each"
