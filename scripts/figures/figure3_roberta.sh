#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Figures 3 and 8: RoBERTa pre-trained with LayerDrop 0.1, 0.2 and 0.5, pruned to 12, 6 and 3 layers, then fine-tuned; beside
# it small ones that were pre-trained from scratch, and one that saw half of the text for as many updates.
# As in the paper the whole model is fine-tuned with LayerDrop, the pruned ones without.
#   scripts/figures/figure3_roberta.sh [WORK [OUT]]
. "$(dirname "$0")/models.sh"
results=$OUT

declare -A updates=([sst2]=800 [rte]=156 [mrpc]=230) # of 32: of RTE and MRPC two epochs

fine_tune() { # CURVE PRE-TRAINED DEPTH LAYERDROP
  local file="$WORK/roberta/$2/kept-$3.pt"
  [ -f "$file" ] || fairseq-layerdrop prune "$WORK/roberta/$2/checkpoint_best.pt" "$file" --encoder-keep "even:$3"
  for task in sst2 rte mrpc; do
    classify "$task" "$2-$3" "$file" "${updates[$task]}" --encoder-layers "$3" --encoder-layerdrop "$4"
    OUT="$results/$task" score "glue/$task" "$1" "glue/$task/$2-$3" all --gen-subset valid
  done
}

for p in 0.1 0.2 0.5; do
  masked_language_model "p$p" data-bin --encoder-layerdrop "$p"
  fine_tune "LayerDrop $p" "p$p" 12 "$p"
  for depth in 6 3; do fine_tune "LayerDrop $p" "p$p" "$depth" 0; done
done
masked_language_model half half-bin --encoder-layerdrop 0.2
fine_tune "LayerDrop 0.2, half of the text" half 12 0.2
for depth in 6 3; do fine_tune "LayerDrop 0.2, half of the text" half "$depth" 0; done
for depth in 6 3; do
  masked_language_model "scratch$depth" data-bin --encoder-layerdrop 0 --encoder-layers "$depth"
  fine_tune "pre-trained from scratch" "scratch$depth" "$depth" 0
done
for task in sst2 rte mrpc; do
  OUT="$results/$task" draw "RoBERTa of 12 layers, pruned, then fine-tuned on $task"
done
