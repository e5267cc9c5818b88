#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Set up if need be, then lint, check types and run the tests; arguments go to pytest (e.g. -m slow).
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
export PATH="$PWD/.venv/bin:$PATH"
ruff check .
ruff format --check .
mypy
# A file's tests stay in one of two processes: what they train is trained once.
OMP_NUM_THREADS=1 pytest -n 2 --dist loadfile "$@"
