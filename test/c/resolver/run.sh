#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# run.sh BUILD: the resolver test. Every case is a process of its own under the preloaded shim.
# Prints one line for each case and exits with the number of failed ones.
set -u
build=$1
here=$build/test/resolver
shim=$build/lib/libgreenboost_cuda.so
sim=$build/lib/sim
passed=0
failed=0
state=$(mktemp -d)
trap 'rm -rf "$state"' EXIT
export GBSIM_DIR="$state" GBSIM_GPU=resolver GBSIM_VRAM=64MiB
export GREENBOOST_SOCKET="$state/no-agent.sock"

report() { # NAME STATUS
  if [ "$2" -eq 0 ]; then
    echo "ok   $1"
    passed=$((passed + 1))
  else
    echo "FAIL $1"
    failed=$((failed + 1))
  fi
}
case_of() { # NAME LIBRARIES [VARIABLE=VALUE]
  env ${3:-} LD_LIBRARY_PATH="$2:$here" LD_PRELOAD="$shim" "$here/resolve_program" "$1"
  report "$1 on $(basename "$2")" $?
}
# The runtime's requests, recorded between it and the shim.
runtime() { # PROGRAM LIBRARIES
  : >"$state/record"
  GB_RECORD="$state/record" LD_LIBRARY_PATH="$2" LD_PRELOAD="$here/librecord.so:$shim" \
    "$here/$1"
  report "$1 on $(basename "$2"): entry points" $?
  grep '^BAD' "$state/record"
  asked=$(wc -l <"$state/record")
  wrapped=$(grep -c '^ok .* shim ' "$state/record")
  flavoured=$(grep -c '^ok .* shim .*_pts[zd]$' "$state/record")
  ! grep -q '^BAD' "$state/record" && [ "$asked" -ge 300 ] && [ "$wrapped" -ge 80 ] &&
    [ "$flavoured" -ge 20 ]
  report "$1 on $(basename "$2"): $asked requests, $wrapped wrapped, $flavoured of them per-thread" $?
}

for name in dlsym dlsym-loaded pseudo-handles proc-address status fork fork-before; do
  case_of $name "$sim"
done
case_of disabled "$sim" GREENBOOST_DISABLE=1
case_of foreign "$here/foreign"

plain=$("$here/silent_program")
preloaded=$(LD_LIBRARY_PATH="$sim" LD_PRELOAD="$shim" "$here/silent_program" 2>&1)
[ "$plain" = "$preloaded" ]
report "silent without CUDA ($preloaded)" $?

for program in cudart_shared cudart_static; do
  if [ -x "$here/$program" ]; then
    runtime $program "$sim"
    runtime $program "$here/foreign"
  else
    echo "left $program out: no CUDA toolkit with that runtime (CUDA_HOME or /usr/local/cuda)"
  fi
done
sh test/c/resolver/documented.sh
report "every entry point is documented" $?
echo "$passed passed, $failed failed"
exit $failed
