#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# The first lines of data sets, for trials: LINES of the training sets, a fortieth of that of the others.
#   scripts/gpu/cut.sh DATA OUT LINES       DATA as for scripts/figures/prepare.sh
set -euo pipefail
DATA=$1 OUT=$2 LINES=$3
for set in multi30k wikitext-2 glue/sst2; do
  mkdir -p "$OUT/$set"
  for file in "$DATA/$set"/*.gz; do
    name=$(basename "$file")
    count=$(case $name in train.*) echo "$LINES" ;; *) echo $((LINES / 40)) ;; esac)
    gzip -dc "$file" | awk -v n="$count" 'NR <= n' | gzip > "$OUT/$set/$name"
  done
done
