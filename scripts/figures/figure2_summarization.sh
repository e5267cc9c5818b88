#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Figure 2, summarization: ROUGE on SAMSum's test set against the decoder's depth.
#   scripts/figures/figure2_summarization.sh [WORK [OUT]]
. "$(dirname "$0")/models.sh"
POINTS="6+4 6+3 6+2 6+1"
texts=(--metrics loss,rouge --remove-bpe sentencepiece --reference "$WORK/samsum/text/test.target" --max-len-b 60)

for p in 0.2 0; do
  summarization "p$p-s1" --encoder-layerdrop "$p" --decoder-layerdrop "$p"
done
score samsum "LayerDrop 0.2, pruned" samsum/p0.2-s1 "$POINTS" "${texts[@]}"
score samsum "no LayerDrop, pruned" samsum/p0-s1 "$POINTS" "${texts[@]}"
for depth in 4 3 2 1; do
  summarization "scratch$depth-s1" --encoder-layerdrop 0 --decoder-layerdrop 0 --decoder-layers "$depth"
  score samsum "from scratch" "samsum/scratch$depth-s1" all/all "${texts[@]}"
done
draw "SAMSum: a 6+6 model, its decoder pruned, and from scratch"
