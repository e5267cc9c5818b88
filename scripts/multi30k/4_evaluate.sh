#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Translate test2016 with every pruned model, by stock fairseq-generate; rows, table and figure go to OUT.
#   scripts/multi30k/4_evaluate.sh [WORK [OUT]]
set -euo pipefail
WORK=${1:-runs/multi30k}
OUT=${2:-$WORK/report}
HERE=$(cd "$(dirname "$0")/.." && pwd)
declare -A NAME=([layerdrop]="LayerDrop 0.2" [plain]="no LayerDrop")

mkdir -p "$OUT"
for run in layerdrop plain; do
  python "$HERE/score_checkpoints.py" "$WORK/data-bin" --reference "$WORK/text/test2016.de" \
    --curve "${NAME[$run]}" --rows "$OUT/rows.jsonl" "$WORK/pruned/$run".*.pt -- \
    --source-lang en --target-lang de --gen-subset test --beam 5 --lenpen 1.0 --batch-size 64 \
    --remove-bpe sentencepiece
done
fairseq-layerdrop report "$OUT/rows.jsonl" "$OUT" --title "Multi30k en-de, test2016: a 6+6 Transformer, decoder pruned"
