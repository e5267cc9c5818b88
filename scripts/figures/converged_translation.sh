#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Converged: the ways to a small decoder beside each other, trained until it helps no more. 6+6 layers, d 128, 26 epochs of
# Multi30k, one to two hours of one core a training: small models from scratch; all depths in one training, the whole model
# alone in its first half, and these healed with a tenth of the updates; the whole model compensated, and healed with a
# quarter of its updates a depth; LayerDrop 0.2, with the usual dropout and with 0.1 less.
#   scripts/figures/converged_translation.sh [WORK [OUT]]       DEPTHS="3 1" chooses the depths
set -- "${1:-runs/figures}" "${2:-results/multi30k/any_depth}"
. "$(dirname "$0")/models.sh"
DEPTHS=${DEPTHS:-5 4 3 2 1}
points=$(for depth in $DEPTHS; do echo "6+$depth"; done)
plain=(--encoder-layerdrop 0 --decoder-layerdrop 0)
dropped=(--encoder-layerdrop 0.2 --decoder-layerdrop 0.2)

# converged RUN FLAGS...
converged() {
  translation "converged/$1" --encoder-embed-dim 128 --dropout 0.2 --max-tokens 4096 --lr 4e-3 --warmup-updates 1000 \
    --total-num-update 3380 --max-epoch 26 "${@:2}"
}

converged p0 "${plain[@]}"
score_translation "no LayerDrop, pruned" converged/p0 "$points"
compensate converged/p0 converged/p0-compensated "$DEPTHS"
repair "no LayerDrop, healed, 25 %" converged/p0 converged/p0-healed "$DEPTHS"
repair "no LayerDrop, healed, 25 %, lr 2e-3" converged/p0 converged/p0-healed-half "5 3" -- --lr 2e-3

converged plans "${plain[@]}" --train-plans "$(echo $points)" --train-plans-warmup-updates 1690 \
  --criterion layerdrop_distill --distill-weight 1
score_translation "train plans" converged/plans "$points"
repair "train plans, healed, 10 %" converged/plans converged/plans-healed "$DEPTHS" --share 0.1

for depth in $DEPTHS; do
  converged "scratch$depth" "${plain[@]}" --decoder-layers "$depth"
  score_translation "from scratch" "converged/scratch$depth" all/all
done

converged p0.2 "${dropped[@]}"
score_translation "LayerDrop 0.2, pruned" converged/p0.2 "$points"
converged p0.2-dropout0.1 "${dropped[@]}" --dropout 0.1
score_translation "LayerDrop 0.2, dropout 0.1, pruned" converged/p0.2-dropout0.1 "$points"
draw "Multi30k en-de, test2016: 6+6 layers, d 128, 26 epochs"
