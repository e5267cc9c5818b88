#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Any depth, encoder and decoder alike: one training of 6+6 to 1+1 layers beside small models from scratch.
#   scripts/figures/any_depth_both.sh [WORK [OUT]]
set -- "${1:-runs/figures}" "${2:-results/any_depth/both}"
. "$(dirname "$0")/models.sh"
POINTS="5+5 4+4 3+3 2+2 1+1"
OFF=(--encoder-layerdrop 0 --decoder-layerdrop 0)

translation plans-both-s1 "${OFF[@]}" --train-plans "$POINTS" --criterion layerdrop_distill --distill-weight 1 \
  --max-epoch 11 --total-num-update 2860
score_translation "train plans" plans-both-s1 "$POINTS"
translation p0-s1 "${OFF[@]}"
score_translation "no LayerDrop, pruned" p0-s1 "$POINTS"
for depth in 5 4 3 2 1; do
  translation "scratch$depth+$depth-s1" "${OFF[@]}" --encoder-layers "$depth" --decoder-layers "$depth"
  score_translation "from scratch" "scratch$depth+$depth-s1" all/all
done
draw "Multi30k en-de, test2016: one training of 6+6 to 1+1 layers, and from scratch"
