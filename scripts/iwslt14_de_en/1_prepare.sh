#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# IWSLT14 de-en: Moses tokens, lower case, joint BPE of 10K, fairseq's binary form (as fairseq's prepare-iwslt14.sh).
# Needs git, perl and the program subword-nmt (pip install subword-nmt).
#   scripts/iwslt14_de_en/1_prepare.sh DATA [WORK]
set -euo pipefail
DATA=${1:?a folder for the downloads}
WORK=${2:-runs/iwslt14_de_en}
HERE=$(cd "$(dirname "$0")/.." && pwd)
MOSES=$DATA/mosesdecoder/scripts
TEXT=$WORK/text

[ -d "$MOSES" ] || git clone https://github.com/moses-smt/mosesdecoder.git "$DATA/mosesdecoder"
"$HERE/fetch.sh" http://dl.fbaipublicfiles.com/fairseq/data/iwslt14/de-en.tgz "$DATA/de-en.tgz"
mkdir -p "$TEXT"
tar -xzf "$DATA/de-en.tgz" -C "$TEXT"

tokens() { perl "$MOSES/tokenizer/tokenizer.perl" -threads 8 -l "$1"; }
lower() { perl "$MOSES/tokenizer/lowercase.perl"; }
for l in de en; do
  grep -vE '<url>|<talkid>|<keywords>' "$TEXT/de-en/train.tags.de-en.$l" |
    sed -E 's/<\/?(title|description)>//g' | tokens $l > "$TEXT/tok.$l"
done
perl "$MOSES/training/clean-corpus-n.perl" -ratio 1.5 "$TEXT/tok" de en "$TEXT/clean" 1 175
for l in de en; do
  lower < "$TEXT/clean.$l" > "$TEXT/lower.$l"
  awk 'NR % 23 == 0' "$TEXT/lower.$l" > "$TEXT/valid.$l"
  awk 'NR % 23 != 0' "$TEXT/lower.$l" > "$TEXT/train.$l"
  for set in TED.dev2010 TEDX.dev2012 TED.tst2010 TED.tst2011 TED.tst2012; do
    grep '<seg id' "$TEXT/de-en/IWSLT14.$set.de-en.$l.xml" |
      sed -E "s/<seg id=\"[0-9]*\">\s*//; s/\s*<\/seg>\s*//; s/’/'/g"
  done | tokens $l | lower > "$TEXT/test.$l"
done
cat "$TEXT/train.de" "$TEXT/train.en" | subword-nmt learn-bpe -s 10000 > "$TEXT/codes"
for split in train valid test; do
  for l in de en; do subword-nmt apply-bpe -c "$TEXT/codes" < "$TEXT/$split.$l" > "$TEXT/$split.bpe.$l"; done
done
fairseq-preprocess --source-lang de --target-lang en --destdir "$WORK/data-bin" --workers "$(nproc)" \
  --trainpref "$TEXT/train.bpe" --validpref "$TEXT/valid.bpe" --testpref "$TEXT/test.bpe"
