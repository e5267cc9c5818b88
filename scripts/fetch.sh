#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Download a file once. Nobody publishes checksums of these files, so the first download's is written beside it
# (FILE.sha256), and every later run holds FILE to that: the same data today and next year, not proof of its origin.
#   scripts/fetch.sh URL FILE
set -euo pipefail
URL=${1:?the address}
FILE=${2:?where it goes}
NAME=$(basename "$FILE")
stop() { echo "$1" >&2; exit 2; }
mkdir -p "$(dirname "$FILE")"
cd "$(dirname "$FILE")"

if [ ! -f "$NAME" ]; then
  curl --fail --location --retry 3 --output "$NAME.part" "$URL"
  case $NAME in
    *.tgz | *.tar.gz) tar -tzf "$NAME.part" > /dev/null ;;
    *.zip) python -m zipfile -t "$NAME.part" > /dev/null ;;
  esac || stop "$URL gave no archive but perhaps a web page: see $FILE.part"
  mv "$NAME.part" "$NAME"
fi
[ -f "$NAME.sha256" ] || sha256sum "$NAME" > "$NAME.sha256"
sha256sum --check --quiet "$NAME.sha256" >&2 ||
  stop "$FILE is not what was first downloaded; delete it to get it again, or $NAME.sha256 to take it as it is"
