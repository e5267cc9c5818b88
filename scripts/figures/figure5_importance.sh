#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Figure 5: which layers matter. The loss without a layer and how far it turns what enters it, on WikiText-2's valid
# set; means over 20 random halves of the 16 layers that lack a layer (320 sub-networks), on a tenth of it.
#   scripts/figures/figure5_importance.sh [WORK [OUT]]
. "$(dirname "$0")/models.sh"

language_model p0.2-s1 --decoder-layerdrop 0.2
mkdir -p "$OUT"
importance() {
  fairseq-layerdrop importance "$WORK/wikitext-2/data-bin" "$OUT/rows.jsonl" --path "$WORK/lm/p0.2-s1/checkpoint_best.pt" \
    --curve "LayerDrop 0.2" --threads 1 "$@"
}
importance --measure leave-one-out
importance --measure angular
importance --measure random-subsets --gen-subset valid1
draw "WikiText-2, 16 layers, LayerDrop 0.2: importance of each"
