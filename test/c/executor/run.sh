#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs the executor's tests in each configuration and adds up their counts. Argument: the build folder.
build=$1
out=$build/test/executor
passed=0
failed=0

run() {
  echo "-- $1" >&2
  shift
  last=$("$@" | tail -n 1)
  case $last in
    *" passed, "*" failed")
      passed=$((passed + ${last%% *}))
      rest=${last#*, }
      failed=$((failed + ${rest%% *}))
      ;;
    *) failed=$((failed + 1)) ;;
  esac
}

GBSIM_GPU=executor-test-$$
GBSIM_VRAM=512MiB
export GBSIM_GPU GBSIM_VRAM
tsan="TSAN_OPTIONS=halt_on_error=1"
sim="env LD_LIBRARY_PATH=$build/lib/sim"
run "range table against a model" "$out/ranges_test"
run "pages of RAM" "$out/ram_test"
run "RAM only" "$out/executor_test" "$build/bin/gb-executor" ram
run "RAM only, ASan and UBSan" "$out/executor_test" "$out/gb-executor-asan" ram-sanitized
run "simulated GPU" $sim "$out/executor_test" "$build/bin/gb-executor" sim
run "block cache, ASan and UBSan" "$out/cache_test-asan"
run "block cache, TSan" env $tsan "$out/cache_test-tsan"
for what in lanes pull; do
  run "$what, RAM only" "$out/${what}_test" "$build/bin/gb-executor" ram
  run "$what, simulated GPU" $sim "$out/${what}_test" "$build/bin/gb-executor" sim
  run "$what, RAM only, TSan" env $tsan "$out/${what}_test" "$out/gb-executor-tsan" ram-tsan
  run "$what, simulated GPU, ASan and UBSan" $sim "$out/${what}_test" "$out/gb-executor-asan" sim-sanitized
done
for what in run run_images run_tracked; do
  run "$what, simulated GPU" $sim "$out/${what}_test" "$build/bin/gb-executor" sim
  run "$what, simulated GPU, ASan and UBSan" $sim "$out/${what}_test" "$out/gb-executor-asan" sim-sanitized
  run "$what, simulated GPU, TSan" $sim $tsan "$out/${what}_test" "$out/gb-executor-tsan" sim-tsan
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
