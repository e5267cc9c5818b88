#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Healing, translation: 6+6 models without LayerDrop, cut to five depths, compensated, and healed with a quarter of a training's
# updates a depth; models from scratch with all updates are the rows of figure 2. Of the first seed also healing without a
# teacher, models from scratch with a quarter of the updates, and two with all updates and the same teacher.
#   scripts/figures/heal_translation.sh [WORK [OUT]]       SEEDS="1 2 3" chooses the seeds, DEPTHS="3 1" the depths
set -- "${1:-runs/figures}" "${2:-results/heal/translation}"
. "$(dirname "$0")/models.sh"
DEPTHS=${DEPTHS:-5 4 3 2 1}
DATA="$WORK/multi30k/data-bin"
points=$(for depth in $DEPTHS; do echo "6+$depth"; done)
plain=(--encoder-layerdrop 0 --decoder-layerdrop 0)

# repair CURVE RUN SEED FLAGS...: the model of a seed, healed to all depths.
repair() {
  local healed="$WORK/multi30k/heal-s$3/$2"
  mkdir -p "${healed%/*}"
  fairseq-layerdrop heal "$DATA" "$healed" --path "$WORK/multi30k/p0-s$3/checkpoint_best.pt" --points "$points" "${@:4}"
  for depth in $DEPTHS; do score_translation_file "$1" "$healed/6+$depth.pt"; done
}

reuse figure2_translation
for seed in ${SEEDS:-1 2 3}; do
  translation "p0-s$seed" "${plain[@]}" --seed "$seed"
  repair "healed, 25 %" taught "$seed"
  for depth in $DEPTHS; do
    small="$WORK/multi30k/heal-s$seed/6+$depth.pt"
    [ -f "$small" ] || fairseq-layerdrop prune "$WORK/multi30k/p0-s$seed/checkpoint_best.pt" "$small" \
      --decoder-keep "even:$depth" --compensate "$DATA"
    score_translation_file "compensated" "$small"
  done
done

repair "healed without a teacher, 25 %" untaught 1 --no-teacher
for depth in $DEPTHS; do
  translation "quarter$depth-s1" "${plain[@]}" --decoder-layers "$depth" --total-num-update 520 --max-update 520
  score_translation "from scratch, 25 %" "quarter$depth-s1" all/all
done
for depth in 3 1; do
  translation "taught$depth-s1" "${plain[@]}" --decoder-layers "$depth" --criterion layerdrop_distill --distill-weight 1 \
    --distill-teacher "$WORK/multi30k/p0-s1/checkpoint_best.pt"
  score_translation "from scratch, same teacher" "taught$depth-s1" all/all
done
draw "Multi30k en-de, test2016: a 6+6 model cut and healed, and models from scratch"
