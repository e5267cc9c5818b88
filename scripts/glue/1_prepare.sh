#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# GLUE's train and dev sets in GPT-2's BPE and fairseq's binary form (as fairseq's preprocess_GLUE_tasks.sh).
# DATA is the folder that download_glue_data.py makes, with MNLI, QNLI, SST-2 and MRPC in it:
# https://gist.github.com/W4ngatang/60c2bdb54d156a41194446737ce03e2e
#   scripts/glue/1_prepare.sh DATA [WORK]
set -euo pipefail
DATA=${1:?the folder with MNLI, QNLI, SST-2 and MRPC}
WORK=${2:-runs/glue}
HERE=$(cd "$(dirname "$0")/.." && pwd)

# prepare TASK SPLIT COLUMN-OF-LABEL COLUMN-OF-TEXT...
prepare() {
  tail -n +2 "$DATA/$1/$2.tsv" | cut -f"$3" > "$WORK/text/$1.$2.label"
  for i in "${@:4}"; do
    tail -n +2 "$DATA/$1/$2.tsv" | cut -f"$i" | "$HERE/gpt2_bpe.sh" "$DATA/bpe" > "$WORK/text/$1.$2.$i"
  done
}
# binarize TASK SETS-FOR-VALID COLUMN-OF-TEXT...
binarize() {
  local input=0
  for i in "${@:3}"; do
    fairseq-preprocess --only-source --srcdict "$DATA/bpe/dict.txt" --trainpref "$WORK/text/$1.train.$i" \
      --validpref "${2//SIDE/$i}" --destdir "$WORK/$1-bin/input$((input++))" --workers "$(nproc)"
  done
  fairseq-preprocess --only-source --trainpref "$WORK/text/$1.train.label" --validpref "${2//SIDE/label}" \
    --destdir "$WORK/$1-bin/label"
}

"$HERE/record.sh" "$DATA" MNLI/{train,dev_matched,dev_mismatched}.tsv {QNLI,SST-2,MRPC}/{train,dev}.tsv
mkdir -p "$WORK/text"
prepare MNLI train 12 9 10; prepare MNLI dev_matched 16 9 10; prepare MNLI dev_mismatched 16 9 10
for split in train dev; do prepare QNLI $split 4 2 3; prepare SST-2 $split 2 1; prepare MRPC $split 1 4 5; done
binarize MNLI "$WORK/text/MNLI.dev_matched.SIDE,$WORK/text/MNLI.dev_mismatched.SIDE" 9 10
binarize QNLI "$WORK/text/QNLI.dev.SIDE" 2 3
binarize SST-2 "$WORK/text/SST-2.dev.SIDE" 1
binarize MRPC "$WORK/text/MRPC.dev.SIDE" 4 5
