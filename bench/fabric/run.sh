#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Lanes beside plain C over TCP in interleaved rounds of one run: bulk over one and two connections, CPU seconds per GB,
# fetches of 64 KiB on an idle lane and during bulk, on loopback; then bulk over delay links of 10 Gbit/s with 0.17 ms
# and 1 Gbit/s with 1 ms there and back (which needs root, or user namespaces; the link itself takes cores). Prints
# the results; with an output file, keeps them there. FABRIC_CONGESTION=bbr takes another congestion control, for both.
# The machine should be idle otherwise: each result says how many cores others had.
# Usage: bench/fabric/run.sh [MiB [rounds [output.json]]]
set -euo pipefail
cd "$(dirname "$0")/../.."
mebibytes=${1:-1024}
rounds=${2:-15}
make -s build/bench/fabric build/test/net/delaylink
field() { sed -n "s/^$1[^:]*: //p" /proc/cpuinfo | head -1; }
load() { cut -d ' ' -f 1 /proc/loadavg; }
before=$(load)
loopback=$(build/bench/fabric "$mebibytes" "$rounds")
fast=$(build/bench/fabric --link 10Gbit 85us "$mebibytes" "$rounds")
slow=$(build/bench/fabric --link 1Gbit 500us 128 "$rounds")
{
  printf '{"check":"fabric-lane","date":"%s","command":"%sbench/fabric/run.sh %s %s",' "$(date -u +%F)" \
    "${FABRIC_CONGESTION:+FABRIC_CONGESTION=$FABRIC_CONGESTION }" "$mebibytes" "$rounds"
  printf '"cpu":"%s, family %s","cores":%s,"kernel":"%s",' \
    "$(field 'model name')" "$(field 'cpu family')" "$(nproc)" "$(uname -r)"
  printf '"kernelCongestion":"%s","loadBefore":%s,"loadAfter":%s,"loopback":%s,"link10Gbit":%s,"link1Gbit":%s}\n' \
    "$(cat /proc/sys/net/ipv4/tcp_congestion_control)" "$before" "$(load)" "$loopback" "$fast" "$slow"
} | tee "${3:-/dev/null}" | sed -e 's/},"/},\n"/g'
