#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The README with a stopwatch (make stopwatch): a clean clone of this checkout's HEAD, built; three machines, each a
# network namespace with a name and a home of its own; the README's commands on each. Prints docs/stopwatch.md, and
# fails when the first byte of a program lies on a feeder later than 60 seconds after the first `connect`. Needs root,
# iproute2 and git.
set -euo pipefail
limit_seconds=60
checkout=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
key=
declare -A holder address
end() {
  for name in "${!holder[@]}"; do
    on "$name" agent stop --force >/dev/null 2>&1 || true
    on "$name" feed stop --grace 0 >/dev/null 2>&1 || true
    kill "${holder[$name]}" 2>/dev/null || true
  done
  rm -rf "$work"
}
trap end EXIT

now() { date +%s.%N; }
since() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.1f", b - a }'; }
inside() { nsenter -t "${holder[$1]}" --net --uts "${@:2}"; }

machine() { # machine NAME: a network namespace and a home
  unshare --net --uts sleep infinity &
  holder[$1]=$!
  mkdir -p "$work/$1"/{home,run}
  chmod 700 "$work/$1"/{home,run}
  until [ "$(readlink "/proc/${holder[$1]}/ns/uts")" != "$(readlink /proc/self/ns/uts)" ]; do sleep 0.05; done
  inside "$1" hostname "$1"
  inside "$1" ip link set lo up
}

cable() { # cable FEEDER NET: joins it to the host
  inside host ip link add "to-$1" type veth peer name eth0 netns "${holder[$1]}"
  inside host ip addr add "$2.1/24" dev "to-$1"
  inside host ip link set "to-$1" up
  inside "$1" ip addr add "$2.2/24" dev eth0
  inside "$1" ip link set eth0 up
  address[$1]=$2.2
  until inside host ip -o link show "to-$1" | grep -q 'state UP'; do sleep 0.05; done
}

on() { # on MACHINE ARGUMENTS: the command there; the simulated GPU is the host's alone
  local gpu=none
  [ "$1" != host ] || gpu=sim
  inside "$1" env -i PATH="$PATH" LANG=C.UTF-8 HOME="$work/$1/home" XDG_RUNTIME_DIR="$work/$1/run" \
    GREENBOOST_GPU=$gpu GBSIM_GPU="stopwatch-$$" GBSIM_VRAM=128MiB ${key:+GREENBOOST_KEY="$key"} \
    "$work/clone/greenboost" "${@:2}"
}

shown() { # without the folders of this machine
  sed -E "s|$work/[a-z]+/home|~|g; s|$work/clone/||g"
}

said() { # said MACHINE ARGUMENTS: shows the command, what it says, and how long it takes
  local started
  started=$(now)
  echo "$1\$ greenboost ${*:2}"
  on "$@" 2>&1 | shown
  echo "    ($(since "$started") s)"
  echo
}

cat <<'TEXT'
<!-- SPDX-License-Identifier: Apache-2.0 -->
# The README with a stopwatch

What `make stopwatch` (test/stopwatch.sh) printed last: a clean clone, built; three machines, each a network namespace
with a home of its own; two commands on each feeder, and on the host one `connect` for each feeder and one `run`. The
GPU is simulated and all three share two cores with other work, so no time here says anything about a GPU or a network.
The keys were of this run alone.

```console
TEXT
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
  key=$(cat "$work/$name.key")
  said host connect "${address[$name]}"
  key=
done
options=(--vram-budget 64MiB --ram-budget 64MiB --overcommit gated)
program=(build/bin/gb_workset --bytes 256MiB --buffer-bytes 8MiB --rounds 1)
echo "host\$ greenboost run ${options[*]} -- ${program[*]}"
on host run "${options[@]}" -- "$work/clone/${program[0]}" "${program[@]:1}" >"$work/run.log" 2>&1 &
running=$!
until on host status --json | grep -qE '"feeder(Ram|Vram)UsedBytes": [1-9]'; do
  kill -0 "$running" || { cat "$work/run.log" >&2; exit 1; }
done
seconds=$(since "$connected")
wait "$running"
shown <"$work/run.log"
cat <<TEXT
\`\`\`

From the first \`connect\` to the first byte of the program on a feeder: **$seconds s** (at most $limit_seconds).
TEXT
awk -v s="$seconds" -v limit="$limit_seconds" 'BEGIN { exit s <= limit ? 0 : 1 }'
