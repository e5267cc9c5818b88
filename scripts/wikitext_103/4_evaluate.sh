#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Perplexity by word of valid and test, with stock fairseq: whole sentences, each token after at least 2,560 others
# where the text has them. This is the later command of the paper's authors; that of Tables 2 and 8 is not published.
#   scripts/wikitext_103/4_evaluate.sh 16|40 [WORK [FLAGS]]
set -euo pipefail
LAYERS=${1:?16 or 40}
WORK=${2:-runs/wikitext_103}

for model in "$WORK/pruned/$LAYERS".*.pt; do
  for subset in valid test; do
    echo "$model, $subset: perplexity by word, context window 2560"
    fairseq-eval-lm "$WORK/data-bin" --path "$model" --gen-subset "$subset" --sample-break-mode complete \
      --max-tokens 3072 --context-window 2560 --softmax-batch 1024 --required-batch-size-multiple 1 "${@:3}"
  done
done
