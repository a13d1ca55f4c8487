#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What the shim adds to a cuLaunchKernel: 10^6 launches against a driver that does nothing, with and without the shim,
# five interleaved pairs, medians. Prints one JSON object; needs no GPU. Usage: bench/launch/run.sh [output.json]
set -euo pipefail
cd "$(dirname "$0")/../.."
make -s natives
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
gcc -O2 -fPIC -shared -Idriver/include -Wl,-soname,libcuda.so.1 -o "$scratch/libcuda.so.1" \
  bench/launch/noop_driver.c bench/launch/noop_answers.c

launches() { # launches <parameters> [NAME=value…]
  local parameters=$1
  shift
  env LD_LIBRARY_PATH="$scratch" "$@" build/bin/gb_launches 1000000 "$parameters" |
    sed 's/.*"nanoseconds_each":\([0-9.]*\).*/\1/'
}
median() { sort -n | sed -n 3p; }

rows=()
for parameters in none three; do
  for _ in 1 2 3 4 5; do
    launches "$parameters" >>"$scratch/native.$parameters"
    launches "$parameters" LD_PRELOAD=build/lib/libgreenboost_cuda.so >>"$scratch/shim.$parameters"
  done
  native=$(median <"$scratch/native.$parameters")
  shim=$(median <"$scratch/shim.$parameters")
  rows+=("\"$parameters\":{\"nativeNanoseconds\":$native,\"shimNanoseconds\":$shim}")
done
cpu=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1)
{
  printf '{"check":"launch","date":"%s","command":"bench/launch/run.sh",' "$(date -u +%F)"
  printf '"driver":"no-op (bench/launch)","cpu":"%s","launches":1000000,' "$cpu"
  printf '"parameters":{%s,%s}}\n' "${rows[0]}" "${rows[1]}"
} | tee "${1:-/dev/null}"
