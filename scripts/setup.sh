#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Make .venv with the tested versions (constraints.txt) and this package. A second run does nothing.
#   scripts/setup.sh            PYTHON=/path/to/python3.12 chooses the interpreter
set -euo pipefail
cd "$(dirname "$0")/.."

stamp=$(cat setup.py constraints.txt scripts/setup.sh <(pwd) | cksum)
if [ -f .venv/.stamp ] && [ "$(cat .venv/.stamp)" = "$stamp" ]; then
  echo "setup: .venv is up to date"
  exit 0
fi

die() { echo "setup: $*" >&2; exit 2; }

for python in ${PYTHON:-python3.11 python3 python3.12 python3.13}; do
  "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && break
  python=
done
[ -n "$python" ] || die "needs Python 3.11, 3.12 or 3.13 (3.14 is not tested); install one, or name it: PYTHON=/path/to/python3.12 scripts/setup.sh"
command -v c++ >/dev/null || command -v g++ >/dev/null ||
  die "needs a C++ compiler to build fairseq; install one (Debian: apt-get install g++)"
headers=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
[ -f "$headers/Python.h" ] || die "needs the headers of $python to build fairseq; install them (Debian: apt-get install python3-dev)"

step() {
  echo "setup: $1"
  shift
  .venv/bin/python -m pip install --disable-pip-version-check -q -c constraints.txt "$@" 2> .venv/pip.log ||
    { tail -n 20 .venv/pip.log >&2; die "pip failed; the whole log is in .venv/pip.log"; }
}

echo "setup: making .venv with $("$python" --version)"
rm -f .venv/.stamp
"$python" -m venv .venv || die "$python cannot make a virtual environment (Debian: apt-get install python3-venv)"
step "torch and build tools (1/3)" torch cython numpy setuptools wheel
# Not from its wheels, which are for Python 3.12: they were compiled for another torch, and parts of them cannot be loaded.
step "fairseq, which is compiled: about 3 minutes (2/3)" --no-build-isolation --no-binary fairseq-fixed fairseq-fixed
step "this package (3/3)" --no-build-isolation -e '.[report,search,rouge,export,huggingface,dev]'
# fairseq-fixed brings torchaudio along. Its wheels are built for CUDA and cannot be loaded beside a torch
# without it, nor can transformers be imported then, which imports torchaudio where that is installed.
if ! .venv/bin/python -c 'import torchaudio' 2> /dev/null; then
  .venv/bin/python -m pip uninstall --disable-pip-version-check -q -y torchaudio
  echo "setup: removed torchaudio, which cannot be imported beside this torch (pip check will miss it; nothing here does)"
fi
echo "$stamp" > .venv/.stamp
echo "setup: done; activate with  . .venv/bin/activate"
