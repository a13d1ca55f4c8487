#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Lanes beside plain C over TCP, on loopback, in interleaved rounds of one run: bulk over one and two connections, CPU
# seconds per GB, fetches of 64 KiB on an idle lane and during bulk. Prints ratios; with an output file, the whole result.
# FABRIC_CONGESTION=bbr takes another congestion control for both. Usage: bench/fabric/run.sh [MiB [rounds [output.json]]]
set -euo pipefail
cd "$(dirname "$0")/../.."
mebibytes=${1:-1024}
rounds=${2:-9}
make -s build/bench/fabric
result=$(build/bench/fabric "$mebibytes" "$rounds")
cpu=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1)
family=$(sed -n 's/^cpu family[^:]*: //p' /proc/cpuinfo | head -1)
json=$(printf '{"check":"fabric-lane","date":"%s","command":"%sbench/fabric/run.sh %s %s","where":"loopback",' "$(date -u +%F)" \
  "${FABRIC_CONGESTION:+FABRIC_CONGESTION=$FABRIC_CONGESTION }" "$mebibytes" "$rounds"
  printf '"cpu":"%s, family %s","cores":%s,"kernel":"%s","kernelCongestion":"%s","result":%s}' "$cpu" "$family" "$(nproc)" \
    "$(uname -r)" "$(cat /proc/sys/net/ipv4/tcp_congestion_control)" "$result")
if [ $# -ge 3 ]; then printf '%s\n' "$json" >"$3"; fi
printf '%s\n' "$json" | sed -e 's/,"\(oneConnection\|twoConnections\|cpuSecondsPerGB\|fetch64KiB\|fetchDuringBulk\|congestion\)"/,\n"\1"/g'
