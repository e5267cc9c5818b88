#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Set up if need be, then lint, check types and run the tests that are not slow; flags go to pytest.
#   scripts/test.sh [unit] [FLAGS]      unit: those that need neither fairseq nor other processes
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "${1:-}" = unit ]; then
  shift
  # shellcheck disable=SC2046 # a word is a file
  set -- $(grep -LE "fairseq_programs|subprocess|conftest import" tests/{pruning,modules,reporting}/test_*.py) \
    tests/test_architecture.py "$@"
fi
scripts/setup.sh
export PATH="$PWD/.venv/bin:$PATH"
ruff check .
ruff format --check .
mypy & package=$!
mypy --config-file tests/mypy.ini tests
wait "$package"
# A file's tests stay in one of two processes: what they train is trained once. The tests of a process that ended are not
# begun again: what hung may hang again.
OMP_NUM_THREADS=1 pytest -n 2 --dist loadfile --max-worker-restart 0 "$@"
