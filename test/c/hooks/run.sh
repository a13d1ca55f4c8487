#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# run.sh BUILD: every case of hooks_program in a process of its own, on a card of its own. Prints one
# line for each case and exits with the number of failed ones.
set -u
build=$1
program=$build/test/hooks/hooks_program
passed=0
failed=0
state=$(mktemp -d)
trap 'rm -rf "$state"' EXIT
export GBSIM_DIR="$state" GBSIM_VRAM=512MiB LD_LIBRARY_PATH="$build/lib/sim"
export GREENBOOST_SOCKET="$state/no-agent.sock"
export GREENBOOST_VRAM_BUDGET=64MiB GREENBOOST_RAM_BUDGET=64MiB

for name in $("$program"); do
  if GBSIM_GPU="hooks-$name" LD_PRELOAD="$build/lib/libgreenboost_cuda.so" "$program" "$name"; then
    echo "ok   $name"
    passed=$((passed + 1))
  else
    echo "FAIL $name"
    failed=$((failed + 1))
  fi
done
echo "$passed passed, $failed failed"
exit $failed
