#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Healing, language model: 16 layers without LayerDrop, cut to five depths, compensated, and healed with a quarter of a training's
# updates a depth; beside it models from scratch with all updates (the rows of figure 2) and with a quarter.
#   scripts/figures/heal_language_model.sh [WORK [OUT]]       DEPTHS="8 2" chooses the depths
set -- "${1:-runs/figures}" "${2:-results/heal/language_model}"
. "$(dirname "$0")/models.sh"
DEPTHS=${DEPTHS:-12 8 6 4 2}
DATA="$WORK/wikitext-2/data-bin" base="$WORK/lm/heal"
points=$(for depth in $DEPTHS; do echo "even:$depth"; done)

reuse figure2_language_model
language_model p0-s1 --decoder-layerdrop 0
full="$WORK/lm/p0-s1/checkpoint_best.pt"
mkdir -p "$base"
fairseq-layerdrop heal "$DATA" "$base/taught" --path "$full" --points "$points" -- --lr 1e-3
fairseq-layerdrop heal "$DATA" "$base/untaught" --path "$full" --points "$points" --no-teacher -- --lr 1e-3
for depth in $DEPTHS; do
  [ -f "$base/$depth.pt" ] ||
    fairseq-layerdrop prune "$full" "$base/$depth.pt" --decoder-keep "even:$depth" --compensate "$DATA"
  score_file wikitext-2 "compensated" "$base/$depth.pt" all
  score_file wikitext-2 "healed, 25 %" "$base/taught/$depth.pt" all
  score_file wikitext-2 "healed without a teacher, 25 %" "$base/untaught/$depth.pt" all
  language_model "quarter$depth" --decoder-layerdrop 0 --decoder-layers "$depth" --total-num-update 765 --max-update 765
  score wikitext-2 "from scratch, 25 %" "lm/quarter$depth" all
done
draw "WikiText-2, test: a model of 16 layers cut and healed, and models from scratch"
