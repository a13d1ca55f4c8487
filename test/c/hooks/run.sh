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

extra_of() {
  case $1 in
    refusals) echo "GREENBOOST_LOG=warn GREENBOOST_LOG_FILE=$state/log" ;;
    second-try)
      echo "GBSIM_FAIL=cuStreamCreate@1=2,cuStreamCreate@2=2,cuStreamCreateWithPriority@1=2,\
cuArrayCreate_v2@1=2,cuMemAllocAsync@1=2,cuEventCreate@2=2 GREENBOOST_STAGING=off" ;;
    devices) echo "GBSIM_DEVICES=2" ;;
    remapped | remapped-contexts) echo "GREENBOOST_STAGING=always GREENBOOST_STATS_FILE=$state/$1" ;;
  esac
}

for name in $("$program"); do
  if env $(extra_of "$name") GBSIM_GPU="hooks-$name" \
    LD_PRELOAD="$build/lib/libgreenboost_cuda.so" "$program" "$name"; then
    echo "ok   $name"
    passed=$((passed + 1))
  else
    echo "FAIL $name"
    failed=$((failed + 1))
  fi
done

# These cases are none when nothing was moved under them.
for name in remapped remapped-contexts; do
  remaps=$(sed -n 's/.*"remapCount": \([0-9]*\).*/\1/p' "$state/$name")
  if [ "${remaps:-0}" -gt 100 ]; then
    echo "ok   $name: $remaps times"
    passed=$((passed + 1))
  else
    echo "FAIL $name: only ${remaps:-0} times"
    failed=$((failed + 1))
  fi
done
echo "$passed passed, $failed failed"
exit $failed
