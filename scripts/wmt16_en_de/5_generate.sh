#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Translate newstest2014 with stock fairseq and score it twice: BLEU with compounds split, which is the paper's and is
# not comparable with any other, and sacreBLEU on detokenized text. Needs sacremoses.
#   scripts/wmt16_en_de/5_generate.sh 6_6|12_6 [WORK [FLAGS]]
# Beam 8, lenpen 0.6 as in the paper; fairseq's README has --lenpen 0.4 for the released 12+6 model (30.17).
set -euo pipefail
SIZE=${1:?6_6 or 12_6}
WORK=${2:-runs/wmt16_en_de}
split() { sed -E 's/(\S)-(\S)/\1 ##AT##-##AT## \2/g'; } # as fairseq's compound_split_bleu.sh

for model in "$WORK/pruned/$SIZE".*.pt; do
  out=${model%.pt}
  fairseq-generate "$WORK/data-bin" --source-lang en --target-lang de --path "$model" --gen-subset test \
    --beam 8 --lenpen 0.6 --remove-bpe --batch-size 64 --required-batch-size-multiple 1 "${@:3}" > "$out.gen"
  grep '^H-' "$out.gen" | cut -f3- | split > "$out.sys"
  grep '^T-' "$out.gen" | cut -f2- | split > "$out.ref"
  echo "$model: BLEU of tokens, compounds split (the paper's)"
  fairseq-score --sys "$out.sys" --ref "$out.ref"
  echo "$model: sacreBLEU, wmt14/full, detokenized"
  grep '^H-' "$out.gen" | sed 's/^H-//' | sort -n | cut -f3- | sacremoses -l de detokenize |
    sacrebleu --test-set wmt14/full --language-pair en-de
done
