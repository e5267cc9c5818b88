#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Healing, translation: 6+6 models without LayerDrop, cut to five depths, compensated, and healed with a quarter of a training's
# updates a depth at half of its learning rate; models from scratch with all updates are the rows of figure 2. Of the first seed also
# healing without a teacher, and models from scratch with a quarter of the updates; of the last, healing at the whole learning rate,
# and two models from scratch that had all updates and the same teacher.
#   scripts/figures/heal_translation.sh [WORK [OUT]]       SEEDS="1 2 3" chooses the seeds, DEPTHS="3 1" the depths
set -- "${1:-runs/figures}" "${2:-results/heal/translation}"
. "$(dirname "$0")/models.sh"
DEPTHS=${DEPTHS:-5 4 3 2 1}
plain=(--encoder-layerdrop 0 --decoder-layerdrop 0)

reuse figure2_translation
for seed in ${SEEDS:-1 2 3}; do
  translation "p0-s$seed" "${plain[@]}" --seed "$seed"
  repair "healed, 25 %" "p0-s$seed" "heal-s$seed/taught" "$DEPTHS" -- --lr 1.5e-3
  compensate "p0-s$seed" "heal-s$seed" "$DEPTHS"
done

repair "healed without a teacher, 25 %" p0-s1 heal-s1/untaught "$DEPTHS" --no-teacher -- --lr 1.5e-3
for depth in $DEPTHS; do
  translation "quarter$depth-s1" "${plain[@]}" --decoder-layers "$depth" --total-num-update 520 --max-update 520
  score_translation "from scratch, 25 %" "quarter$depth-s1" all/all
done
repair "healed, lr 3e-3, 25 %" "p0-s$seed" "heal-s$seed/rate" "$DEPTHS" -- --lr 3e-3
for depth in 3 1; do
  translation "taught$depth-s$seed" "${plain[@]}" --decoder-layers "$depth" --seed "$seed" \
    --criterion layerdrop_distill --distill-weight 1 --distill-teacher "$WORK/multi30k/p0-s$seed/checkpoint_best.pt"
  score_translation "from scratch, same teacher" "taught$depth-s$seed" all/all
done
draw "Multi30k en-de, test2016: a 6+6 model cut and healed, and models from scratch"
