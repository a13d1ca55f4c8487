#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The README with a stopwatch: a clean clone of this checkout's HEAD, built; three machines, each a network namespace
# with a home of its own; two commands on each. Prints a transcript for docs/stopwatch.md, and fails when the first byte
# of a program lies on a feeder later than 60 seconds after the first `connect`. Needs root, iproute2 and git.
set -euo pipefail
limit_seconds=60
checkout=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
holders=()
end() {
  for machine in host anvil forge; do
    [ -d "$work/$machine" ] || continue
    on "$machine" agent stop --force >/dev/null 2>&1 || true
    on "$machine" feed stop --grace 0 >/dev/null 2>&1 || true
  done
  [ ${#holders[@]} -eq 0 ] || kill "${holders[@]}" 2>/dev/null || true
  rm -rf "$work"
}
trap end EXIT

declare -A space address
now() { date +%s.%N; }
since() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.1f", b - a }'; }

machine() { # machine NAME: a network namespace and a home
  unshare --net sleep infinity &
  holders+=($!)
  space[$1]=$!
  mkdir -p "$work/$1"/{home,run}
  chmod 700 "$work/$1"/{home,run}
  until [ "$(readlink "/proc/${space[$1]}/ns/net")" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.05; done
  nsenter -t "${space[$1]}" --net ip link set lo up
}

cable() { # cable FEEDER NET: joins it to the host
  nsenter -t "${space[host]}" --net ip link add "to-$1" type veth peer name eth0 netns "${space[$1]}"
  nsenter -t "${space[host]}" --net ip addr add "$2.1/24" dev "to-$1"
  nsenter -t "${space[host]}" --net ip link set "to-$1" up
  nsenter -t "${space[$1]}" --net ip addr add "$2.2/24" dev eth0
  nsenter -t "${space[$1]}" --net ip link set eth0 up
  address[$1]=$2.2
  until nsenter -t "${space[host]}" --net ip -o link show "to-$1" | grep -q 'state UP'; do sleep 0.05; done
}

on() { # on MACHINE ARGUMENTS: the command there
  local name=$1
  shift
  nsenter -t "${space[$name]}" --net env -i PATH="$PATH" LANG=C.UTF-8 HOME="$work/$name/home" \
    XDG_RUNTIME_DIR="$work/$name/run" GREENBOOST_GPU="${gpu[$name]}" GBSIM_GPU="stopwatch-$$" GBSIM_VRAM=128MiB \
    GREENBOOST_KEY="${key:-}" "$work/clone/greenboost" "$@"
}
declare -A gpu=([host]=sim [anvil]=none [forge]=none)

said() { # said MACHINE ARGUMENTS: shows the command, what it says, and how long it takes
  local started
  started=$(now)
  echo "$1\$ greenboost ${*:2}"
  on "$@" 2>&1 | sed "s|$work|…|g"
  echo "    ($(since "$started") s)"
  echo
}

started=$(now)
git clone --quiet "$checkout" "$work/clone"
make -s -C "$work/clone" >"$work/build.log" 2>&1 || { tail -n 20 "$work/build.log" >&2; exit 1; }
echo "\$ git clone … && make                 ($(since "$started") s, once; npm packages fetched)"
echo
machine host
for name in anvil forge; do machine "$name"; done
cable anvil 10.77.1
cable forge 10.77.2
for name in anvil forge; do
  said "$name" feed start --ram 256MiB
  echo "$name\$ greenboost key show"
  on "$name" key show >"$work/$name.key"
  echo "gb1-…"
  echo
done
connected=$(now)
for name in anvil forge; do
  key=$(cat "$work/$name.key") said host connect "${address[$name]}"
done
budgets=(--vram-budget 64MiB --ram-budget 64MiB --overcommit gated)
program=("$work/clone/build/bin/gb_workset" --bytes 256MiB --buffer-bytes 8MiB --rounds 1)
echo "host\$ greenboost run ${budgets[*]} -- gb_workset ${program[*]:1}"
on host run --gpu sim "${budgets[@]}" -- "${program[@]}" >"$work/run.log" 2>&1 &
running=$!
until on host status --json | grep -qE '"feeder(Ram|Vram)UsedBytes": [1-9]'; do
  kill -0 "$running" || { cat "$work/run.log" >&2; exit 1; }
done
seconds=$(since "$connected")
wait "$running"
sed "s|$work|…|g" "$work/run.log"
echo
echo "From the first connect to the first byte of the program on a feeder: $seconds s (limit $limit_seconds s)."
awk -v s="$seconds" -v limit="$limit_seconds" 'BEGIN { exit s <= limit ? 0 : 1 }'
