#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs the lane tests given as arguments; one that hangs or crashes counts as failed.
status=0
for test in "$@"; do
  TSAN_OPTIONS="halt_on_error=1 ${TSAN_OPTIONS:-}" timeout 300 "$test" || status=1
done
exit $status
