#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# WORK/venv: PYTHON's packages, among them torch, and what is missing of the pack; fairseq is compiled.
#   scripts/gpu/build.sh PACK WORK PYTHON cpu|cuda
set -euo pipefail
PACK=$1 WORK=$2 PYTHON=$3 DEVICE=$4
stop() { echo "build: $*" >&2; exit 2; }
"$PYTHON" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' ||
  stop "needs Python 3.12, for which the wheels are; name it: PYTHON=/path/to/python3.12"
"$PYTHON" -c 'import torch; v = torch.__version__.split("."); raise SystemExit((int(v[0]), int(v[1])) < (2, 11))' ||
  stop "needs torch >= 2.11 in $PYTHON"
[ "$DEVICE" = cpu ] || "$PYTHON" -c 'import torch; raise SystemExit(not torch.cuda.is_available())' ||
  stop "torch sees no CUDA device; --tiny runs without one"
command -v c++ > /dev/null || command -v g++ > /dev/null || stop "needs a C++ compiler to build fairseq"

rm -rf "$WORK/venv" && "$PYTHON" -m venv --without-pip "$WORK/venv"
# Not --system-site-packages: PYTHON may itself be of an environment, whose packages that would leave out.
"$PYTHON" -c 'import sys; print(*(p for p in sys.path if p.endswith("-packages")), sep="\n")' \
  > "$WORK/venv/lib/python3.12/site-packages/machine.pth"
pip() { "$PYTHON" -m pip --python "$WORK/venv/bin/python" --disable-pip-version-check "$@"; }

missing() { # the packages of the pack that PYTHON lacks
  "$WORK/venv/bin/python" - "$PACK"/wheels/*.whl << 'END'
import sys
from importlib.metadata import PackageNotFoundError, version

for path in sys.argv[1:]:
    name = path.rsplit("/", 1)[1].split("-", 1)[0]
    try:
        version(name)
    except PackageNotFoundError:
        print(path)
END
}
mapfile -t wheels < <(missing)
[ ${#wheels[@]} = 0 ] || pip install -q --no-index --no-deps "${wheels[@]}"
if ! ls "$WORK"/built/*.whl > /dev/null 2>&1; then
  echo "build: compiling fairseq"
  env -u CUDA_HOME "$PYTHON" -m pip --python "$WORK/venv/bin/python" wheel -q --no-index --no-deps --no-build-isolation \
    --wheel-dir "$WORK/built.part" "$PACK"/wheels/fairseq*.tar.gz
  mv "$WORK/built.part" "$WORK/built"
fi
pip install -q --no-index --no-deps "$WORK"/built/*.whl
pip install -q --no-index --no-deps --no-build-isolation -e .
# Too large to be packed, and imported for scores that nothing here asks for (F1, correlations, of audio).
"$WORK/venv/bin/python" -c 'import sklearn, scipy' 2> /dev/null ||
  sed -Ei '/^from (sklearn|scipy)[. ]/d' "$WORK"/venv/lib/python3.12/site-packages/fairseq/{tasks/audio_classification,criterions/sentence_prediction}.py
"$WORK/venv/bin/python" -c 'import fairseq_layerdrop; fairseq_layerdrop.register()' > "$WORK/import.log" 2>&1 ||
  { tail -n 5 "$WORK/import.log" >&2; stop "what is built cannot be imported, see $WORK/import.log"; }
{
  cat "$PACK/commit"
  "$WORK/venv/bin/python" -c 'import sys, torch; print("Python", sys.version); print("torch", torch.__version__)'
  nvidia-smi 2> /dev/null || echo "no GPU"
} > "$WORK/machine.txt"
