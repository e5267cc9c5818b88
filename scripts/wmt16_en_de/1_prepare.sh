#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# WMT16 en-de: Google's text, tokenized and in BPE of 32K, then fairseq's binary form (as fairseq's scaling_nmt).
# If Google Drive asks for a confirmation, get the archive with a browser and put it at DATA/wmt16_en_de.tar.gz.
#   scripts/wmt16_en_de/1_prepare.sh DATA [WORK]
set -euo pipefail
DATA=${1:?a folder for the download, 0.5 GB}
WORK=${2:-runs/wmt16_en_de}
HERE=$(cd "$(dirname "$0")/.." && pwd)

URL="https://drive.google.com/uc?export=download&confirm=t&id=0B_bZck-ksdkpM25jRUN2X2UxMm8"
"$HERE/fetch.sh" "$URL" "$DATA/wmt16_en_de.tar.gz"
mkdir -p "$WORK/text"
tar -xzf "$DATA/wmt16_en_de.tar.gz" -C "$WORK/text"
fairseq-preprocess --source-lang en --target-lang de --joined-dictionary --nwordssrc 32768 --nwordstgt 32768 \
  --trainpref "$WORK/text/train.tok.clean.bpe.32000" --validpref "$WORK/text/newstest2013.tok.bpe.32000" \
  --testpref "$WORK/text/newstest2014.tok.bpe.32000" --destdir "$WORK/data-bin" --workers "$(nproc)"
