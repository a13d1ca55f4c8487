#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs the tests of the simulated driver, each on a GPU of its own in a folder of its own.
# Usage: run.sh BUILD TEST...
set -eu
build=$1
shift
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT INT TERM
export LD_LIBRARY_PATH="$build/lib/sim" GBSIM_DIR="$folder" GBSIM_VRAM=1GiB
export GB_TEST_MODULE="$build/test/sim/kernels.so"
passed=0
failed=0

for test in "$@"; do
  name=$(basename "$test")
  printf '%s: ' "$name"
  if ! GBSIM_GPU="$name" "$test" 2>"$folder/log"; then
    failed=$((failed + 1))
    head -n 60 "$folder/log"
  fi
done

# Ordinary programs, with every wrong use of the driver fatal.
program() {
  if GBSIM_GPU=programs GBSIM_STRICT=abort GBSIM_STRICT_EXIT=1 "$build/bin/$@" \
    >"$folder/out" 2>"$folder/log"; then
    passed=$((passed + 1))
    tail -n 1 "$folder/out"
  else
    failed=$((failed + 1))
    echo "FAIL $*"
    cat "$folder/out" "$folder/log"
  fi
}
program gb_workset --bytes 48MiB --buffer-bytes 3MiB --order random --json
program gb_threads 20
program gb_graph
program gb_async
program gb_capacity 32MiB
program gb_launches 100000 three
program ../test/sim/frame_kernels 4MiB

# A program that cannot fail proves nothing.
export GBSIM_TWINS="$build/test/sim/broken_twins.so" GBSIM_GPU=broken
status=0
"$build/bin/gb_workset" --bytes 8MiB --buffer-bytes 1MiB --json >"$folder/out" 2>&1 || status=$?
if [ "$status" = 1 ] && grep -q '"ok":false.*"mismatches":[1-9]' "$folder/out"; then
  passed=$((passed + 1))
  echo "gb_workset sees a lost word: $(grep -o '"mismatches":[0-9]*' "$folder/out")"
else
  failed=$((failed + 1))
  echo "FAIL gb_workset did not see a lost word"
fi
echo "programs: $passed passed, $failed failed"
[ "$failed" = 0 ]
