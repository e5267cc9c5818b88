#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Answer with stock fairseq; ROUGE-1, -2 and -L, F1, by rouge-score with stemming (ELI5's own script takes the package
# `rouge`: do not compare to the digit).
#   scripts/eli5/4_generate.sh [WORK [FLAGS]]
# Beam 5, 3-grams blocked, 150 to 200 pieces, as in the paper; ELI5's README has 200 to 500 (--min-len, --max-len-b).
set -euo pipefail
WORK=${1:-runs/eli5}
HERE=$(cd "$(dirname "$0")/.." && pwd)

for model in "$WORK"/pruned/*.pt; do
  fairseq-generate "$WORK/data-bin" --source-lang qd_source_bpe --target-lang qd_target_bpe --path "$model" \
    --gen-subset test --beam 5 --no-repeat-ngram-size 3 --min-len 150 --max-len-a 0 --max-len-b 200 --remove-bpe \
    --max-source-positions 4096 --max-target-positions 4096 --skip-invalid-size-inputs-valid-test \
    --batch-size 32 --required-batch-size-multiple 1 "${@:2}" > "${model%.pt}.gen"
  python "$HERE/score_rouge.py" "${model%.pt}.gen"
done
