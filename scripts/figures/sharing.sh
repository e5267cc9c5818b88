#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Weight sharing with LayerDrop (ICLR appendix): chunks of two layers have the same weights, on WikiText-2's valid set.
#   scripts/figures/sharing.sh [WORK [OUT]]
. "$(dirname "$0")/models.sh"
POINTS="0-3,6-9,12-15 0,1,4,5,8,9,12,13 0,1,8,9" # whole chunks

shared() { # CURVE RUN FLAGS...
  language_model "$2" "${@:3}"
  score wikitext-2 "$1" "lm/$2" "$POINTS" --gen-subset valid
}
shared "own weights" p0-s1 --decoder-layerdrop 0
shared "own weights, LayerDrop 0.2" p0.2-s1 --decoder-layerdrop 0.2
shared "shared weights" share --decoder-layerdrop 0 --share-layers 2
shared "shared weights, LayerDrop 0.2" share-p0.2 --decoder-layerdrop 0.2 --share-layers 2
draw "WikiText-2, 16 layers, each two of them with the same weights"
