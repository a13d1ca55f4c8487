#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs the programs of this folder on the simulated driver, and (plain) looks at the kernels' text. run.sh BUILD VARIANT
set -u
build=$(realpath "$1")
variant=$2
cd "$(dirname "$0")"
export LD_LIBRARY_PATH=$build/lib/sim GBSIM_GPU=blocks-$variant-$$ GBSIM_VRAM=1GiB
# Memory that the driver of this process keeps is not the engine's.
export ASAN_OPTIONS=detect_leaks=0
work=$(mktemp -d)
trap 'rm -rf "$work" /dev/shm/*"$GBSIM_GPU"*' EXIT
status=0

program() {
  local name=$1
  shift
  timeout 240 "$build/test/blocks/$variant/$name" "$@" || status=1
}

if [ "$variant" = asan ]; then rounds=1000; else rounds=6000; fi
for seed in 1 2 3; do program model_test $seed $rounds; done
program edges_test
program failures_test
[ "$variant" = plain ] || exit $status

program text_test "$work" && { python3 ptx_check.py "$work" || status=1; }

# What the assembler of a toolkit says of the same text, for each generation it knows.
passed=0 failed=0
if command -v ptxas >/dev/null; then
  known=$(ptxas --help)
  for arch in 70 75 80 90 100; do
    if ! grep -q "'sm_$arch'" <<<"$known"; then
      echo "left out: sm_$arch, which this ptxas does not know" >&2
    elif ptxas --warn-on-spills -Werror -arch=sm_$arch -o "$work/kernels.cubin" "$work/kernels.ptx"; then
      passed=$((passed + 1))
      echo "ok   ptxas for sm_$arch" >&2
    else
      failed=$((failed + 1))
      echo "FAIL ptxas for sm_$arch" >&2
    fi
  done
  echo "ptxas: $passed passed, $failed failed"
  [ $failed = 0 ] || status=1
else
  echo "left out: there is no ptxas to assemble the kernels with" >&2
fi
exit $status
