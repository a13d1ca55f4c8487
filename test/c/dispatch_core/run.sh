#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs the model program with feeders that run kernels: run.sh plain|asan|tsan SHIM. Prints one line for each run, and
# "N passed, N failed" runs at the end.
set -u
variant=$1
shim=$(realpath "$2")
cd "$(dirname "$0")/../../.."
out=build/test/dispatch_core
binaries=build/test/core/$variant
driver=build/lib/sim
module=test/c/dispatch_core/kernels.ptx
work=$(mktemp -d "${TMPDIR:-/tmp}/gbdispatch.XXXXXX")
agent_pid=
clean_up() {
  [ -n "$agent_pid" ] && kill "$agent_pid" 2>/dev/null
  rm -rf "$work"
}
trap clean_up EXIT

steps=1000
part=1
preload=$shim
case $variant in
  asan) preload="$(gcc -print-file-name=libasan.so) $shim"; steps=400 ;;
  tsan) preload="$(gcc -print-file-name=libtsan.so) $shim"; steps=200; part=2
        export GREENBOOST_ARENA_BASE=0x550000000000 GREENBOOST_ARENA_BYTES=128GiB ;;
esac
steps=${GB_TEST_STEPS:-$steps}
threaded=$((steps / 5))
[ "$variant" = tsan ] && threaded=$steps # so few would come to no launch on a feeder now and then
vram=$((33554432 / part))
export ASAN_OPTIONS=detect_leaks=0:abort_on_error=0 TSAN_OPTIONS=halt_on_error=0:exitcode=66
export LD_LIBRARY_PATH=$driver GBSIM_TWINS=$PWD/$out/twins.so GBSIM_STRICT=1
export GBSIM_GPU=dispatch-$$ GBSIM_VRAM=512MiB GBSIM_DIR=$work GREENBOOST_LOG=error
export GREENBOOST_VRAM_BUDGET=$vram GREENBOOST_RAM_BUDGET=$vram GREENBOOST_OVERCOMMIT=gated GREENBOOST_REMOTE=merged
export GREENBOOST_SOCKET=$work/shim.sock GREENBOOST_STATS_FILE=$work/stats.json GB_TEST_KEPT_MIB=16

. test/c/core/runs.sh

agent_start() { # agent_start FEEDERS FAULTS...
  local feeders=$1
  shift
  "$out/agent" "$GREENBOOST_SOCKET" build/bin/gb-executor $((vram >> 20)) "$feeders" $((${feeder_mib:-384} / part)) \
    "$@" >"$work/agent" 2>"$work/agent.err" &
  agent_pid=$!
  wait_for_agent
}

agent_stop() {
  kill "$agent_pid" && wait "$agent_pid"
  agent_pid=
  sed -i "/${tolerated:-^$}/d" "$work/agent.err"
  [ ! -s "$work/agent.err" ] || { fail "the agent"; tail -c 2500 "$work/agent.err"; }
}

dispatched() { # dispatched NAME SEED STEPS THREADS LIVE LARGEST FEEDERS FAULTS...
  agent_start "${@:7}"
  program "${@:1:6}"
  agent_stop
  expect "$1: launches were made there" "$(figure dispatchedCount) > 0 && $(agent_figure launches) > 0"
  if [ "$variant" = plain ]; then
    expect "$1: blocks crossed" "$(agent_figure crossed_out) > 0 && $(agent_figure crossed_in) > 0"
  fi
  expect "$1: budgets" "$(figure vramPeakBytes) <= vram && $(figure ramPeakBytes) <= vram"
  expect "$1: nothing is left" "$(figure allocationCount) == 0 && $(agent_figure held) == 0"
  expect "$1: the agent's account" "$(agent_figure errors) == 0 && $(agent_figure left) <= $7"
  grep -o ' launches=.*' "$work/agent" | sed 's/^/   /'
}

dispatched "one feeder, 1 thread" 61 "$steps" 1 110 16 1
dispatched "two feeders, 1 thread" 62 "$steps" 1 110 16 2
feeder_mib=96 dispatched "two small feeders" 63 "$steps" 1 110 16 2
dispatched "one feeder, 8 threads" 64 "$threaded" 8 110 8 1
dispatched "two feeders, 8 threads" 65 "$threaded" 8 110 8 2
dispatched "no room for replicas at times" 66 "$((steps / 2))" 1 110 16 2 room=3
dispatched "late answers" 67 "$((steps / 4))" 4 110 8 1 late=7
dispatched "hidden pointers" 71 "$steps" 1 72 8 2
if [ "$variant" = plain ]; then
  expect "ranges came home, and left again" "$(figure fetchBytes) > 0 && $(figure evictBytes) > 0"
  unaccounted=$(($(figure undispatchedHiddenCount) + $(figure unaccountedLaunchCount)))
  expect "what holds addresses was not dispatched" "unaccounted > 0"
fi
agent_start 1 still=1
program "a feeder that lends no compute" 68 "$((steps / 4))" 1 110 16
agent_stop
expect "nothing ran there" "$(figure dispatchedCount) == 0 && $(agent_figure launches) == 0"
expect "and that is counted" "$(figure undispatchedOwnersCount) > 0 && $(agent_figure errors) == 0"
agent_start 2
GBSIM_PCIE_GBPS=0.5 shimmed "edges" "$out/edges" "$module"
agent_stop
expect "launches were made there" "$(figure dispatchedCount) > 0"
expect "nothing is left" "$(figure allocationCount) == 0 && $(agent_figure left) == 0 && $(agent_figure errors) == 0"
agent_start 1
shimmed "a kernel that fails" "$out/edges" "$module" fault
tolerated=ILLEGAL_ADDRESS agent_stop
expect "its error stays" "$(figure stickyCudaError) == 700"
agent_start 1 kill=5
program "the feeder dies" 69 "$steps" 1 110 16 loss
agent_stop
expect "error 911" "$(figure stickyCudaError) == 911"
finish
