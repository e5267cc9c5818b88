#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Healing, translation: a 6+6 model without LayerDrop, cut to five depths, compensated, and healed with a quarter of a training's
# updates a depth; beside it models from scratch with all updates (the rows of figure 2), with a quarter, and with the same
# teacher, and healing without a teacher.
#   scripts/figures/heal_translation.sh [WORK [OUT]]       SEEDS="1 2 3" chooses the seeds, DEPTHS="3 1" the depths
set -- "${1:-runs/figures}" "${2:-results/heal/translation}"
. "$(dirname "$0")/models.sh"
DEPTHS=${DEPTHS:-5 4 3 2 1}
DATA="$WORK/multi30k/data-bin"
points=$(for depth in $DEPTHS; do echo "6+$depth"; done)

reuse figure2_translation
for seed in ${SEEDS:-1 2 3}; do
  translation "p0-s$seed" --encoder-layerdrop 0 --decoder-layerdrop 0 --seed "$seed"
  full="$WORK/multi30k/p0-s$seed/checkpoint_best.pt" base="$WORK/multi30k/heal-s$seed"
  mkdir -p "$base"
  fairseq-layerdrop heal "$DATA" "$base/taught" --path "$full" --points "$points"
  fairseq-layerdrop heal "$DATA" "$base/untaught" --path "$full" --points "$points" --no-teacher
  for depth in $DEPTHS; do
    [ -f "$base/6+$depth.pt" ] ||
      fairseq-layerdrop prune "$full" "$base/6+$depth.pt" --decoder-keep "even:$depth" --compensate "$DATA"
    score_translation_file "compensated" "$base/6+$depth.pt"
    score_translation_file "healed, 25 %" "$base/taught/6+$depth.pt"
    score_translation_file "healed without a teacher, 25 %" "$base/untaught/6+$depth.pt"
    translation "quarter$depth-s$seed" --encoder-layerdrop 0 --decoder-layerdrop 0 --decoder-layers "$depth" --seed "$seed" \
      --total-num-update 520 --max-update 520
    score_translation "from scratch, 25 %" "quarter$depth-s$seed" all/all
    translation "taught$depth-s$seed" --encoder-layerdrop 0 --decoder-layerdrop 0 --decoder-layers "$depth" --seed "$seed" \
      --criterion layerdrop_distill --distill-weight 1 --distill-teacher "$full"
    score_translation "from scratch, same teacher" "taught$depth-s$seed" all/all
  done
done
draw "Multi30k en-de, test2016: a 6+6 model cut and healed, and models from scratch"
