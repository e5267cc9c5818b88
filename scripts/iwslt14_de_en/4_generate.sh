#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Translate the test set with stock fairseq and score it twice: BLEU of the lower-cased tokens, which is the paper's,
# and sacreBLEU of both sides detokenized, lower case too. Needs sacremoses.
#   scripts/iwslt14_de_en/4_generate.sh [WORK [FLAGS]]
set -euo pipefail
WORK=${1:-runs/iwslt14_de_en}
plain() { sed 's/^.-//' | sort -n | cut -f"$1" | sacremoses -l en detokenize; }

for model in "$WORK"/pruned/*.pt; do
  out=${model%.pt}
  fairseq-generate "$WORK/data-bin" --source-lang de --target-lang en --path "$model" --gen-subset test \
    --beam 4 --lenpen 1 --remove-bpe --batch-size 128 --required-batch-size-multiple 1 "${@:2}" > "$out.gen"
  grep '^H-' "$out.gen" | cut -f3- > "$out.sys"
  grep '^T-' "$out.gen" | cut -f2- > "$out.ref"
  echo "$model: BLEU of lower-cased tokens (the paper's)"
  fairseq-score --sys "$out.sys" --ref "$out.ref"
  echo "$model: sacreBLEU, lower case, detokenized"
  grep '^T-' "$out.gen" | plain 2- > "$out.ref.txt"
  grep '^H-' "$out.gen" | plain 3- | sacrebleu --lowercase "$out.ref.txt"
done
