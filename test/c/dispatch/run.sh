#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# run.sh BUILD VARIANT: the programs of this folder, each on a card of its own, with an agent of its own. Exits with the
# number of those that failed.
set -u
build=$1
variant=$2
state=$(mktemp -d)
trap 'rm -rf "$state"' EXIT
export GBSIM_DIR="$state" GBSIM_VRAM=512MiB LD_LIBRARY_PATH="$build/lib/sim"
export GREENBOOST_VRAM_BUDGET=64MiB GREENBOOST_RAM_BUDGET=64MiB
export GREENBOOST_OVERCOMMIT=gated GREENBOOST_REMOTE=merged
failed=0
for name in code run; do
  printf '%s: ' "$name" >"$state/counts"
  if ! GBSIM_GPU="dispatch-$name" GREENBOOST_SOCKET="$state/$name.sock" \
    "$build/test/dispatch/$variant/$name" "$build/test/dispatch/module.so" >>"$state/counts"; then
    failed=$((failed + 1))
  fi
  cat "$state/counts"
done
exit $failed
