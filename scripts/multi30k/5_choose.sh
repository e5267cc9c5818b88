#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Which layers? Importance, every one of the 3,969 sub-networks, the best within budgets, a sweep and a zoo of the model of
# 2_train.sh. About an hour on two cores for the first search; all that comes after it finds its rows.
#   scripts/multi30k/5_choose.sh [WORK [OUT]]
set -euo pipefail
WORK=${1:-runs/multi30k}
OUT=${2:-$WORK/choosing}
mkdir -p "$OUT"

full=(--path "$WORK/layerdrop/checkpoint_best.pt" --curve "LayerDrop 0.2" --threads 1 --max-tokens 500)
texts=(--metrics loss,bleu --remove-bpe sentencepiece)

fairseq-layerdrop importance "$WORK/data-bin" "$OUT/importance.jsonl" "${full[@]}" | tee "$OUT/importance.txt"

search() {
  fairseq-layerdrop search "$WORK/data-bin" "$OUT/trials.jsonl" "${full[@]}" "${texts[@]}" --test-subset test "${@:2}" | tee "$OUT/$1.txt"
}
search exhaustive --method exhaustive
search exhaustive.3+3 --method exhaustive --encoder-depth 3 --decoder-depth 3
search exhaustive.6+3 --method exhaustive --encoder-depth 6 --decoder-depth 3
search greedy --method greedy --metrics loss
search greedy.3+3 --method greedy --encoder-depth 3 --decoder-depth 3
search latency --method exhaustive --target-latency-ms "${LATENCY_MS:-45}"

fairseq-layerdrop sweep "$WORK/data-bin" "$OUT/rows.jsonl" "${full[@]}" --points "6+6 6+5 6+4 6+3 6+2 3+6 3+3" \
  --metrics loss,bleu,chrf,latency --remove-bpe sentencepiece --reference "$WORK/text/test2016.de" | tee "$OUT/sweep.txt"
fairseq-layerdrop zoo "$WORK/data-bin" "$WORK/zoo" "${full[@]}" --points "6+6 6+3 3+3" --metrics loss,bleu,latency \
  --remove-bpe sentencepiece --gen-subset test | tee "$OUT/zoo.txt"
[ ! -f "$WORK/zoo/manifest.json" ] || cp "$WORK/zoo/manifest.json" "$OUT/zoo.json"
fairseq-layerdrop report "$OUT/rows.jsonl" "$OUT/trials.jsonl" "$OUT/importance.jsonl" "$OUT" \
  --title "Multi30k en-de, 6+6 layers, LayerDrop 0.2"
