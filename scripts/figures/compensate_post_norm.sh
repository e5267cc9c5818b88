#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Compensation where the norms are behind the blocks, as by fairseq's default: a 6+6 model without LayerDrop, cut, and cut and
# compensated. Three times as many updates of warm-up at a third of the rate, with which such a model learns.
#   scripts/figures/compensate_post_norm.sh [WORK [OUT]]
set -- "${1:-runs/figures}" "${2:-results/heal/post_norm}"
. "$(dirname "$0")/models.sh"
norms=()

translation post-norm --encoder-layerdrop 0 --decoder-layerdrop 0 --lr 1e-3 --warmup-updates 900
score_translation "cut" post-norm "6+5 6+4 6+3 6+2"
compensate post-norm post-norm/compensated "5 4 3 2"
draw "Multi30k en-de, test2016: norms behind the blocks, cut and compensated"
