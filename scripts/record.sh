#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Hold files that were got by hand to what they were at the first run: writes FOLDER/SHA256SUMS, later checks it.
#   scripts/record.sh FOLDER FILE...    (the files' names within FOLDER)
set -euo pipefail
cd "${1:?the folder}"
[ -f SHA256SUMS ] || sha256sum "${@:2}" > SHA256SUMS
sha256sum --check --quiet SHA256SUMS >&2 || {
  echo "$1: files are not those of the first run; put them back, or delete SHA256SUMS to take them as they are" >&2
  exit 2
}
