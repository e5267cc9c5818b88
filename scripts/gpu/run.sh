#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# What needs a GPU, in the order of what it takes, on a machine with one, Python 3.12, a CUDA build of torch >= 2.11 and no
# network, from what scripts/gpu/pack.sh made. A step that is done is skipped, one that was killed goes on.
#   scripts/gpu/run.sh WORK [--tiny] [STEP...]
# WORK keeps all files, among them an environment on top of PYTHON's (default python3) packages; rows go to results/gpu
# (OUT=...). STEPs: those named, else all, in this order:
#   tests        pytest -m gpu
#   training     training speed at Transformer-big's size, beside stock fairseq and the ideal; single precision and bfloat16
#   search       shared prefixes against one by one, beside the bound of their multiply-adds
#   data         Multi30k, WikiText-2 and GLUE in fairseq's form
#   inference    Transformer-big, trained for minutes, whole and pruned
#   translation  figure 2; deeper: table 1; language: figure 2; rates: figure 6; roberta: figures 3 and 8; d 512, seed 1
#   seeds        translation, deeper, language and rates with seeds 2 and 3, too
# --tiny takes minutes on a CPU: every step, with models that learn nothing; rows go to WORK/results. It needs a WORK of its own.
# PRECISION=--bf16 (default --fp16) is for the trainings of the figures.
set -euo pipefail
ROOT=$(cd "$(dirname "$0")/../.." && pwd)
WORK=$(mkdir -p "${1:?the folder that keeps all files}" && cd "$1" && pwd)
shift
TINY=
SIZE=full
if [ "${1:-}" = --tiny ]; then TINY=yes SIZE=tiny && shift; fi
cd "$ROOT"
PACK=${PACK:-runs/gpu-pack}
OUT=${OUT:-$([ "$TINY" ] && echo "$WORK/results" || echo results/gpu)}
FIGURES="$WORK/figures"
ALL="tests training search data inference translation deeper language rates roberta seeds"
if [ "$TINY" ]; then ALL=${ALL% seeds}; fi # one seed tries all of it
stop() { echo "run: $*" >&2; exit 2; }
for step in "$@"; do
  [[ " $ALL " = *" $step "* ]] || stop "no step $step; there are: $ALL"
done
[ "$(cat "$WORK/size" 2> /dev/null || echo "$SIZE")" = "$SIZE" ] || stop "$WORK is of a $(cat "$WORK/size") run: name another folder"
[ -d "$PACK" ] || stop "no $PACK: make it with scripts/gpu/pack.sh, where there is a network"
. scripts/gpu/sizes.sh
export PATH="$WORK/venv/bin:$PATH" OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

build() { scripts/gpu/build.sh "$PACK" "$WORK" "${PYTHON:-python3}" "$DEVICE"; }

tests() { # without a card: what of these tests runs on a CPU
  python -m pytest -q -ra -p no:cacheprovider tests/test_gpu.py -m "$([ "$TINY" ] && echo "not gpu and not slow" || echo gpu)" |
    tee "$OUT/tests.txt"
}

# rows NAME COMMAND...: the JSON lines that a command prints; the file is there when it is whole.
rows() {
  mkdir -p "$(dirname "$OUT/$1")"
  "${@:2}" | grep '^{' > "$OUT/$1.part"
  mv "$OUT/$1.part" "$OUT/$1"
  echo "$OUT/$1: $(wc -l < "$OUT/$1") rows"
}

training() {
  for precision in "" --bf16; do
    rows "training_speed/rows${precision#-}.jsonl" python -m benchmarks.training_speed --device "$DEVICE" $BIG $precision --json
  done
}

search() { rows search/rows.jsonl python -m benchmarks.search --device "$DEVICE" $BIG_SEARCH --json; }

inference() {
  # shellcheck disable=SC2086
  python scripts/figures/train.py "$FIGURES/multi30k/big" "$FIGURES/multi30k/data-bin" --source-lang en --target-lang de \
    --user-dir fairseq_layerdrop --task layerdrop_translation --arch layerdrop_transformer_wmt_en_de_big \
    --criterion label_smoothed_cross_entropy --label-smoothing 0.1 --share-all-embeddings --optimizer adam \
    --adam-betas '(0.9, 0.98)' --lr 5e-4 --lr-scheduler inverse_sqrt --warmup-updates 400 --dropout 0.3 \
    --no-epoch-checkpoints --seed 1 $BIG_TRAINING
  rows inference/rows.jsonl python -m benchmarks.inference "$FIGURES/multi30k/data-bin" --fairseq-only --device "$DEVICE" \
    --path "$FIGURES/multi30k/big/checkpoint_best.pt" --reference "$FIGURES/multi30k/text/test2016.de" \
    --remove-bpe sentencepiece --plans "all/all all/every:2 all/first:1 every:2/every:2 every:2/first:1" $BIG_INFERENCE --json
}

data() {
  local raw="$PACK/data"
  if [ "$TINY" ]; then raw="$WORK/raw" && scripts/gpu/cut.sh "$PACK/data" "$raw" "$LINES"; fi
  scripts/figures/prepare.sh "$raw" "$FIGURES"
}

figure() { scripts/figures/"$1.sh" "$FIGURES" "$OUT/$1"; } # the sizes are in the environment
export SEEDS=1
translation() { DEPTHS=$DECODERS figure figure2_translation; }
deeper() { figure table1_deeper; }
language() { DEPTHS=$DECODERS_LM figure figure2_language_model; }
rates() { figure figure6_rates; }
roberta() { figure figure3_roberta; }
seeds() {
  export SEEDS="1 2 3"
  translation
  deeper
  language
  rates
}

is_done() { [ -f "$WORK/done/$1" ]; }

run_step() { # once; a step that fails stops no other
  if is_done "$1"; then
    echo "== $1: done before"
    return
  fi
  echo "== $1"
  local began=$SECONDS status=0
  set +e
  (set -e && "$1")
  status=$?
  set -e
  [ "$status" != 0 ] || touch "$WORK/done/$1"
  echo "== $1: $((SECONDS - began)) s, exit $status"
}

# shellcheck disable=SC2086
if [ $# = 0 ]; then set -- $ALL; fi
mkdir -p "$WORK/done" "$OUT"
echo "$SIZE" > "$WORK/size"
run_step build
is_done build || exit 1
for step in "$@"; do
  case $step in
    inference | translation | deeper | language | rates | roberta | seeds) is_done data || run_step data ;;
  esac
  run_step "$step"
done
cp "$WORK/machine.txt" "$OUT/machine.txt"
for step in "$@"; do is_done "$step" || failed+=" $step"; done
[ -z "${failed:-}" ] || stop "failed:$failed"
