#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Lanes beside plain C over TCP, on loopback, in interleaved rounds of one run: bulk over one and two connections,
# CPU seconds per GB, fetches of 64 KiB on an idle lane and during bulk. Prints the ratios; with an output file, keeps
# the whole result there. FABRIC_CONGESTION=bbr takes another congestion control, for both.
# Usage: bench/fabric/run.sh [MiB [rounds [output.json]]]
set -euo pipefail
cd "$(dirname "$0")/../.."
mebibytes=${1:-1024}
rounds=${2:-9}
make -s build/bench/fabric
result=$(build/bench/fabric "$mebibytes" "$rounds")
field() { sed -n "s/^$1[^:]*: //p" /proc/cpuinfo | head -1; }
{
  printf '{"check":"fabric-lane","date":"%s","command":"%sbench/fabric/run.sh %s %s",' "$(date -u +%F)" \
    "${FABRIC_CONGESTION:+FABRIC_CONGESTION=$FABRIC_CONGESTION }" "$mebibytes" "$rounds"
  printf '"where":"loopback","cpu":"%s, family %s","cores":%s,"kernel":"%s",' \
    "$(field 'model name')" "$(field 'cpu family')" "$(nproc)" "$(uname -r)"
  printf '"kernelCongestion":"%s","loadBefore":%s,"result":%s}\n' \
    "$(cat /proc/sys/net/ipv4/tcp_congestion_control)" "$(cut -d ' ' -f 1 /proc/loadavg)" "$result"
} | tee "${3:-/dev/null}" | sed -e 's/},"/},\n"/g'
