#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# The main job in small, 4 to 10 minutes on two cores after set-up: train a 6+6 model with LayerDrop and its twin without, prune
# both to several depths, translate with stock fairseq, and draw BLEU against depth (the paper's Figure 2).
#   scripts/demo.sh [WORK]
set -euo pipefail
cd "$(dirname "$0")/.."
WORK=${1:-runs/demo}
scripts/setup.sh
export PATH="$PWD/.venv/bin:$PATH" OMP_NUM_THREADS=1

say() { printf '\n== %s\n' "$*"; }
both() { "$1" layerdrop & first=$!; "$1" plain & second=$!; wait "$first" && wait "$second"; }

say "1/5 a synthetic bilingual corpus"
python scripts/demo/make_corpus.py "$WORK/text"
rm -rf "$WORK/data-bin"
fairseq-preprocess --source-lang src --target-lang tgt --destdir "$WORK/data-bin" --trainpref "$WORK/text/train" \
  --validpref "$WORK/text/valid" --testpref "$WORK/text/test" > "$WORK/preprocess.log" 2>&1

train() {
  declare -A rate=([layerdrop]=0.2 [plain]=0)
  fairseq-train "$WORK/data-bin" --user-dir "$(fairseq-layerdrop user-dir)" --task layerdrop_translation \
    --arch layerdrop_transformer --encoder-layerdrop "${rate[$1]}" --decoder-layerdrop "${rate[$1]}" \
    --encoder-layers 6 --decoder-layers 6 --encoder-embed-dim 64 --encoder-ffn-embed-dim 128 \
    --encoder-attention-heads 4 --decoder-attention-heads 4 --share-decoder-input-output-embed \
    --encoder-normalize-before --decoder-normalize-before --dropout 0 \
    --optimizer adam --adam-betas '(0.9, 0.98)' --clip-norm 1 --lr 3e-3 --lr-scheduler inverse_sqrt \
    --warmup-updates 300 --max-tokens 2000 --max-epoch 10 --seed 1 --required-batch-size-multiple 1 \
    --no-epoch-checkpoints --no-progress-bar --log-interval 100 --save-dir "$WORK/$1" 2>&1 | tee "$WORK/$1.log" |
    sed -unE "s/.*train_inner.* loss=([0-9.]+).*num_updates=([0-9]+).*/  $1: \2 of 900 updates, loss \1/p"
}
say "2/5 train with LayerDrop 0.2 and without, side by side"
both train

DEPTHS="6 4 3 2 1"
prune() {
  mkdir -p "$WORK/pruned"
  for depth in $DEPTHS; do
    fairseq-layerdrop prune "$WORK/$1/checkpoint_last.pt" "$WORK/pruned/$1.6+$depth.pt" \
      --decoder-keep "even:$depth" --force > "$WORK/pruned/$1.6+$depth.txt"
    echo "  $1: decoder pruned to $depth of 6 layers"
  done
}
say "3/5 prune: ordinary fairseq checkpoints of every depth"
both prune

score() {
  python scripts/score_checkpoints.py "$WORK/data-bin" --reference "$WORK/text/test.tgt" --curve "$1" \
    --rows "$WORK/rows.$1.jsonl" $(printf "$WORK/pruned/$1.6+%s.pt " $DEPTHS) -- --gen-subset test --beam 4
}
say "4/5 translate with stock fairseq-generate, score with sacreBLEU"
both score

say "5/5 draw"
fairseq-layerdrop report "$WORK"/rows.layerdrop.jsonl "$WORK"/rows.plain.jsonl "$WORK/report" \
  --title "A 6+6 Transformer, its decoder pruned" > /dev/null
cat "$WORK/report/table.md"
cat <<END
The figure: $WORK/report/figure.png; as a page: $WORK/report/report.html
Try next, after  . .venv/bin/activate :
  fairseq-layerdrop inspect $WORK/layerdrop/checkpoint_last.pt
  fairseq-layerdrop prune $WORK/layerdrop/checkpoint_last.pt $WORK/small.pt --encoder-keep every:2 --decoder-keep 0,2,5
  fairseq-generate $WORK/data-bin --path $WORK/small.pt --beam 4 --required-batch-size-multiple 1
END
