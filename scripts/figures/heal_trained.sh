#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Healing models that were trained to be cut: one with --train-plans, with a tenth of its updates a depth, and one with
# LayerDrop 0.2, with a quarter: taught, on the labels alone, so at the learning rate of its own training, and at 6+5 without dropout;
# beside them both as they are, and models from scratch (the rows of any_depth_translation.sh).
#   scripts/figures/heal_trained.sh [WORK [OUT]]       DEPTHS="3 1" chooses the depths
set -- "${1:-runs/figures}" "${2:-results/heal/trained}"
. "$(dirname "$0")/models.sh"
DEPTHS=${DEPTHS:-5 4 3 2 1}

reuse any_depth/translation
translation_plans plans-s1
repair "train plans, healed, 10 %" plans-s1 plans-s1-healed "$DEPTHS" --share 0.1 -- --lr 1.5e-3
translation p0.2-s1 --encoder-layerdrop 0.2 --decoder-layerdrop 0.2
repair "LayerDrop 0.2, healed, 25 %" p0.2-s1 p0.2-s1-healed "$DEPTHS" -- --lr 1.5e-3
repair "LayerDrop 0.2, healed without a teacher, 25 %" p0.2-s1 p0.2-s1-untaught "$DEPTHS" --no-teacher -- --lr 1.5e-3
repair "LayerDrop 0.2, healed without a teacher, lr 3e-3, 25 %" p0.2-s1 p0.2-s1-rate "$DEPTHS" --no-teacher -- --lr 3e-3
repair "LayerDrop 0.2, healed without a teacher or dropout, 25 %" p0.2-s1 p0.2-s1-nodropout 5 --no-teacher -- --dropout 0
draw "Multi30k en-de, test2016: models trained to be cut, cut and healed"
