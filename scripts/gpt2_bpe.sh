#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# GPT-2's byte-level BPE by fairseq's own program; codes and dictionary are downloaded once (see fetch.sh).
#   scripts/gpt2_bpe.sh DATA < TEXT > PIECES
set -euo pipefail
DATA=${1:?a folder for the downloads}
HERE=$(cd "$(dirname "$0")" && pwd)

for file in encoder.json vocab.bpe dict.txt; do
  "$HERE/fetch.sh" "https://dl.fbaipublicfiles.com/fairseq/gpt2_bpe/$file" "$DATA/$file"
done
python -m fairseq.examples.roberta.multiprocessing_bpe_encoder --encoder-json "$DATA/encoder.json" \
  --vocab-bpe "$DATA/vocab.bpe" --keep-empty --workers "$(nproc)"
