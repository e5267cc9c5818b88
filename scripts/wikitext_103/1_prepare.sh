#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Wikitext-103, words as they come, in fairseq's binary form (as fairseq's language_model example).
#   scripts/wikitext_103/1_prepare.sh DATA [WORK]
set -euo pipefail
DATA=${1:?a folder for the download, 0.2 GB}
WORK=${2:-runs/wikitext_103}
HERE=$(cd "$(dirname "$0")/.." && pwd)

"$HERE/fetch.sh" https://s3.amazonaws.com/research.metamind.io/wikitext/wikitext-103-v1.zip "$DATA/wikitext-103-v1.zip"
mkdir -p "$WORK/text"
python -m zipfile -e "$DATA/wikitext-103-v1.zip" "$WORK/text"
TEXT=$WORK/text/wikitext-103
fairseq-preprocess --only-source --destdir "$WORK/data-bin" --workers "$(nproc)" \
  --trainpref "$TEXT/wiki.train.tokens" --validpref "$TEXT/wiki.valid.tokens" --testpref "$TEXT/wiki.test.tokens"
