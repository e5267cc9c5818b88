#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Dev accuracy of every fine-tuned model, by stock fairseq-validate on the file that keeps everything (no plugin).
# MNLI's is dev_matched. The paper reports the best of its grid, a single model.
#   scripts/glue/4_score.sh MNLI|QNLI|SST-2|MRPC [WORK [FLAGS]]
set -euo pipefail
TASK=${1:?MNLI, QNLI, SST-2 or MRPC}
WORK=${2:-runs/glue}

for model in "$WORK/$TASK".*/checkpoint_best.pt; do
  fairseq-layerdrop prune "$model" "${model%/*}/model.pt" --encoder-keep all --copy-dicts "$WORK/$TASK-bin" --force
  echo "$model: accuracy on dev"
  fairseq-validate "$WORK/$TASK-bin" --task sentence_prediction --criterion sentence_prediction \
    --path "${model%/*}/model.pt" --valid-subset valid \
    --batch-size 32 --required-batch-size-multiple 1 "${@:3}"
done
