#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# ELI5, multi-task, in fairseq's binary form. There is no data to download: the authors may not give it out, and making
# it takes their scripts (github.com/facebookresearch/ELI5, data_creation), a cluster, days, and over 100 GB of Reddit's
# and CommonCrawl's dumps. This step begins where those end, with their BPE applied:
# DATA holds train, valid and test as .qd_source_bpe and .qd_target_bpe.
#   scripts/eli5/1_prepare.sh DATA [WORK]
set -euo pipefail
DATA=${1:?the folder with train.qd_source_bpe, train.qd_target_bpe, …}
WORK=${2:-runs/eli5}
HERE=$(cd "$(dirname "$0")/.." && pwd)

"$HERE/record.sh" "$DATA" {train,valid,test}.{qd_source_bpe,qd_target_bpe}
fairseq-preprocess --source-lang qd_source_bpe --target-lang qd_target_bpe --destdir "$WORK/data-bin" \
  --trainpref "$DATA/train" --validpref "$DATA/valid" --testpref "$DATA/test" --workers "$(nproc)"
