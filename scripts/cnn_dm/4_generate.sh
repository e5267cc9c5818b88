#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Summarize with stock fairseq; ROUGE-1, -2 and -L, F1, by rouge-score with stemming, of tokenized text, ROUGE-L of the
# text as one. (The paper names no ROUGE; ROUGE-1.5.5 splits sentences for L: do not compare L to the digit.)
#   MIN_LEN=50 scripts/cnn_dm/4_generate.sh 6_6|6_8 [WORK [FLAGS]]
# The paper tunes a "length in {40, 50, 60}" on valid (add --gen-subset valid) and blocks 3-grams. Guesses: that the
# length is the least one, in pieces; beam 4 and at most 140 pieces, as BART's.
set -euo pipefail
SIZE=${1:?6_6 or 6_8}
WORK=${2:-runs/cnn_dm}
HERE=$(cd "$(dirname "$0")/.." && pwd)

for model in "$WORK/pruned/$SIZE".*.pt; do
  fairseq-generate "$WORK/data-bin" --source-lang source --target-lang target --path "$model" --gen-subset test \
    --beam 4 --no-repeat-ngram-size 3 --min-len "${MIN_LEN:-50}" --max-len-a 0 --max-len-b 140 \
    --remove-bpe --batch-size 64 --required-batch-size-multiple 1 "${@:3}" > "${model%.pt}.gen"
  python "$HERE/score_rouge.py" "${model%.pt}.gen"
done
