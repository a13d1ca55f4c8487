#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# run.sh BUILD: random graphs whole, in pieces, and under staging; each run in a process and on a card
# of its own. Prints one line for each and ends with "N passed, N failed" runs.
set -u
build=$1
passed=0
failed=0
runs=0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export GBSIM_DIR=$work GBSIM_VRAM=512MiB GBSIM_STRICT_EXIT=1 LD_LIBRARY_PATH=$build/lib/sim
export GREENBOOST_SOCKET=$work/none.sock GREENBOOST_STATS_FILE=$work/stats GREENBOOST_LOG=error
export GREENBOOST_VRAM_BUDGET=16MiB GREENBOOST_RAM_BUDGET=128MiB
export ASAN_OPTIONS=detect_leaks=1 LSAN_OPTIONS=suppressions=$work/suppressions:print_suppressions=0
plain=$build/lib/libgreenboost_cuda.so
asan="$(gcc -print-file-name=libasan.so) $build/test/core/asan/libgreenboost_cuda.so"
# What the simulated driver and the core keep until the process ends.
printf 'leak:libcuda.so.1\n' >"$work/suppressions"

figure() { sed -n "s/^  \"$1\": \([0-9]*\),*$/\1/p" "$work/stats"; }

# run NAME PRELOAD CONDITION PROGRAM...: the condition is arithmetic over figures, after the program.
run() {
  local name=$1 preload=$2 condition=$3 code
  shift 3
  runs=$((runs + 1))
  rm -f "$work/stats"
  GBSIM_GPU=graphs-$runs LD_PRELOAD=$preload timeout 120 "$@" >"$work/out" 2>"$work/err"
  code=$?
  if [ $code = 0 ] && ! grep -q 'Sanitizer\|runtime error\|strict: .*graphs alive' "$work/err" &&
    (($(condition_of "$condition"))); then
    echo "ok   $name"
    passed=$((passed + 1))
  else
    echo "FAIL $name: exit $code, wanted $condition: $(condition_of "$condition")"
    cat "$work/out"
    head -c 4000 "$work/err"
    failed=$((failed + 1))
  fi
}

condition_of() {
  echo "$1" | sed "s/splits/$(figure graphSplitCount)/g; s/whole/$(figure graphWholeCount)/g
    s/switches/$(figure switchCount)/g"
}

random=$build/bin/gb_graphs
lives=$build/test/graphs/whole_program
export GREENBOOST_STAGING=off
run "whole" "$plain" "splits == 0 && whole == 0" "$random" 1 40

export GREENBOOST_GRAPH_SEGMENT=2MiB
for seed in 2 3; do
  run "a buffer to a piece, seed $seed" "$plain" "splits > 90" "$random" $seed 40
done
export GREENBOOST_GRAPH_SEGMENT=7MiB
for seed in 2 3; do
  run "three buffers to a piece, seed $seed" "$plain" "splits > 90" "$random" $seed 40
done

export GREENBOOST_GRAPH_SEGMENT=4MiB
GBSIM_KERNEL_US=200 run "slow kernels" "$plain" "splits > 10" "$random" 4 6
run "what runs whole, and lives of graphs" "$plain" "splits > 0 && whole > 0" "$lives"
faults=cuGraphDestroyNode@200=999,cuGraphNodeFindInClone@900=999
GBSIM_FAIL=$faults,cuGraphClone@90=2 \
  run "the driver refuses now and then" "$plain" "splits > 20 && whole > 0" "$random" 5 40
# As the driver does when memory is of another kind than before.
kinds=
for at in 2 3 6 8 9 12 15 20 26 33; do
  kinds=$kinds,cuGraphExecMemcpyNodeSetParams@$at=1,cuGraphExecMemsetNodeSetParams@$at=1
  kinds=$kinds,cuGraphExecUpdate_v2@$at=910
done
GBSIM_KERNEL_US=20 GBSIM_FAIL=${kinds#,} run "copies refused for their kind" "$plain" "splits > 20" "$random" 11 40
GBSIM_FAIL=${kinds#,} run "asan: copies refused for their kind" "$asan" "splits > 20" "$random" 12 40
run "asan: pieces" "$asan" "splits > 30" "$random" 8 16
run "asan: what runs whole" "$asan" "splits > 0 && whole > 0" "$lives"
GBSIM_FAIL=$faults,cuGraphInstantiateWithFlags@30=2 \
  run "asan: the driver refuses now and then" "$asan" "splits > 10 && whole > 0" "$random" 10 16

export GREENBOOST_STAGING=always
run "staged, small pieces" "$plain" "splits > 20 && switches > 100" "$random" 7 20
run "asan: staged, small pieces" "$asan" "splits > 10 && switches > 50" "$random" 9 8
unset GREENBOOST_GRAPH_SEGMENT
run "staged" "$plain" "splits > 20 && switches > 20" "$random" 6 40
echo "$passed passed, $failed failed"
[ $failed = 0 ]
