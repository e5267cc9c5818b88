#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Sequence-level distillation (Kim and Rush 2016): the training set, translated once by the whole model, is put beside the real one.
# Then train or heal a small model on OUT: fairseq-layerdrop heal OUT healed/ --path FULL --points "6+3 6+1"
#   scripts/distill_sequences.sh DATA FULL SOURCE TARGET OUT       e.g. data-bin full.pt en de data-bin.distilled
set -euo pipefail
DATA=${1:?DATA} FULL=${2:?FULL} SOURCE=${3:?SOURCE} TARGET=${4:?TARGET} OUT=${5:?OUT}
TEXT="$OUT.text"
mkdir -p "$TEXT"

# All sentences, in their pieces: no --remove-bpe. Lines S-, T- and H- have source, target and translation of the same sentence.
fairseq-generate "$DATA" --path "$FULL" --gen-subset train --source-lang "$SOURCE" --target-lang "$TARGET" \
  --beam 5 --max-tokens 8000 --required-batch-size-multiple 1 > "$TEXT/generated"
grep '^S-' "$TEXT/generated" | cut -f 2 > "$TEXT/source"
grep '^T-' "$TEXT/generated" | cut -f 2 > "$TEXT/real"
grep '^H-' "$TEXT/generated" | cut -f 3 > "$TEXT/translated"
cat "$TEXT/source" "$TEXT/source" > "$TEXT/train.$SOURCE"
cat "$TEXT/real" "$TEXT/translated" > "$TEXT/train.$TARGET"

fairseq-preprocess --source-lang "$SOURCE" --target-lang "$TARGET" --trainpref "$TEXT/train" --destdir "$OUT" \
  --srcdict "$DATA/dict.$SOURCE.txt" --tgtdict "$DATA/dict.$TARGET.txt"
cp "$DATA"/valid.* "$DATA"/test*.* "$OUT"
