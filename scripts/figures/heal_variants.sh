#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# How to heal: the ways beside each other on one model of 6+6 layers without LayerDrop, healed to 6+3, then 6+1, all at half of the
# learning rate of its training.
#   scripts/figures/heal_variants.sh [WORK [OUT]]
set -- "${1:-runs/figures}" "${2:-results/heal/variants}"
. "$(dirname "$0")/models.sh"

# variant CURVE NAME FLAGS...
variant() { repair "$1" p0-s3 "heal-s3/$2" "3 1" "${@:3}"; }

translation p0-s3 --encoder-layerdrop 0 --decoder-layerdrop 0 --seed 3
variant "as by default" default -- --lr 1.5e-3
variant "each from the whole model" from-whole --from-whole -- --lr 1.5e-3
variant "hidden states, too" hidden -- --lr 1.5e-3 --distill-hidden 3
variant "temperature 2, weight 4" warm -- --lr 1.5e-3 --distill-temperature 2 --distill-weight 4
variant "no dropout" no-dropout -- --lr 1.5e-3 --dropout 0
draw "Multi30k en-de, test2016: ways of healing"
