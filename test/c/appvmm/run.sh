#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# run.sh BUILD plain|asan: memory that programs map themselves, under the shim, on the simulated driver in
# strict mode, with staging always on; each run in a process and on a card of its own. Afterwards the card
# must be empty and no remap may have met anything that ran. Ends with "N passed, N failed" runs.
set -u
build=$1
variant=$2
passed=0
failed=0
runs=0
work=$(mktemp -d)
nvme=$(mktemp -d "$PWD/$build/test/appvmm/nvme.XXXXXX") # direct I/O: a temporary folder may lie in memory
trap 'rm -rf "$work" "$nvme"' EXIT
export GBSIM_DIR=$work GBSIM_VRAM=512MiB GBSIM_STRICT=1 LD_LIBRARY_PATH=$build/lib/sim
export GREENBOOST_SOCKET=$work/none.sock GREENBOOST_STATS_FILE=$work/stats GREENBOOST_LOG=error
export GREENBOOST_STAGING=always GREENBOOST_FRAMES=24MiB
export ASAN_OPTIONS=detect_leaks=1 LSAN_OPTIONS=suppressions=$work/suppressions:print_suppressions=0
# What the simulated driver and the core keep until the process ends.
printf 'leak:libcuda.so.1\nleak:soak_open\n' >"$work/suppressions"
tests=$build/test/appvmm
module=$build/test/soak/kernels.so
shim=$build/lib/libgreenboost_cuda.so
seeds="1 2 3"
steps=1250
long=2500
if [ "$variant" = asan ]; then
  shim="$(gcc -print-file-name=libasan.so) $build/test/core/asan/libgreenboost_cuda.so"
  seeds="4"
  steps=800
  long=1500
fi

figure() { sed -n "s/^  \"$1\": \([0-9]*\),*$/\1/p" "$work/stats" 2>/dev/null; }

budgets() { # budgets VRAM RAM
  export GREENBOOST_VRAM_BUDGET=$1 GREENBOOST_RAM_BUDGET=$2
}

say() { # say NAME WRONG: one run has ended
  if [ -z "$2" ]; then
    echo "ok   $1 ($(figure remapCount) remaps)"
    passed=$((passed + 1))
  else
    echo "FAIL $1: $2"
    tail -n 2 "$work/out"
    head -c 4000 "$work/err"
    failed=$((failed + 1))
  fi
}

# run NAME CONDITION PROGRAM ARGUMENTS...: the condition is a command, after the run.
run() {
  local name="$variant, $1" condition=$2 program=$tests/$3 code used wrong=
  shift 3
  runs=$((runs + 1))
  rm -f "$work/stats"
  export GBSIM_GPU=appvmm-$runs
  LD_PRELOAD=$shim timeout 280 nice "$program" "$module" "$@" >"$work/out" 2>"$work/err"
  code=$?
  used=$("$build/test/soak/usage" 2>/dev/null)
  [ $code = 0 ] || wrong="exit $code"
  [ "$used" = 0 ] || wrong="$wrong; ${used:-unknown} bytes of the GPU stay in use"
  grep -q 'Sanitizer\|runtime error\|violation' "$work/err" && wrong="$wrong; see below"
  eval "$condition" || wrong="$wrong; not so: $condition"
  say "$name" "$wrong"
}

none_left='[ "$(figure allocationCount)" = 0 ] && [ "$(figure allocatedBytes)" = 0 ]'
moved='[ "$(figure remapCount)" -gt 100 ]'

# What the driver says without us is what it says with us: in VRAM, in both, in RAM.
GBSIM_GPU=appvmm-native "$tests/answers" "$module" >"$work/native" 2>/dev/null
[ "$(wc -l <"$work/native")" -gt 400 ] || echo "the driver itself gives few answers"
for vram in 64MiB 4MiB 2MiB; do
  budgets $vram 64MiB
  run "answers, $vram of VRAM" 'cmp -s "$work/native" "$work/out"' answers
done

# Seed 2, of those run plain, is the long one: it lost content of a handle that was mapped twice.
for seed in $seeds; do
  budgets 80MiB 320MiB # half of what is alive at most
  case $seed in 2 | 4) length=$long ;; *) length=$steps ;; esac
  run "model, seed $seed" "$moved && $none_left && grep -q 'refused 0' $work/out" model "$seed" $length 160
done
budgets 48MiB 128MiB
run "model, little RAM" "$moved && $none_left" model 9 $long 160

budgets 80MiB 320MiB
# What the arena has no addresses for is the driver's.
GREENBOOST_ARENA_BYTES=512MiB run "model, little arena" "$moved && $none_left" model 11 $steps 160
export GBSIM_FAIL=cuMemMap@60=2,cuMemMap@100=2,cuMemMap@170=2,cuMemSetAccess@81=2,cuMemSetAccess@120=2
GBSIM_FAIL=$GBSIM_FAIL,cuMemCreate@40=2,cuMemCreate@60=2,cuMemCreate@61=2
run "model, the driver refuses now and then" "$moved && $none_left" model 12 $steps 160
export GBSIM_FAIL=cuMemAddressReserve@1=2
run "model, arena at another address" "$moved && $none_left" model 13 $steps 160
unset GBSIM_FAIL
GBSIM_HOST_NUMA=0 run "model, no HOST_NUMA memory" "$none_left" model 14 $steps 60

budgets 48MiB 288MiB
GBSIM_DEVICES=2 run "two devices" "$moved && $none_left" program devices
budgets 96MiB 288MiB
for name in segments threads; do run "$name" "$moved && $none_left" program $name; done
run outside "$moved && $none_left" fixed outside
run preallocation "$none_left" program preallocation
for name in sleep contexts; do run "$name" "$moved" program $name; done
for name in export captures; do run "$name" "$moved" fixed $name; done
run "both ways of sharing at once" "$none_left" fixed both
run readonly true program readonly
GREENBOOST_STAGING=off run "export, nothing is staged" true fixed export
# Here nothing but the two moves keeps calls at the gate.
GREENBOOST_STAGING=off run "both ways of sharing, nothing is staged" "$none_left" fixed both

export GREENBOOST_OVERCOMMIT=gated GREENBOOST_NVME_DIR=$nvme GREENBOOST_NVME_BUDGET=640MiB
export GREENBOOST_NVME_WRITES_PER_DAY=1TiB
budgets 96MiB 192MiB
run "beside ranges in the NVMe file" '[ "$(figure nvmePeakBytes)" -gt 0 ]' program gated
run "the model in gated mode" "$none_left" model 5 $steps 120

echo "$passed passed, $failed failed"
[ $failed = 0 ]
