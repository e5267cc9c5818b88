#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Table 8: healing. Half of the decoder's layers go from a model that was trained with LayerDrop 0.2; two more epochs after that,
# or before it at a rate of 0.5, with and without self-distillation. BLEU on Multi30k's test2016.
#   scripts/figures/table8_healing.sh [WORK [OUT]]
. "$(dirname "$0")/models.sh"
full="$WORK/multi30k/p0.2-s1/checkpoint_best.pt" small="$WORK/multi30k/p0.2-s1/6+3.pt"

translation p0.2-s1 --encoder-layerdrop 0.2 --decoder-layerdrop 0.2
[ -f "$small" ] || fairseq-layerdrop prune "$full" "$small" --decoder-keep every:2
score_translation "pruned" p0.2-s1 6+3

heal healed "$small" --decoder-layers 3 --encoder-layerdrop 0 --decoder-layerdrop 0
score_translation "pruned, then two epochs" healed all/all
heal healed-layerdrop "$small" --decoder-layers 3 --encoder-layerdrop 0.2 --decoder-layerdrop 0.2
score_translation "pruned, then two epochs with LayerDrop 0.2" healed-layerdrop all/all
heal before "$full" --encoder-layerdrop 0.2 --decoder-layerdrop 0.5
score_translation "two epochs at 0.5, then pruned" before 6+3
heal distilled "$full" --encoder-layerdrop 0.2 --decoder-layerdrop 0.5 --criterion layerdrop_distill \
  --distill-criterion label_smoothed_cross_entropy --distill-weight 0.5
score_translation "two epochs at 0.5 with self-distillation, then pruned" distilled 6+3
draw "Multi30k en-de, 6+6 layers to 6+3: healing"
