#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# CNN-DM, non-anonymized: the first 400 words of each article, joint BPE of 32K, fairseq's binary form.
# DATA holds train, val and test as .source and .target, as github.com/artmatsak/cnn-dailymail (after abisee's) makes
# them. Guess: Moses tokens; the paper names no tokenizer. Needs git, perl, subword-nmt.
#   scripts/cnn_dm/1_prepare.sh DATA [WORK]
set -euo pipefail
DATA=${1:?the folder with train.source, train.target, val.source, …}
WORK=${2:-runs/cnn_dm}
HERE=$(cd "$(dirname "$0")/.." && pwd)
MOSES=$DATA/mosesdecoder/scripts
TEXT=$WORK/text

"$HERE/record.sh" "$DATA" {train,val,test}.{source,target}
[ -d "$MOSES" ] || git clone https://github.com/moses-smt/mosesdecoder.git "$DATA/mosesdecoder"
mkdir -p "$TEXT"
tokens() { perl "$MOSES/tokenizer/tokenizer.perl" -no-escape -threads 8 -l en; }
for split in train val test; do
  tokens < "$DATA/$split.source" | cut -d' ' -f1-400 > "$TEXT/$split.source"
  tokens < "$DATA/$split.target" > "$TEXT/$split.target"
done
cat "$TEXT/train.source" "$TEXT/train.target" | subword-nmt learn-bpe -s 32000 > "$TEXT/codes"
for split in train val test; do
  for side in source target; do
    subword-nmt apply-bpe -c "$TEXT/codes" < "$TEXT/$split.$side" > "$TEXT/$split.bpe.$side"
  done
done
fairseq-preprocess --source-lang source --target-lang target --joined-dictionary --destdir "$WORK/data-bin" \
  --trainpref "$TEXT/train.bpe" --validpref "$TEXT/val.bpe" --testpref "$TEXT/test.bpe" --workers "$(nproc)"
