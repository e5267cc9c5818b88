#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Multi30k English-German: one sentencepiece BPE of 8,000 pieces for both languages, then fairseq's binary form.
#   scripts/multi30k/1_prepare.sh RAW [WORK]
# RAW holds train, valid, test2016, test2017 and test2017mscoco as .en.gz and .de.gz (task 1, raw).
set -euo pipefail
RAW=${1:?the folder with train.en.gz, train.de.gz, …}
WORK=${2:-runs/multi30k}
HERE=$(cd "$(dirname "$0")/.." && pwd)
SPLITS="train valid test2016 test2017 test2017mscoco"

mkdir -p "$WORK/text"
for split in $SPLITS; do
  for lang in en de; do
    gzip -dc "$RAW/$split.$lang.gz" > "$WORK/text/$split.$lang"
  done
done

python "$HERE/sentencepiece_bpe.py" train "$WORK/bpe" 8000 "$WORK/text/train.en" "$WORK/text/train.de"
for split in $SPLITS; do
  for lang in en de; do
    python "$HERE/sentencepiece_bpe.py" encode "$WORK/bpe" < "$WORK/text/$split.$lang" > "$WORK/text/$split.bpe.$lang"
  done
done

fairseq-preprocess --source-lang en --target-lang de --joined-dictionary --destdir "$WORK/data-bin" \
  --trainpref "$WORK/text/train.bpe" --validpref "$WORK/text/valid.bpe" \
  --testpref "$WORK/text/test2016.bpe,$WORK/text/test2017.bpe,$WORK/text/test2017mscoco.bpe"
