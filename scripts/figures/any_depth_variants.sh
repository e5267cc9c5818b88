#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Any depth, how best: what any_depth_translation.sh trains, for four epochs instead of eleven, and one thing changed at a time:
# which layers a depth keeps, a gradual way in, no teacher or hardly any labels, more plans a step; and three epochs for a
# checkpoint that is there.
#   scripts/figures/any_depth_variants.sh [WORK [OUT]]
set -- "${1:-runs/figures}" "${2:-results/any_depth/variants}"
. "$(dirname "$0")/models.sh"
EVEN="6+5 6+4 6+3 6+2 6+1"
NESTED="all/0-4 all/0,1,3,4 all/0,1,3 all/0,3 all/0" # as EVEN, but for three layers, which are 0,2,4 there
FIRST="all/0-4 all/0-3 all/0-2 all/0,1 all/0"
TAUGHT=(--criterion layerdrop_distill --distill-weight 1)

# variant CURVE RUN PLANS FLAGS...
variant() {
  translation "$2" --encoder-layerdrop 0 --decoder-layerdrop 0 --train-plans "$3" \
    --max-epoch 4 --total-num-update 1040 "${@:4}"
  score_translation "$1" "$2" "$3"
}

variant "evenly spread" even4-s1 "$EVEN" "${TAUGHT[@]}"
variant "nested" nested4-s1 "$NESTED" "${TAUGHT[@]}"
variant "half of the updates whole" warmup4-s1 "$EVEN" "${TAUGHT[@]}" --train-plans-warmup-updates 520
translation p0-s1 --encoder-layerdrop 0 --decoder-layerdrop 0
variant "three epochs from a checkpoint" from3-s1 "$EVEN" "${TAUGHT[@]}" --max-epoch 3 --total-num-update 780 \
  --finetune-from-model "$WORK/multi30k/p0-s1/checkpoint_best.pt" --lr 1.5e-3 --warmup-updates 50
variant "labels only" labels4-s1 "$EVEN"
variant "labels a tenth" tenth4-s1 "$EVEN" "${TAUGHT[@]}" --train-plans-weight 0.1
variant "first layers" first4-s1 "$FIRST" "${TAUGHT[@]}"
variant "two plans a step" two4-s1 "$EVEN" "${TAUGHT[@]}" --train-plans-per-update 2
draw "Multi30k en-de, test2016: four epochs with --train-plans, in other ways"
