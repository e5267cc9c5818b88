# SPDX-License-Identifier: MIT
# Sourced by run.sh: the sizes of its steps, on a card or, where TINY is set, on a CPU. What scripts/figures/models.sh
# reads is exported.

width() { # STACKS DIM FFN HEADS
  local stack
  for stack in $1; do
    printf -- "--$stack-embed-dim %s --$stack-ffn-embed-dim %s --$stack-attention-heads %s " "${@:2}"
  done
}

if [ "$TINY" ]; then
  DEVICE=cpu PRECISION=--memory-efficient-fp16 LINES=3000 # the one half precision that fairseq has on a CPU
  BIG="--dim 16 --ffn 16 --heads 2 --vocabulary 20 --sentences 2 --length 4 --rounds 1 --updates 2 --warm-up 0"
  BIG_SEARCH="--dim 16 --ffn 16 --heads 2 --vocabulary 20 --sentences 2 --length 4 --rounds 1 --sample 4
    --encoder-layers 2 --decoder-layers 2"
  BIG_TRAINING="$(width "encoder decoder" 16 16 2) --max-update 4 --max-tokens 500 $PRECISION"
  BIG_INFERENCE="--sentences 8 --singles 2 --rounds 1 --beam 1 --max-len-b 10"
  export TRANSLATION_FLAGS="$(width "encoder decoder" 16 16 2) --max-update 4 --max-tokens 500 $PRECISION"
  export LANGUAGE_MODEL_FLAGS="$(width decoder 16 16 2) --decoder-input-dim 16 --decoder-output-dim 16
    --adaptive-input-cutoff 500,2000 --adaptive-softmax-cutoff 500,2000 --max-update 4 --max-tokens 512 $PRECISION"
  export MASKED_LM_FLAGS="$(width encoder 16 16 2) --max-update 4 --batch-size 4 $PRECISION"
  export CLASSIFY_FLAGS="$(width encoder 16 16 2) $PRECISION"
  export SWEEP_FLAGS="--beam 1 --max-len-b 10" RATES=0.2 TASKS="sst2 4"
  DECODERS=1 DECODERS_LM=2
else
  DEVICE=cuda PRECISION=${PRECISION:---fp16}
  BIG="--dim 1024 --ffn 4096 --heads 16 --vocabulary 32768 --sentences 128 --length 32"
  BIG_SEARCH="--dim 1024 --ffn 4096 --heads 16 --vocabulary 32768 --sentences 64 --length 32 --rounds 3"
  BIG_TRAINING="--max-update 1000 --max-tokens 8192 $PRECISION"
  BIG_INFERENCE="--singles 50 --rounds 3"
  # About 45 epochs of Multi30k, 30 of WikiText-2, 120 of it for RoBERTa.
  export TRANSLATION_FLAGS="$(width "encoder decoder" 512 1024 8) --dropout 0.3 --lr 7e-4 --warmup-updates 1000
    --max-tokens 4096 --max-epoch 0 --max-update 6000 --total-num-update 6000 $PRECISION"
  export LANGUAGE_MODEL_FLAGS="$(width decoder 512 2048 8) --decoder-input-dim 512 --decoder-output-dim 512 --dropout 0.3
    --attention-dropout 0.1 --lr 5e-4 --warmup-updates 1000 --tokens-per-sample 256 --max-tokens 8192
    --max-epoch 0 --max-update 8000 --total-num-update 8000 $PRECISION"
  export MASKED_LM_FLAGS="$(width encoder 256 1024 8) --dropout 0.1 --attention-dropout 0.1 --lr 1e-3
    --warmup-updates 2000 --batch-size 64 --max-update 30000 --total-num-update 30000 $PRECISION"
  export CLASSIFY_FLAGS="$(width encoder 256 1024 8) --attention-dropout 0.1 --lr 1e-4 --warmup-updates 100 $PRECISION"
  export SWEEP_FLAGS="--device cuda" TASKS="sst2 6300
mrpc 1000
rte 780"
  DECODERS="5 4 3 2 1" DECODERS_LM="12 8 6 4 2"
fi
