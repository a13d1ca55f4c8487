#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs the tests of the simulated driver, each on a GPU of its own in a folder of its own.
# Usage: run.sh BUILD TEST...
set -eu
build=$1
shift
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT INT TERM
export LD_LIBRARY_PATH="$build/lib/sim" GBSIM_DIR="$folder" GBSIM_VRAM=1GiB GB_TEST_MODULE="$build/test/sim/kernels.so"
status=0
for test in "$@"; do
  name=$(basename "$test")
  printf '%s: ' "$name"
  if GBSIM_GPU="$name" "$test" 2>"$folder/log"; then :; else
    status=1
    cat "$folder/log"
  fi
done
for program in "gb_workset --bytes 48MiB --buffer-bytes 3MiB --order random --json" "gb_threads 20" gb_graph gb_async "gb_capacity 32MiB" \
  "gb_launches 100000 three"; do
  # shellcheck disable=SC2086 # words are wanted
  if GBSIM_GPU=programs GBSIM_STRICT=abort GBSIM_STRICT_EXIT=1 $build/bin/$program >"$folder/out" 2>"$folder/log"; then
    tail -n 1 "$folder/out"
  else
    status=1
    echo "FAIL $program"
    cat "$folder/out" "$folder/log"
  fi
done
# A program that cannot fail proves nothing.
if GBSIM_GPU=programs GBSIM_TWINS="$build/test/sim/broken_twins.so" "$build/bin/gb_workset" --bytes 8MiB --buffer-bytes 1MiB --json \
  >"$folder/out" 2>&1; then
  status=1
  echo "FAIL gb_workset did not see a lost word"
else
  echo "gb_workset sees a lost word: $(grep -o '"mismatches":[0-9]*' "$folder/out")"
fi
exit $status
