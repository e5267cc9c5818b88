#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# The data of the figures, in fairseq's binary form; what is there is kept.
#   scripts/figures/prepare.sh RAW [WORK]
# RAW has a folder for each data set: multi30k, wikitext-2, samsum, glue/{sst2,rte,mrpc}, with the files that the commands
# below name, compressed by gzip. A data set that is not there is left out.
set -euo pipefail
RAW=${1:?the folder with multi30k, wikitext-2, samsum and glue}
WORK=${2:-runs/figures}
HERE=$(cd "$(dirname "$0")" && pwd)
BPE="$HERE/../sentencepiece_bpe.py"

unpack() { mkdir -p "$2" && for file in "$1"/*.gz; do gzip -dc "$file" > "$2/$(basename "$file" .gz)"; done; }
# preprocess DEST FLAGS...: DEST is there when it is whole.
preprocess() { rm -rf "$1.part" && fairseq-preprocess --destdir "$1.part" "${@:2}" && mv "$1.part" "$1"; }
pieces() { for file in "${@:2}"; do python "$BPE" encode "$1" < "$file" > "${file%.*}.bpe.${file##*.}"; done; }

# missing MADE DATA: MADE is not there, and DATA, of which it is made, is.
missing() {
  if [ ! -d "$RAW/$2" ]; then echo "no $RAW/$2: left out" >&2 && return 1; fi
  [ ! -d "$WORK/$1" ]
}

if missing multi30k/data-bin multi30k; then
  rm -rf "$WORK/multi30k.part" && "$HERE/../multi30k/1_prepare.sh" "$RAW/multi30k" "$WORK/multi30k.part"
  mv "$WORK/multi30k.part" "$WORK/multi30k"
fi

if missing wikitext-2/tenth-bin wikitext-2; then # words, as the paper's Wikitext-103; a tenth of the valid set for what scores hundreds of sub-networks
  unpack "$RAW/wikitext-2" "$WORK/wikitext-2/text"
  text="$WORK/wikitext-2/text"
  head -n "$(($(wc -l < "$text/valid.txt") / 10))" "$text/valid.txt" > "$text/tenth.txt"
  rm -rf "$WORK/wikitext-2/data-bin"
  preprocess "$WORK/wikitext-2/data-bin" --only-source \
    --trainpref "$text/train.txt" --validpref "$text/valid.txt" --testpref "$text/test.txt"
  preprocess "$WORK/wikitext-2/tenth-bin" --only-source --srcdict "$WORK/wikitext-2/data-bin/dict.txt" \
    --validpref "$text/tenth.txt"
fi

if missing samsum/data-bin samsum; then # sources cut to 100 words; the paper cuts those of CNN-DM to 400
  unpack "$RAW/samsum" "$WORK/samsum/text"
  text="$WORK/samsum/text"
  for split in train valid test; do
    cut -d ' ' -f 1-100 "$text/$split.source" > "$text/cut" && mv "$text/cut" "$text/$split.source"
  done
  python "$BPE" train "$WORK/samsum/bpe" 8000 "$text/train.source" "$text/train.target"
  pieces "$WORK/samsum/bpe" "$text"/{train,valid,test}.{source,target}
  preprocess "$WORK/samsum/data-bin" --source-lang source --target-lang target --joined-dictionary \
    --trainpref "$text/train.bpe" --validpref "$text/valid.bpe" --testpref "$text/test.bpe"
fi

# Lower case, for SST-2 has no other; half of the text in a folder of its own, for the question what more data brings.
if missing roberta/half-bin wikitext-2; then
  unpack "$RAW/wikitext-2" "$WORK/roberta/text"
  text="$WORK/roberta/text"
  sed -i 's/.*/\L&/' "$text"/{train,valid,test}.txt
  python "$BPE" train "$WORK/roberta/bpe" 8000 "$text/train.txt"
  pieces "$WORK/roberta/bpe" "$text"/{train,valid,test}.txt
  head -n "$(($(wc -l < "$text/train.bpe.txt") / 2))" "$text/train.bpe.txt" > "$text/half.bpe.txt"
  rm -rf "$WORK/roberta/data-bin"
  preprocess "$WORK/roberta/data-bin" --only-source \
    --trainpref "$text/train.bpe.txt" --validpref "$text/valid.bpe.txt" --testpref "$text/test.bpe.txt"
  preprocess "$WORK/roberta/half-bin" --only-source --srcdict "$WORK/roberta/data-bin/dict.txt" \
    --trainpref "$text/half.bpe.txt" --validpref "$text/valid.bpe.txt" --testpref "$text/test.bpe.txt"
fi

column() { awk -F '\t' -v name="$1" 'NR == 1 { for (i = 1; i <= NF; i++) if ($i == name) column = i; next } { print $column }'; }

glue() { # a task, and its columns: the label, then one sentence or two
  local folder="$WORK/glue/$1" label=$2 inputs=("${@:3}")
  missing "glue/$1/data-bin/label" "glue/$1" || return 0
  rm -rf "$folder"
  unpack "$RAW/glue/$1" "$folder/text"
  if [ ! -f "$folder/text/dev.tsv" ]; then # MRPC: as GLUE does, 408 pairs of the training set
    { head -n 1 "$folder/text/train.tsv" && tail -n 408 "$folder/text/train.tsv"; } > "$folder/text/dev.tsv"
    head -n -408 "$folder/text/train.tsv" > "$folder/text/cut" && mv "$folder/text/cut" "$folder/text/train.tsv"
  fi
  for split in train dev; do
    column "$label" < "$folder/text/$split.tsv" > "$folder/text/$split.label"
    for i in "${!inputs[@]}"; do
      column "${inputs[i]}" < "$folder/text/$split.tsv" | sed 's/.*/\L&/' |
        python "$BPE" encode "$WORK/roberta/bpe" > "$folder/text/$split.input$i"
    done
  done
  for i in "${!inputs[@]}"; do
    preprocess "$folder/data-bin/input$i" --only-source --srcdict "$WORK/roberta/data-bin/dict.txt" \
      --trainpref "$folder/text/train.input$i" --validpref "$folder/text/dev.input$i"
  done
  preprocess "$folder/data-bin/label" --only-source \
    --trainpref "$folder/text/train.label" --validpref "$folder/text/dev.label"
}
glue sst2 label sentence
glue rte label sentence1 sentence2
glue mrpc label sentence1 sentence2
