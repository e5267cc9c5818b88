#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Any depth, summarization: one training of all depths (--train-plans, with the whole model as the teacher of the same step)
# beside the curves of figure 2; and the same with the whole model alone in the first half.
#   scripts/figures/any_depth_summarization.sh [WORK [OUT]]
set -- "${1:-runs/figures}" "${2:-results/any_depth/summarization}"
. "$(dirname "$0")/models.sh"
POINTS="6+4 6+3 6+2 6+1"

reuse figure2_summarization

# family CURVE RUN FLAGS...
family() {
  summarization "$2" --encoder-layerdrop 0 --decoder-layerdrop 0 --train-plans "$POINTS" \
    --criterion layerdrop_distill --distill-weight 1 --max-epoch 8 --total-num-update 4800 "${@:3}"
  score samsum "$1" "samsum/$2" "$POINTS" \
    --metrics loss,rouge --remove-bpe sentencepiece --reference "$WORK/samsum/text/test.target" --max-len-b 60
}

family "train plans" plans-s1
family "train plans, the first half whole" plans-warmup-s1 --train-plans-warmup-updates 2400
draw "SAMSum: one training of all depths, and the others"
