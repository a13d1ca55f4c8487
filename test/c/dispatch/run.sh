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

# one LABEL PROGRAM [ARGUMENT]: its counts, under the label
one() {
  printf '%s: ' "$1" >"$state/counts"
  GBSIM_GPU="dispatch-$1" GREENBOOST_SOCKET="$state/$1.sock" \
    "$build/test/dispatch/$variant/$2" "$build/test/dispatch/module.so" ${3:-} >>"$state/counts" ||
    failed=$((failed + 1))
  cat "$state/counts"
}

one code code
one run run
(
  unset GREENBOOST_REMOTE
  one off code off
  exit $failed
) || failed=$((failed + 1))

# Asked for where it cannot be: off, and said once.
export GREENBOOST_LOG=warn GREENBOOST_LOG_FILE="$state/log" GREENBOOST_REPLICAS=2
one refused code off
if [ "$(grep -c dispatch_refused "$state/log")" = 1 ]; then
  echo "said: 1 passed, 0 failed"
else
  echo "FAIL said once"
  echo "said: 0 passed, 1 failed"
  failed=$((failed + 1))
fi
exit $failed
