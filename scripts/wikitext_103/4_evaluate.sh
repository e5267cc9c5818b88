#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Perplexity by word of valid and test, with stock fairseq: whole sentences, up to 512 words at a time, after the 2,560
# before them. The paper's own command is not published; this is its authors' later one (fairseq's quant_noise), and
# --tokens-per-sample 3072, without which fairseq's default of 1,024 leaves room for no more than 1,024 words in all.
#   scripts/wikitext_103/4_evaluate.sh 16|40 [WORK [FLAGS]]
set -euo pipefail
LAYERS=${1:?16 or 40}
WORK=${2:-runs/wikitext_103}

for model in "$WORK/pruned/$LAYERS".*.pt; do
  for subset in valid test; do
    echo "$model, $subset: perplexity by word, context window 2560"
    fairseq-eval-lm "$WORK/data-bin" --path "$model" --gen-subset "$subset" --sample-break-mode complete \
      --tokens-per-sample 3072 --max-tokens 3072 --context-window 2560 --softmax-batch 1024 \
      --required-batch-size-multiple 1 "${@:3}"
  done
done
