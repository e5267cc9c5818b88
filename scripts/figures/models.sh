# SPDX-License-Identifier: MIT
# Sourced by the scripts of the figures: a function a task trains a model in small, once; one that was killed goes on.
WORK=${WORK:-runs/figures}
FIGURES=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # so that two trainings fit beside each other on two cores
USER_DIR=$(fairseq-layerdrop user-dir)

train() { python "$FIGURES/train.py" "$WORK/$1" -- "${@:2}"; }

# language_model RUN FLAGS...: 16 layers, d 64, adaptive input and softmax, 3 epochs of WikiText-2 in blocks of 128 words.
language_model() {
  train "lm/$1" "$WORK/wikitext-2/data-bin" --user-dir "$USER_DIR" --task layerdrop_language_modeling \
    --arch layerdrop_transformer_lm --decoder-layers 16 --decoder-embed-dim 64 --decoder-input-dim 64 \
    --decoder-output-dim 64 --decoder-ffn-embed-dim 256 --decoder-attention-heads 4 --decoder-normalize-before \
    --adaptive-input --adaptive-input-cutoff 2000,10000 --tie-adaptive-weights --adaptive-softmax-cutoff 2000,10000 \
    --criterion adaptive_loss --ddp-backend legacy_ddp --dropout 0.1 --optimizer adam --adam-betas '(0.9, 0.98)' \
    --clip-norm 0.5 --lr 2e-3 --lr-scheduler polynomial_decay --warmup-updates 200 --total-num-update 3060 \
    --tokens-per-sample 128 --sample-break-mode none --max-tokens 2048 --max-epoch 3 --no-epoch-checkpoints --seed 1 "${@:2}"
}
