# SPDX-License-Identifier: Apache-2.0
# Sourced by what runs the model program (run.sh beside this, dispatch_core/run.sh): runs it under the shim and keeps
# the account of what failed. The script has set: variant, work (a folder), preload, module, part (sizes are divided
# by it), binaries (where program lies).
runs=0
failed_runs=0
failed=0

settle() { # Closes the account of the run before.
  failed_runs=$((failed_runs + failed))
  failed=0
}

fail() {
  echo "FAILED: $*"
  failed=1
}

figure() { sed -n "s/^  \"$1\": \([0-9]*\),*$/\1/p" "$work/stats.json"; } # of the statistics file
agent_figure() { sed -n "s/.* $1=\([0-9]*\).*/\1/p" "$work/agent"; }
expect() { # expect WHAT CONDITION: arithmetic over figures
  if ! (($2)); then fail "$1: $2"; fi
}

program() { # program NAME SEED STEPS THREADS LIVE LARGEST [loss]: the model program
  shimmed "$1" "$binaries/program" "$module" "$2" "$3" "$4" $(($5 / part)) $(($6 / part)) "${@:7}"
}

shimmed() { # shimmed NAME BINARY ARGUMENTS...: under the shim, with a limit on its time
  settle
  runs=$((runs + 1))
  rm -f "$work/stats.json"
  printf '%-36s ' "$variant, $1:"
  LD_LIBRARY_PATH=$driver LD_PRELOAD="$preload" timeout "${GB_TEST_LIMIT:-300}" "${@:2}" >"$work/out" 2>"$work/err"
  local code=$?
  cat "$work/out"
  if [ $code != 0 ] || grep -q 'Sanitizer\|runtime error\|gbsim: strict' "$work/err"; then
    fail "$1: exit $code"
    head -c 6000 "$work/err"
  fi
  [ -s "$work/stats.json" ] || fail "$1: no statistics"
}

wait_for_agent() { # until its socket is there, five seconds at most
  for _ in $(seq 100); do [ -S "$GREENBOOST_SOCKET" ] && return; sleep 0.05; done
  fail "the test agent did not start"
}

finish() { # The last line: "N passed, N failed". returns: whether none failed
  settle
  echo "$((runs - failed_runs)) passed, $failed_runs failed"
  [ $failed_runs = 0 ]
}
