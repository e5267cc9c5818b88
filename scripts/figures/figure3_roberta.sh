#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Figures 3 and 8: RoBERTa pre-trained with LayerDrop 0.1, 0.2 and 0.5, pruned to 12, 6 and 3 layers, then fine-tuned; beside
# it small ones that were pre-trained from scratch, and one that saw half of the text for as many updates.
# As in the paper the whole model is fine-tuned with LayerDrop, the pruned ones without.
#   scripts/figures/figure3_roberta.sh [WORK [OUT]]
. "$(dirname "$0")/models.sh"
results=$OUT

RATES=${RATES:-0.1 0.2 0.5}
for p in $RATES; do masked_language_model "p$p" data-bin --encoder-layerdrop "$p"; done
masked_language_model half half-bin --encoder-layerdrop 0.2
for depth in 6 3; do masked_language_model "scratch$depth" data-bin --encoder-layerdrop 0 --encoder-layers "$depth"; done

fine_tune() { # CURVE PRE-TRAINED DEPTH LAYERDROP: on TASK, for UPDATES
  local file="$WORK/roberta/$2/kept-$3.pt"
  [ -f "$file" ] || fairseq-layerdrop prune "$WORK/roberta/$2/checkpoint_best.pt" "$file" --encoder-keep "even:$3"
  classify "$TASK" "$2-$3" "$file" "$UPDATES" --encoder-layers "$3" --encoder-layerdrop "$4"
  score "glue/$TASK" "$1" "glue/$TASK/$2-$3" all --gen-subset valid
}

depths() { # CURVE PRE-TRAINED RATE
  fine_tune "$1" "$2" 12 "$3"
  for depth in 6 3; do fine_tune "$1" "$2" "$depth" 0; done
}

while read -r TASK UPDATES; do
  OUT="$results/$TASK"
  for p in $RATES; do depths "LayerDrop $p" "p$p" "$p"; done
  depths "LayerDrop 0.2, half of the text" half 0.2
  for depth in 6 3; do fine_tune "pre-trained from scratch" "scratch$depth" "$depth" 0; done
  draw "RoBERTa of 12 layers, pruned, then fine-tuned on $TASK"
done <<< "${TASKS:-sst2 800
mrpc 230
rte 156}"
