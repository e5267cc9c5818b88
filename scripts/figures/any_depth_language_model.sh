#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Any depth, language modelling: one training of all depths (--train-plans) beside the curves of figure 2. The plans learn from
# the labels only: the whole model's distribution over 33,000 words would cost more than it teaches.
#   scripts/figures/any_depth_language_model.sh [WORK [OUT]]
set -- "${1:-runs/figures}" "${2:-results/any_depth/language_model}"
. "$(dirname "$0")/models.sh"
POINTS="even:12 even:8 even:6 even:4 even:2"

reuse figure2_language_model
language_model plans-s1 --decoder-layerdrop 0 --train-plans "$POINTS" --max-epoch 4 --total-num-update 4080
score wikitext-2 "train plans" lm/plans-s1 "$POINTS"
draw "WikiText-2: one training of all depths, and the others"
