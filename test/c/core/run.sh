#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs the model program under the preloaded shim: run.sh plain|asan|tsan|gpu SHIM [GROUP...]. Prints
# one line for each run. Groups: tiers feeder faults copies nvme; all. gpu: on the machine's own driver
# and GPU instead of the simulated ones. Ends with "N passed, N failed" runs.
set -u
variant=$1
shim=$(realpath "$2")
groups=("${@:3}")
[ ${#groups[@]} != 0 ] || groups=(tiers feeder faults copies nvme)
cd "$(dirname "$0")/../../.."
out=build/test/core
work=$(mktemp -d "${TMPDIR:-/tmp}/gbcore.XXXXXX")
nvme_dir=$(mktemp -d "$PWD/$out/nvme.XXXXXX") # direct I/O: a temporary folder may lie in memory
agent_pid=
clean_up() {
  [ -n "$agent_pid" ] && kill "$agent_pid" 2>/dev/null
  rm -rf "$work" "$nvme_dir"
}
trap clean_up EXIT

steps=1000
preload=$shim
binaries=$out/$variant
module=$out/kernels.so
driver=build/lib/sim
case $variant in
  asan) preload="$(gcc -print-file-name=libasan.so) $shim" ;;
  tsan) preload="$(gcc -print-file-name=libtsan.so) $shim"
        export GREENBOOST_ARENA_BASE=0x550000000000 GREENBOOST_ARENA_BYTES=128GiB ;;
  gpu) binaries=$out/plain; module=$out/kernels.ptx; driver=${LD_LIBRARY_PATH:-} ;;
esac
[ "${GB_TEST_STEPS:-}" ] && steps=$GB_TEST_STEPS
# TSan pays for every byte and sees little in programs with one thread: these are shorter, and all sizes smaller.
single=$steps
part=1
[ "$variant" = tsan ] && single=$((steps / 4)) && part=2
vram=$((33554432 / part))
export ASAN_OPTIONS=detect_leaks=0:abort_on_error=0 TSAN_OPTIONS=halt_on_error=0:exitcode=66
export GBSIM_GPU=core-$$ GBSIM_VRAM=256MiB GBSIM_DIR=$work GREENBOOST_LOG=error
export GREENBOOST_VRAM_BUDGET=$vram GREENBOOST_SOCKET=$work/shim.sock GREENBOOST_STATS_FILE=$work/stats.json

. test/c/core/runs.sh

no_agent() {
  export GREENBOOST_RAM_BUDGET=$((128 / part))MiB
  unset GREENBOOST_OVERCOMMIT
  program "local tiers, 1 thread" 11 "$single" 1 120 16
  expect "T1 was filled to the byte" "$(figure vramPeakBytes) == vram"
  expect "T2 was used" "$(figure ramPeakBytes) > 0"
  expect "nothing is left" "$(figure allocationCount) == 0 && $(figure ramUsedBytes) == 0"
  expect "at most a slab is kept" "$(figure vramUsedBytes) <= 2097152"
  program "local tiers, 8 threads" 12 "$((steps / 2))" 8 120 8
  expect "nothing is left" "$(figure allocationCount) == 0 && $(figure allocatedBytes) == 0"
  expect "T1 stays within its budget" "$(figure vramPeakBytes) <= vram && $(figure ramPeakBytes) <= 4 * vram"
}

# Contexts that go, forks, exhaustion; then calls of the driver that fail once each.
edges() {
  export GREENBOOST_RAM_BUDGET=$((28 / part))MiB
  shimmed "edges" "$binaries/edges" $((60 / part))
  expect "T1 was filled to the byte" "$(figure vramPeakBytes) == vram"
  expect "T2 was filled to the byte" "$(figure ramPeakBytes) == 29360128 / part"
  [ "$variant" = gpu ] && return
  export GREENBOOST_RAM_BUDGET=$((128 / part))MiB
  GBSIM_FAIL=cuMemCreate@9=2,cuMemMap@17=2,cuMemSetAccess@23=2,cuMemCreate@40=2 \
    program "driver refuses now and then" 15 "$single" 1 120 16
  expect "nothing is left" "$(figure allocationCount) == 0 && $(figure ramUsedBytes) == 0"
}

# Without HOST_NUMA memory, and without an arena: whole allocations, some of them pinned host memory.
plain_form() {
  [ "$variant" = gpu ] && return
  export GREENBOOST_RAM_BUDGET=$((128 / part))MiB
  GBSIM_HOST_NUMA=0 program "no HOST_NUMA memory" 13 "$single" 1 120 16
  expect "both tiers were used" "$(figure vramPeakBytes) > 0 && $(figure ramPeakBytes) > 0"
  expect "nothing is left" "$(figure allocationCount) == 0 && $(figure ramUsedBytes) == 0"
  GBSIM_FAIL=cuMemAddressReserve=2 program "no arena" 14 "$steps" 4 120 8
  expect "both tiers were used" "$(figure vramPeakBytes) > 0 && $(figure ramPeakBytes) > 0"
  expect "T1 stays within its budget" "$(figure vramPeakBytes) <= vram"
  expect "nothing is left" "$(figure allocationCount) == 0 && $(figure vramUsedBytes) == 0"
  expect "no RAM is left" "$(figure ramUsedBytes) == 0"
}

agent_start() {
  "$out/agent" "$GREENBOOST_SOCKET" $((32 / part)) $((${feeder_mib:-512} / part)) "$@" >"$work/agent" &
  agent_pid=$!
  wait_for_agent
}

agent_stop() {
  kill "$agent_pid" && wait "$agent_pid"
  agent_pid=
  account=$(cat "$work/agent")
}

gated() { # gated NAME SEED STEPS THREADS LARGEST FAULTS...
  local name=$1 seed=$2 count=$3 threads=$4 largest=$5
  shift 5
  agent_start "$@"
  program "$name" "$seed" "$count" "$threads" "${live:-110}" "$largest"
  agent_stop
  expect "$name: feeders held bytes" "$(figure feederRamPeakBytes) > 0"
  expect "$name: bytes moved" "$(figure fetchBytes) > 0 && $(figure evictBytes) > 0"
  expect "$name: budgets" "$(figure vramPeakBytes) <= vram && $(figure ramPeakBytes) <= vram"
  expect "$name: nothing is left" "$(figure allocationCount) == 0 && $(figure feederRamUsedBytes) == 0"
  expect "$name: the agent's account" "$(agent_figure placed_bytes) == 0 && $(agent_figure errors) == 0"
  expect "$name: feeder grants returned" "$(agent_figure held_t2r_bytes) == 0"
}

lossy() { # lossy NAME FAULT: the program must end with the sticky error
  agent_start "$2"
  program "$1" 31 "$steps" "$3" 110 16 loss
  agent_stop
  expect "$1: error 911" "$(figure stickyCudaError) == 911"
}

nvme() { # nvme NAME SEED STEPS THREADS LARGEST: T3 alone, nobody listens on the socket
  program "$1" "$2" "$3" "$4" "${live:-110}" "$5"
  expect "$1: the file held bytes" "$(figure nvmePeakBytes) > 0 && $(figure feederRamPeakBytes) == 0"
  expect "$1: bytes moved" "$(figure nvmeReadBytes) > 0 && $(figure nvmeWriteBytes) > 0"
  expect "$1: budgets" "$(figure vramPeakBytes) <= vram && $(figure ramPeakBytes) <= vram"
  expect "$1: nothing is left" "$(figure allocationCount) == 0 && $(figure nvmeUsedBytes) == 0"
  expect "$1: no name is left" "$(find "$nvme_dir" -name '.greenboost-*' ! -name '*-writes-*' | wc -l) == 0"
}

# Writes noise over the nameless file of the process that has one in our folder, until it ends.
spoil_file() {
  local link
  for _ in $(seq 300); do
    for link in /proc/[0-9]*/fd/*; do
      [[ $(readlink "$link" 2>/dev/null) == "$nvme_dir"/* ]] || continue
      sleep 0.3
      while dd if=/dev/urandom of="$link" bs=1M count=48 conv=notrunc status=none 2>/dev/null; do :; done
      return
    done
    sleep 0.02
  done
}

# ---- groups

group_tiers() {
  if [ "$variant" = plain ]; then
    runs=$((runs + 1))
    "$out/unit" || fail "the pure parts"
  fi
  no_agent
  plain_form
  edges
}

gated_form() {
  export GREENBOOST_RAM_BUDGET=$vram GREENBOOST_OVERCOMMIT=gated
}

# Feeders that hold bytes, and answers that come late or not at once.
group_feeder() {
  gated_form
  gated "gated, 1 thread" 21 "$single" 1 16
  gated "gated, 8 threads" 22 "$((steps / 5))" 8 8
  live=64 gated "gated, hidden pointers" 27 "$steps" 1 8
  expect "some launches were unaccounted and ran" "$(figure unaccountedLaunchCount) > $(figure refusedLaunchCount)"
  gated "gated, link cut" 23 "$((steps / 4))" 1 16 cut=37
  expect "the fault happened" "$(agent_figure cut) > 0 && $(agent_figure connections) > 1"
  gated "gated, late answers" 24 "$((steps / 4))" 4 8 late=7
  gated "gated, feeder full" 25 "$((steps / 4))" 1 16 refuse=11
  expect "the fault happened" "$(agent_figure refused) > 0"
}

# Feeders that go, for a while or for ever.
group_faults() {
  gated_form
  gated "gated, feeder away" 26 "$((steps / 4))" 4 8 revoke=29 away=2
  expect "the faults happened" "$(agent_figure away) > 0 && $(agent_figure revoked) > 0"
  gated "gated, tickets taken back" 28 "$((steps / 4))" 4 8 revoke=61
  expect "the fault happened" "$(agent_figure revoked) > 0 && $(agent_figure tickets) > 2"
  part=1 gated "gated, a feeder stops" 29 "$((steps / 10))" 4 8 stop=100
  expect "the fault happened" "$(agent_figure stopped) > 0 && $(agent_figure tickets) > 2"
  lossy "gated, feeder lost" lose=200 1
  lossy "gated, feeder lost, 8 threads" lose=200 8
  lossy "gated, wrong bytes" flip=15 1
}

# Bytes that are elsewhere too, or move there.
group_copies() {
  gated_form
  gated "gated, copies move" 51 "$((steps / 2))" 4 8 move=5
  expect "they moved" "$(agent_figure moved) > 0"
  [ "$variant" != plain ] || expect "to more lanes than a program has at a time" "$(agent_figure moved) > 64"
  part=1 gated "gated, known content" 55 "$((steps / 2 / part))" 4 8 offers=1
  expect "it was not written again" "$(agent_figure known) > 0 && $(agent_figure cached_mib) == $(agent_figure known)"
  gated "gated, two copies" 52 "$((steps / 4))" 4 8 mirror=1
  gated "gated, two copies, wrong bytes" 53 "$((steps / 4))" 4 8 mirror=1 flip=15
  expect "the fault happened" "$(agent_figure flipped) > 0"
  gated "gated, two copies, one is lost" 54 "$((steps / 4))" 4 8 mirror=1 lose=200
  expect "the program did not notice" "$(figure stickyCudaError) == 0"
}

group_nvme() {
  gated_form
  export GREENBOOST_NVME_DIR=$nvme_dir GREENBOOST_NVME_BUDGET=512MiB GREENBOOST_NVME_WRITES_PER_DAY=1TiB
  nvme "NVMe, 1 thread" 41 "$single" 1 16
  nvme "NVMe, 8 threads" 42 "$((steps / 5))" 8 8
  expect "clean ranges were not written" "$(figure cleanDropBytes) > 0"
  live=72 nvme "NVMe, hidden pointers" 47 "$((steps / 2))" 1 8
  GREENBOOST_NVME_BUDGET=$((40 / part))MiB feeder_mib=40 gated "NVMe and a feeder" 43 "$((steps / 2))" 4 8
  expect "both held bytes" "$(figure nvmePeakBytes) > 0 && $(figure nvmeUsedBytes) == 0"
  rm -f "$nvme_dir"/.greenboost-writes-*
  GREENBOOST_NVME_WRITES_PER_DAY=$((96 / part))MiB program "NVMe, few writes a day" 44 "$((steps / 4))" 1 110 16
  expect "they are kept to" "$(figure nvmeWriteBytes) > 0 && $(figure nvmeWriteBytes) <= 3 * vram"
  expect "calls that need more are refused" "$(figure refusedLaunchCount) > 0 && $(figure stickyCudaError) == 0"
  rm -f "$nvme_dir"/.greenboost-writes-*
  spoil_file &
  program "NVMe, wrong bytes" 45 "$((steps * 10))" 1 110 16 loss
  expect "wrong bytes: error 911" "$(figure stickyCudaError) == 911"
  wait $!
  unset GREENBOOST_NVME_DIR GREENBOOST_NVME_BUDGET GREENBOOST_NVME_WRITES_PER_DAY
}

for group in "${groups[@]}"; do
  if ! declare -F "group_$group" >/dev/null; then
    echo "unknown group $group" >&2
    exit 2
  fi
  "group_$group"
done
finish
