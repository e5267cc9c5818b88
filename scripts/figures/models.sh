# SPDX-License-Identifier: MIT
# Sourced by the scripts of the figures, which take [WORK [OUT]]: a function a task trains a model in small, once (one that
# was killed goes on); score and draw make the rows and the figure.
# Other sizes, by variables of the environment: flags of fairseq-train that win over those below (TRANSLATION_FLAGS,
# LANGUAGE_MODEL_FLAGS, MASKED_LM_FLAGS, CLASSIFY_FLAGS), flags of sweep (SWEEP_FLAGS), and SEEDS, DEPTHS, RATES and TASKS
# of the scripts that read them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." # the commands in the rows name files from here
WORK=${1:-runs/figures}
OUT=${2:-results/$(basename "$0" .sh)}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # so that two trainings fit beside each other on two cores
export PYTHONPATH="$PWD/scripts/figures/denormals${PYTHONPATH:+:$PYTHONPATH}" # which is a third faster; see there

train() { python scripts/figures/train.py "$WORK/$1" "${@:2}"; }

# score_file DATA CURVE FILE POINTS FLAGS...: rows of a model's sub-networks, unless they are there.
score_file() {
  mkdir -p "$OUT"
  fairseq-layerdrop sweep "$WORK/$1/data-bin" "$OUT/rows.jsonl" --path "$3" --curve "$2" \
    --points "$4" --threads 1 "${@:5}" ${SWEEP_FLAGS:-}
}

# score DATA CURVE RUN POINTS FLAGS...: the same of a training's best checkpoint, and the row of the training.
score() {
  score_file "$1" "$2" "$WORK/$3/checkpoint_best.pt" "${@:4}"
  grep -qsFf "$WORK/$3/training.json" "$OUT/rows.jsonl" || cat "$WORK/$3/training.json" >> "$OUT/rows.jsonl"
}

# reuse FIGURE: the rows of another figure, for the curves that both have.
reuse() {
  mkdir -p "$OUT"
  [ -f "$OUT/rows.jsonl" ] || cp "results/$1/rows.jsonl" "$OUT/rows.jsonl"
}

draw() { # the rows are there even where figures cannot be drawn
  if ! python -c 'import matplotlib' 2> /dev/null; then
    echo "no matplotlib: draw with  fairseq-layerdrop report $OUT/rows.jsonl $OUT --title \"$1\"" >&2
    return
  fi
  fairseq-layerdrop report "$OUT/rows.jsonl" "$OUT" --title "$1" "${@:2}"
}

# language_model RUN FLAGS...: 16 layers, d 64, adaptive input and softmax, 3 epochs of WikiText-2 in blocks of 128 words.
language_model() {
  train "lm/$1" "$WORK/wikitext-2/data-bin" --user-dir fairseq_layerdrop --task layerdrop_language_modeling \
    --arch layerdrop_transformer_lm --decoder-layers 16 --decoder-embed-dim 64 --decoder-input-dim 64 \
    --decoder-output-dim 64 --decoder-ffn-embed-dim 256 --decoder-attention-heads 4 --decoder-normalize-before \
    --adaptive-input --adaptive-input-cutoff 2000,10000 --tie-adaptive-weights --adaptive-softmax-cutoff 2000,10000 \
    --criterion adaptive_loss --ddp-backend legacy_ddp --dropout 0.1 --optimizer adam --adam-betas '(0.9, 0.98)' \
    --clip-norm 0.5 --lr 2e-3 --lr-scheduler polynomial_decay --warmup-updates 200 --total-num-update 3060 \
    --tokens-per-sample 128 --sample-break-mode none --max-tokens 2048 --max-epoch 3 --no-epoch-checkpoints --seed 1 \
    "${@:2}" ${LANGUAGE_MODEL_FLAGS:-}
}

# A small encoder-decoder, d 64. norms=() is fairseq's default, norms behind the blocks.
norms=(--encoder-normalize-before --decoder-normalize-before)
pairs=(--user-dir fairseq_layerdrop --task layerdrop_translation --arch layerdrop_transformer --encoder-layers 6 --decoder-layers 6
  --encoder-embed-dim 64 --encoder-ffn-embed-dim 256 --encoder-attention-heads 4 --decoder-attention-heads 4
  --share-all-embeddings --dropout 0.1
  --criterion label_smoothed_cross_entropy --label-smoothing 0.1 --optimizer adam --adam-betas '(0.9, 0.98)'
  --weight-decay 0.0001 --clip-norm 1.0 --lr-scheduler polynomial_decay --warmup-updates 300
  --required-batch-size-multiple 1 --no-epoch-checkpoints --seed 1)

# translation RUN FLAGS...: 6+6 layers, 8 epochs of Multi30k en-de.
translation() {
  train "multi30k/$1" "$WORK/multi30k/data-bin" --source-lang en --target-lang de "${pairs[@]}" "${norms[@]}" \
    --lr 3e-3 --total-num-update 2080 --max-tokens 2048 --max-epoch 8 "${@:2}" ${TRANSLATION_FLAGS:-}
}

# translation_plans RUN FLAGS...: all decoder depths in one training of eleven epochs, the whole model teaching in every step.
translation_plans() {
  translation "$1" --encoder-layerdrop 0 --decoder-layerdrop 0 --train-plans "6+5 6+4 6+3 6+2 6+1" \
    --criterion layerdrop_distill --distill-weight 1 --max-epoch 11 --total-num-update 2860 "${@:2}"
}

test2016=(--metrics loss,bleu,chrf --remove-bpe sentencepiece --reference "$WORK/multi30k/text/test2016.de")

# score_translation CURVE RUN POINTS: loss, BLEU and chrF on test2016.
score_translation() { score multi30k "$1" "multi30k/$2" "$3" "${test2016[@]}"; }

# score_translation_file CURVE FILE: the same of a file of any name, as it is.
score_translation_file() { score_file multi30k "$1" "$2" all/all "${test2016[@]}"; }

# repair CURVE RUN FOLDER DEPTHS FLAGS...: a training's best checkpoint, healed to each of the decoder depths, and scored.
repair() {
  local folder="$WORK/multi30k/$3" depth points
  points=$(for depth in $4; do echo "6+$depth"; done)
  mkdir -p "${folder%/*}"
  fairseq-layerdrop heal "$WORK/multi30k/data-bin" "$folder" --path "$WORK/multi30k/$2/checkpoint_best.pt" --points "$points" "${@:5}"
  for depth in $4; do score_translation_file "$1" "$folder/6+$depth.pt"; done
}

# compensate RUN FOLDER DEPTHS: the same, cut and compensated without training.
compensate() {
  local folder="$WORK/multi30k/$2" depth
  mkdir -p "$folder"
  for depth in $3; do
    [ -f "$folder/6+$depth.pt" ] || fairseq-layerdrop prune "$WORK/multi30k/$1/checkpoint_best.pt" "$folder/6+$depth.pt" \
      --decoder-keep "even:$depth" --compensate "$WORK/multi30k/data-bin"
    score_translation_file "compensated" "$folder/6+$depth.pt"
  done
}

# summarization RUN FLAGS...: 6+6 layers, 6 epochs of SAMSum, sources cut to 100 words.
summarization() {
  train "samsum/$1" "$WORK/samsum/data-bin" --source-lang source --target-lang target "${pairs[@]}" "${norms[@]}" \
    --lr 3e-3 --total-num-update 3600 --max-tokens 3000 --max-epoch 6 "${@:2}"
}

# heal RUN FROM FLAGS...: two more epochs of Multi30k for a checkpoint.
heal() {
  train "multi30k/$1" "$WORK/multi30k/data-bin" --source-lang en --target-lang de "${pairs[@]}" "${norms[@]}" \
    --finetune-from-model "$2" --lr 1e-3 --total-num-update 520 --warmup-updates 100 --max-tokens 2048 --max-epoch 2 "${@:3}"
}

# masked_language_model RUN DATA FLAGS...: RoBERTa with 12 layers, d 64, 30 % of the words masked; 3,000 updates on WikiText-2.
# Norms before, no dropout, lr 2e-3: the loss fell faster in 450 updates than with RoBERTa's norms after, at 1e-3.
masked_language_model() {
  train "roberta/$1" "$WORK/roberta/$2" --user-dir fairseq_layerdrop --task layerdrop_masked_lm --criterion masked_lm \
    --arch layerdrop_roberta --encoder-layers 12 --encoder-embed-dim 64 --encoder-ffn-embed-dim 256 \
    --encoder-attention-heads 4 --encoder-normalize-before --dropout 0 --attention-dropout 0 --optimizer adam \
    --adam-betas '(0.9, 0.98)' --weight-decay 0.01 --clip-norm 1.0 --lr 2e-3 --lr-scheduler polynomial_decay --warmup-updates 300 \
    --mask-prob 0.3 --total-num-update 3000 --max-update 3000 --sample-break-mode none --tokens-per-sample 128 \
    --max-positions 512 --batch-size 16 --no-epoch-checkpoints --seed 1 "${@:3}" ${MASKED_LM_FLAGS:-}
}

# classify TASK RUN FROM UPDATES FLAGS...: fine-tuning on a task of GLUE; of the epochs, that with the best accuracy is kept.
classify() {
  train "glue/$1/$2" "$WORK/glue/$1/data-bin" --user-dir fairseq_layerdrop --task layerdrop_sentence_prediction \
    --criterion sentence_prediction --num-classes 2 --init-token 0 --separator-token 2 --restore-file "$3" \
    --reset-optimizer --reset-dataloader --reset-meters --reset-lr-scheduler --arch layerdrop_roberta \
    --encoder-embed-dim 64 --encoder-ffn-embed-dim 256 --encoder-attention-heads 4 --encoder-normalize-before \
    --dropout 0.1 --attention-dropout 0 --optimizer adam --adam-betas '(0.9, 0.98)' --weight-decay 0.1 --clip-norm 1.0 \
    --lr 5e-4 --lr-scheduler polynomial_decay --warmup-updates 50 --total-num-update "$4" --max-update "$4" \
    --batch-size 32 --max-positions 512 --required-batch-size-multiple 1 --no-epoch-checkpoints \
    --best-checkpoint-metric accuracy --maximize-best-checkpoint-metric --seed 1 "${@:5}" ${CLASSIFY_FLAGS:-}
}
