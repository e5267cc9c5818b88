#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Text in GPT-2's byte-level BPE, then fairseq's binary form (as fairseq's RoBERTa example).
# DATA holds train.txt and valid.txt, an empty line between documents. The paper's text is yours to collect: BooksCorpus,
# Wikipedia's dumps, OpenWebText, CC-News and Stories. To try the recipe: wikitext-103-raw-v1.zip
# of https://s3.amazonaws.com/research.metamind.io/wikitext/.
#   scripts/roberta/1_prepare.sh DATA [WORK]
set -euo pipefail
DATA=${1:?the folder with train.txt and valid.txt}
WORK=${2:-runs/roberta}
HERE=$(cd "$(dirname "$0")/.." && pwd)

"$HERE/record.sh" "$DATA" train.txt valid.txt
mkdir -p "$WORK/text"
for split in train valid; do
  "$HERE/gpt2_bpe.sh" "$DATA" < "$DATA/$split.txt" > "$WORK/text/$split.bpe"
done
fairseq-preprocess --only-source --srcdict "$DATA/dict.txt" --destdir "$WORK/data-bin" --workers "$(nproc)" \
  --trainpref "$WORK/text/train.bpe" --validpref "$WORK/text/valid.bpe"
