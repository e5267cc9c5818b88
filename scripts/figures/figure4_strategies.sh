#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Figure 4, right: which layers to keep. A greedy search sees one half of WikiText-2's valid set; all are scored on the test set.
#   scripts/figures/figure4_strategies.sh [WORK [OUT]]
. "$(dirname "$0")/models.sh"

language_model p0.2-s1 --decoder-layerdrop 0.2
full=lm/p0.2-s1
score wikitext-2 "Every Other (even)" "$full" "even:8 even:4"
score wikitext-2 "first layers" "$full" "first:8 first:4"
score wikitext-2 "last layers" "$full" "last:8 last:4"
for depth in 8 4; do
  plan=$(fairseq-layerdrop search "$WORK/wikitext-2/data-bin" "$OUT/trials.jsonl" --path "$WORK/$full/checkpoint_best.pt" \
    --method greedy --decoder-depth "$depth" --screen 0.2 --threads 1 --json | python -c 'import json, sys; print(json.load(sys.stdin)["winner"])')
  score wikitext-2 "Search" "$full" "$plan"
done

language_model learned --decoder-layerdrop 0.5 --layerdrop-schedule learned
language_model p0.5-s1 --decoder-layerdrop 0.5
score wikitext-2 "Every Other, trained at 0.5" lm/p0.5-s1 "even:8 even:4"
score wikitext-2 "Every Other, rates learned" lm/learned "even:8 even:4"
for depth in 8 4; do
  fairseq-layerdrop prune "$WORK/lm/learned/checkpoint_best.pt" "$WORK/lm/learned/kept-$depth.pt" --decoder-keep "learned:$depth" --force
  fairseq-layerdrop sweep "$WORK/wikitext-2/data-bin" "$OUT/rows.jsonl" --path "$WORK/lm/learned/kept-$depth.pt" \
    --curve "Data Driven, rates learned" --points all --threads 1
done
draw "WikiText-2, 16 layers: which of them to keep"
