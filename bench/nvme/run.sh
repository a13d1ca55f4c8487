#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What the NVMe tier keeps of its disk: the store's sequential reads, read ahead, decrypted and proven, beside plain
# direct reads of the same file with the same depth and block size, in interleaved pairs. Wanted: 0.90 or more. Prints
# one JSON object; needs no GPU. Usage: bench/nvme/run.sh [directory [MiB [pairs [output.json]]]]
set -euo pipefail
cd "$(dirname "$0")/../.."
directory=${1:-build/bench}
mebibytes=${2:-4096}
pairs=${3:-9}
mkdir -p "$directory"
make -s build/bench/nvme
result=$(build/bench/nvme "$directory" "$mebibytes" "$pairs")
cpu=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1)
device=$(df --output=source "$directory" | tail -1)
model=$(lsblk -ndo MODEL "$device" 2>/dev/null | head -1 | xargs || true)
{
  printf '{"check":"nvme","date":"%s","command":"bench/nvme/run.sh DIRECTORY %s %s",' \
    "$(date -u +%F)" "$mebibytes" "$pairs"
  printf '"disk":"%s","fileSystem":"%s","cpu":"%s","cores":%s,"kernel":"%s",' "${model:-$device}" \
    "$(stat -f -c %T "$directory")" "$cpu" "$(nproc)" "$(uname -r)"
  printf '"wanted":0.9,"result":%s}\n' "$result"
} | tee "${4:-/dev/null}"
