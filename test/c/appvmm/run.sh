#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Random virtual memory management calls under the shim while staging moves what is mapped; every byte
# and every answer is known, and the GPU must be empty afterwards. Usage: run.sh BUILD
set -u
build=$(realpath "$1")
work=$(mktemp -d "${TMPDIR:-/tmp}/gbappvmm.XXXXXX")
trap 'rm -rf "$work"' EXIT
export LD_LIBRARY_PATH="$build/lib/sim" GBSIM_DIR="$work" GBSIM_GPU=appvmm GBSIM_VRAM=512MiB GBSIM_STRICT=1
export GREENBOOST_VRAM_BUDGET=96MiB GREENBOOST_RAM_BUDGET=1GiB GREENBOOST_STAGING=always
export GREENBOOST_SOCKET="$work/none.sock" GREENBOOST_STATS_FILE="$work/stats.json"
export ASAN_OPTIONS=detect_leaks=0
passed=0
failed=0
remaps=0

model() { # model NAME PRELOAD SEED
  LD_PRELOAD=$2 timeout 120 "$build/test/appvmm/model" "$build/test/soak/kernels.so" "$3" 400 200 2>"$work/err"
  local status=$? used
  used=$("$build/test/appvmm/../soak/usage" 2>/dev/null)
  remaps=$((remaps + $(sed -n 's/^  "remapCount": \([0-9]*\),*$/\1/p' "$work/stats.json")))
  if [ "$status" = 0 ] && [ "$used" = 0 ] && ! grep -q 'violation' "$work/err"; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    echo "FAILED: $1, seed $3: ended with $status, ${used:-unknown} bytes of the GPU in use"
    head -c 4000 "$work/err"
  fi
}

for seed in 1 2 3 4 5 6; do model plain "$build/lib/libgreenboost_cuda.so" "$seed"; done
asan="$(gcc -print-file-name=libasan.so) $build/test/core/asan/libgreenboost_cuda.so"
for seed in 2 3; do model asan "$asan" "$seed"; done
if [ "$remaps" -gt 100 ]; then
  passed=$((passed + 1))
else
  failed=$((failed + 1))
  echo "FAILED: only $remaps remaps"
fi
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
