#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Any depth, translation: one training of all depths (--train-plans, with the whole model as the teacher of the same step)
# beside the curves of figure 2. Eleven epochs cost at most 2.5 times the CPU time of the eight of one ordinary training.
#   scripts/figures/any_depth_translation.sh [WORK [OUT]]       SEEDS="1 2 3" chooses the seeds
# family_cost.py says what each family of models costs to train, e.g. that of the small models from scratch:
#   python scripts/figures/family_cost.py OUT/rows.jsonl "from scratch" p0-s1 scratch{5,4,3,2,1}-s1 --unit p0-s1 \
#     --whole "no LayerDrop, pruned"
set -- "${1:-runs/figures}" "${2:-results/any_depth/translation}"
. "$(dirname "$0")/models.sh"

reuse figure2_translation
for seed in ${SEEDS:-1 2 3}; do
  translation_plans "plans-s$seed" --seed "$seed"
  score_translation "train plans" "plans-s$seed" "6+5 6+4 6+3 6+2 6+1"
done
draw "Multi30k en-de, test2016: one training of all depths, and the others"
