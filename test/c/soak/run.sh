#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Endurance under the preloaded shim, on the simulated driver in strict mode, with staging always on:
# programs that know every byte, at random budgets and sizes, ended by themselves or by kill -9. After
# each the GPU must be empty, and no remap may have met anything that ran.
# Usage: run.sh BUILD [tsan]. SOAK_SECONDS: how long in all (60); SOAK_SEED: where to begin (the day).
set -u
build=$(realpath "$1")
preload=$build/lib/libgreenboost_cuda.so
if [ "${2:-}" = tsan ]; then
  preload="$(gcc -print-file-name=libtsan.so) $build/test/core/tsan/libgreenboost_cuda.so"
  export TSAN_OPTIONS=halt_on_error=0:exitcode=66
  export GREENBOOST_ARENA_BASE=0x550000000000 GREENBOOST_ARENA_BYTES=128GiB
fi
seconds=${SOAK_SECONDS:-60}
seed=${SOAK_SEED:-$(date +%Y%j)}
work=$(mktemp -d "${TMPDIR:-/tmp}/gbsoak.XXXXXX")
trap 'rm -rf "$work"' EXIT
start=$SECONDS
passed=0
failed=0
switches=0
abandoned=0
RANDOM=$((seed % 32768))

export LD_LIBRARY_PATH="$build/lib/sim" GBSIM_DIR="$work" GBSIM_GPU=soak GBSIM_VRAM=512MiB GBSIM_STRICT=1
export GREENBOOST_STAGING=always GREENBOOST_RAM_BUDGET=1GiB GREENBOOST_LOG=error
export GREENBOOST_SOCKET="$work/none.sock" GREENBOOST_STATS_FILE="$work/stats.json"
module=$build/test/soak/kernels.so

budgets() { # budgets VRAM_MIB FRAMES_MIB
  export GREENBOOST_VRAM_BUDGET=$1MiB GREENBOOST_FRAMES=$2MiB
}

# settle NAME STATUS: one run has ended; says what is wrong with it.
settle() {
  local name=$1 status=$2 wrong= used
  used=$("$build/test/soak/usage" 2>/dev/null)
  [ "$status" = 0 ] || wrong="ended with $status"
  [ "$used" = 0 ] || wrong="$wrong; ${used:-unknown} bytes of the GPU stay in use"
  grep -q 'WARNING: ThreadSanitizer' "$work/err" && wrong="$wrong; a race"
  grep -q 'gbsim: strict' "$work/err" && wrong="$wrong; $(grep -m 1 'gbsim: strict' "$work/err")"
  if [ -s "$work/stats.json" ]; then
    switches=$((switches + $(figure switchCount)))
    abandoned=$((abandoned + $(figure switchAbandonedCount)))
  fi
  if [ -z "$wrong" ]; then
    passed=$((passed + 1))
    return
  fi
  failed=$((failed + 1))
  echo "FAILED: $name (vram $GREENBOOST_VRAM_BUDGET, frames $GREENBOOST_FRAMES, seed $seed): $wrong"
  head -c 4000 "$work/err"
}

figure() {
  local value
  value=$(sed -n "s/^  \"$1\": \([0-9]*\),*$/\1/p" "$work/stats.json")
  echo "${value:-0}"
}

# shimmed PROGRAM ARGUMENTS...: under the shim; its exit status.
shimmed() {
  local binary=$build/test/soak/$1
  shift
  rm -f "$work/stats.json"
  LD_PRELOAD=$preload nice "$binary" "$module" "$@" >"$work/out" 2>"$work/err"
}

whole() { # whole NAME PROGRAM ARGUMENTS...: a run to its end
  local name=$1
  shift
  printf '%-30s ' "$name:"
  shimmed "$@"
  local status=$?
  tail -n 1 "$work/out"
  settle "$name" $status
}

killed() { # killed SECONDS PROGRAM ARGUMENTS...: a run that ends by kill -9
  local after=$1 binary=$build/test/soak/$2
  shift 2
  rm -f "$work/stats.json"
  LD_PRELOAD=$preload nice "$binary" "$module" "$@" >"$work/out" 2>"$work/err" &
  local pid=$!
  sleep "$after"
  kill -9 $pid 2>/dev/null
  wait $pid 2>/dev/null
  local status=$?
  # A run may be over before that, and must then have been right.
  settle "killed after $after s" $((status == 137 ? 0 : status))
  kills=$((kills + 1))
}

# A program that cannot fail proves nothing: frames that are never written back must be noticed.
budgets 64 16
printf '%-30s ' 'nothing is written back:'
GBSIM_TWINS=$build/test/soak/forgetful.so shimmed lost_update "$seed" 400 60
if [ $? = 1 ] && grep -q 'an update is lost' "$work/err"; then
  passed=$((passed + 1))
  echo "noticed"
else
  failed=$((failed + 1))
  echo "FAILED: not noticed: $(tail -n 1 "$work/out")"
fi

schedules=10000
whole "lost updates" lost_update "$seed" $schedules $((seconds / 4 + 1))
whole "waits for values" waits "$seed" $((seconds / 10 + 1)) values
whole "host callbacks" waits "$seed" $((seconds / 10 + 1)) callbacks

kills=0
while [ $((SECONDS - start)) -lt $((seconds - 5)) ]; do
  seed=$((seed + 1))
  budgets $((32 + RANDOM % 12 * 8)) $((8 + RANDOM % 7 * 4))
  threads=$((1 << RANDOM % 4))
  buffers=$((80 + RANDOM % 80))
  largest=$((2 + RANDOM % 7))
  if [ $((RANDOM % 3)) = 0 ]; then
    killed "$((RANDOM % 3)).$((RANDOM % 10))" soak "$seed" 10 $threads $buffers $largest
  else
    whole "seed $seed, $threads threads" soak "$seed" $((3 + RANDOM % 5)) $threads $buffers $largest
  fi
done
echo "$kills killed, $switches switches, $abandoned abandoned, $((SECONDS - start)) s"
if [ $switches = 0 ]; then
  failed=$((failed + 1))
  echo "FAILED: nothing was ever staged"
fi
echo "$passed passed, $failed failed"
[ $failed = 0 ]
