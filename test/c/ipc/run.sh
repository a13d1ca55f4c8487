#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# run.sh BUILD: memory shared between two processes under the shim, on the simulated driver in strict mode,
# with staging always on; each case on a card of its own, plain and with ASan. Afterwards the card must
# be empty, no remap may have met anything that ran, and no socket may be left. Ends with "N passed, N
# failed" runs. Not tested: another user's process (it takes root to be one).
set -u
build=$1
passed=0
failed=0
runs=0
work=$(mktemp -d)
nvme=$(mktemp -d "$PWD/$build/test/ipc/nvme.XXXXXX") # direct I/O: a temporary folder may lie in memory
trap 'rm -rf "$work" "$nvme"' EXIT
export GBSIM_DIR=$work GBSIM_VRAM=512MiB GBSIM_STRICT=1 LD_LIBRARY_PATH=$build/lib/sim
export GREENBOOST_SOCKET=$work/none.sock GREENBOOST_STATS_FILE=$work/stats
export GREENBOOST_LOG=warn GREENBOOST_LOG_FILE=$work/log
export GREENBOOST_RAM_BUDGET=256MiB GREENBOOST_VRAM_BUDGET=32MiB GREENBOOST_FRAMES=8MiB
export GREENBOOST_STAGING=always
export ASAN_OPTIONS=detect_leaks=1 LSAN_OPTIONS=suppressions=$work/suppressions:print_suppressions=0
# What the simulated driver and the core keep until the process ends.
printf 'leak:libcuda.so.1\nleak:soak_open\n' >"$work/suppressions"
shim=$build/lib/libgreenboost_cuda.so

figure() { sed -n "s/^  \"$2\": \([0-9]*\),*$/\1/p" "$work/stats.$1" 2>/dev/null; }

# run NAME PROGRAM CASE [CONDITION]: the condition is a command, after the run.
run() {
  local name=$1 code used wrong=
  runs=$((runs + 1))
  rm -f "$work"/stats.* "$work/log"
  export GBSIM_GPU=ipc-$runs
  LD_PRELOAD=$shim timeout 200 nice "$build/test/ipc/$2" "$build/test/soak/kernels.so" "$3" >"$work/out" 2>"$work/err"
  code=$?
  used=$("$build/test/soak/usage" 2>/dev/null)
  [ $code = 0 ] || wrong="exit $code"
  [ "$used" = 0 ] || wrong="$wrong; ${used:-unknown} bytes of the GPU stay in use"
  grep -q 'Sanitizer\|runtime error\|violation' "$work/err" && wrong="$wrong; see below"
  [ -z "${4:-}" ] || eval "$4" || wrong="$wrong; not so: $4"
  if [ -z "$wrong" ]; then
    echo "ok   $name"
    passed=$((passed + 1))
  else
    echo "FAIL $name: $wrong"
    cat "$work/out"
    head -c 6000 "$work/err"
    failed=$((failed + 1))
  fi
}

lines() { grep -c "$1" "$work/log"; }

both() { # both PREFIX: what is run plain and with ASan
  run "$1whole" sharing whole
  run "$1kernels of both at once, staged" sharing concurrent '[ "$(figure exporter switchCount)" -gt 50 ]'
  run "$1exports under kernels" sharing moved '[ "$(figure exporter switchCount)" -gt 20 ]'
  run "$1small allocations" sharing small
  GBSIM_DEVICES=2 run "$1a peer on another device" sharing devices
  run "$1damaged handles" trouble damaged '[ "$(lines ipc_damaged)" = 1 ]'
  run "$1strangers at the socket" trouble strangers
  run "$1kill -9 of the exporter" trouble killed-exporter '[ "$(lines "ipc_dead.*has ended")" = 1 ]'
  run "$1kill -9 of the peer" trouble killed-peer
  run "$1a forked child" trouble forked
  run "$1captures" trouble capture '[ "$(lines ipc_capture)" = 1 ]'
  GREENBOOST_STAGING=off GB_TEST_EXPORTER_FAIL=$refusals GB_TEST_PEER_FAIL=$peer_refusals \
    run "$1a driver that refuses" trouble refused
  GREENBOOST_OVERCOMMIT=gated GREENBOOST_NVME_DIR=$nvme GREENBOOST_RAM_BUDGET=24MiB \
    run "$1memory that is away" trouble away '[ "$(figure exporter nvmeReadBytes)" != 0 ]'
  run "$1room made in VRAM" trouble room '[ "$(lines ipc_no_vram)" = 1 ]'
}

# One refusal at each step, of the exporter's and of the peer's.
refusals=cuMemCreate@2=2,cuMemExportToShareableHandle@1=999,cuMemMap@2=2,cuMemSetAccess@2=1
refusals=$refusals,cuMemcpyDtoDAsync_v2@1=1,cuMemUnmap@3=1,cuMemMap@6=2
peer_refusals=cuMemImportFromShareableHandle@1=999,cuMemAddressReserve@2=2,cuMemMap@1=2,cuMemSetAccess@1=1
both ""
GREENBOOST_STAGING=off run "whole, without staging" sharing whole
GREENBOOST_STAGING=off run "no room in VRAM" trouble room
GREENBOOST_VRAM_BUDGET=1536MiB GBSIM_VRAM=2GiB run "many" sharing many '[ "$(lines ipc_full)" = 1 ]'
run "a busy GPU" trouble busy '[ "$(lines ipc_busy)" = 1 ]'

shim="$(gcc -print-file-name=libasan.so) $build/test/core/asan/libgreenboost_cuda.so"
both "asan: "

# Only a process keeps such a socket: none that we started may run any more, when the forked children,
# which outlive their parents on purpose, have had their 5 s.
for _ in {1..60}; do
  left=$(env -u GBSIM_DIR grep -lzF -- "GBSIM_DIR=$work" /proc/[0-9]*/environ 2>/dev/null)
  [ -n "$left" ] || break
  sleep 0.1
done
if [ -n "$left" ]; then
  echo "FAIL a process is left, and its socket: $left"
  failed=$((failed + 1))
else
  echo "ok   no socket is left"
  passed=$((passed + 1))
fi
echo "$passed passed, $failed failed"
[ $failed = 0 ]
