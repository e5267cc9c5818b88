#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# All that scripts/gpu/run.sh needs on a machine without a network, below runs/gpu-pack: fairseq's sources, wheels of what
# else is needed (CPython 3.12, Linux on x86-64; not torch), and the data. The same with this checkout, as committed but for
# results and the tests' checkpoints, in one file, FILE, which unpacks to a folder fairseq-layerdrop.
#   scripts/gpu/pack.sh [DATA [FILE]]      needs .venv (scripts/setup.sh) and a network
# DATA (default ../shared/data) has multi30k, wikitext-2 and glue, as scripts/figures/prepare.sh takes them.
set -euo pipefail
cd "$(dirname "$0")/../.."
DATA=${1:-../shared/data}
FILE=${2:-runs/gpu-pack.tar}
PACK=runs/gpu-pack
LIMIT=60000000 # bytes
# Of each package's version constraints.txt is the judge. matplotlib would take it over the limit: figures are drawn elsewhere.
COMPILED="numpy bitarray cffi Cython lxml PyYAML regex sentencepiece MarkupSafe hypothesis"
PURE="setuptools wheel packaging hydra-core omegaconf sacrebleu portalocker tabulate colorama tqdm pycparser rich
  markdown-it-py mdurl Pygments pytest pluggy iniconfig sortedcontainers typing_extensions Jinja2"

stop() { echo "pack: $*" >&2; exit 2; }
for part in multi30k wikitext-2 glue/sst2; do
  [ -d "$DATA/$part" ] || stop "no $DATA/$part; give the folder with the data: scripts/gpu/pack.sh DATA"
done
[ -x .venv/bin/python ] || stop "no .venv; make it with scripts/setup.sh"
pip() { .venv/bin/python -m pip "$@" --disable-pip-version-check --quiet --no-deps --constraint constraints.txt; }

rm -rf "$PACK.part" && mkdir -p "$PACK.part/wheels" "$PACK.part/data/glue"
platforms=(manylinux2014_x86_64 manylinux1_x86_64)
for minor in 28 27 26 24 17 12 5; do platforms+=("manylinux_2_${minor}_x86_64"); done
# shellcheck disable=SC2086
pip download --dest "$PACK.part/wheels" --only-binary=:all: --implementation cp --python-version 3.12 \
  "${platforms[@]/#/--platform=}" $COMPILED $PURE
pip wheel --wheel-dir "$PACK.part/wheels" --no-build-isolation antlr4-python3-runtime # has no wheel of its own
pip download --dest "$PACK.part/wheels" --no-build-isolation --no-binary fairseq-fixed fairseq-fixed
for part in multi30k wikitext-2 glue/sst2 glue/mrpc glue/rte; do cp -r "$DATA/$part" "$PACK.part/data/$part"; done
chmod -R u+w "$PACK.part"
git rev-parse HEAD > "$PACK.part/commit"
rm -rf "$PACK" && mv "$PACK.part" "$PACK"

git archive --prefix fairseq-layerdrop/ --output "$FILE.part" HEAD -- . ':!results' ':!tests/fixtures'
tar --append --file "$FILE.part" --transform 's,^,fairseq-layerdrop/,' "$PACK"
mv "$FILE.part" "$FILE"
size=$(stat --format %s "$FILE")
[ "$size" -lt "$LIMIT" ] || stop "$FILE has $size bytes, the limit is $LIMIT"
echo "pack: $FILE, $((size / 1000000)) MB. On the machine:"
echo "  tar --no-same-owner -xf $(basename "$FILE") && fairseq-layerdrop/scripts/gpu/run.sh WORK"
