#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs every fuzz target; a crash, leak, hang or build failure counts as failed. Argument: the names of the targets.
passed=0
failed=0
for name in $1; do
  log=$(mktemp)
  if make -s "fuzz-$name" >"$log" 2>&1; then
    passed=$((passed + 1))
    echo "ok   fuzz-$name: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") inputs" >&2
  else
    failed=$((failed + 1))
    tail -n 40 "$log" >&2
  fi
  rm -f "$log"
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
