#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The .deb and the npm package on a clean Debian, as a person installs them: `clean-root.sh trixie` with Debian's own
# Node and OpenSSL 3, `clean-root.sh bullseye` with glibc 2.31, OpenSSL 1.1.1 and this machine's Node, as Debian 11 has
# none that is new enough. Installed, used, removed, purged, nothing left (in-root.sh). Roots are made by debootstrap
# once and kept in build/roots. Needs root and a Debian mirror in apt's settings; without, it says so and is left out.
set -euo pipefail
cd "$(dirname "$0")/../.."
suite=$1
kept=build/roots/$suite.tar
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root

left_out() {
  echo "left out: clean root of $suite: $1"
  echo "0 passed, 0 failed"
  exit 0
}

mirror() { # the first that apt has for Debian's main part
  apt-get indextargets --format '$(ORIGIN) $(CODENAME) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
    awk '$1 == "Debian" && $2 !~ /-/ && $3 == "main" { print $4; exit }'
}

make_root() { # debootstrap, and what the package depends on, so that installing it needs no network
  local from log=$work/debootstrap.log
  from=$(mirror)
  [ -n "$from" ] || left_out "apt has no mirror of Debian"
  mkdir -p "$root"
  if ! debootstrap --variant=minbase "$suite" "$root" "$from" >"$log" 2>&1; then
    grep -q 'Failed getting release file' "$log" && left_out "the mirror cannot be reached, or has no $suite"
    tail -n 20 "$log" >&2
    exit 1
  fi
  local packages=(systemd apparmor)
  [ "$suite" != trixie ] || packages+=(nodejs)
  in_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" \
    >"$log" 2>&1 || { tail -n 20 "$log" >&2; exit 1; }
  in_root apt-get clean
  mkdir -p build/roots
  tar -C "$root" -cf "$work/root.tar" . && mv "$work/root.tar" "$kept"
}

# Own mounts, processes and network: what is started there ends with it. Arguments: the command.
in_root() {
  local network=--net
  [ -f "$kept" ] || network= # while it is being made
  unshare --mount --pid --ipc --uts $network --fork --kill-child -- sh -ec '
    mount -t proc proc "$0/proc"
    mount --rbind /dev "$0/dev"
    [ -z "$1" ] || ip link set lo up
    shift
    exec chroot "$0" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 HOME=/ "$@"' "$root" "$network" "$@"
}

node_package() { # this machine's Node as the package that others have from NodeSource
  local version
  version=$(node -p 'process.versions.node')
  mkdir -p "$work/node/DEBIAN" "$work/node/usr/bin"
  cp "$(node -p 'process.execPath')" "$work/node/usr/bin/node"
  printf '%s\n' 'Package: nodejs' "Version: $version" 'Architecture: amd64' 'Depends: libc6 (>= 2.28), libstdc++6' \
    'Maintainer: nobody <nobody@localhost.invalid>' 'Description: Node of the machine that tests' \
    >"$work/node/DEBIAN/control"
  dpkg-deb --root-owner-group -Znone --build "$work/node" "$root/nodejs.deb" >/dev/null
  in_root dpkg --install /nodejs.deb >/dev/null
  rm "$root/nodejs.deb"
}

[ "$(id -u)" -eq 0 ] || left_out "only root may make one"
command -v debootstrap >/dev/null || left_out "sudo apt-get install debootstrap"
if [ -f "$kept" ]; then
  mkdir -p "$root"
  tar -C "$root" -xf "$kept"
else
  make_root
fi
[ "$suite" = trixie ] || node_package
make -s portable
tui/install/deb.sh "$work" >/dev/null
tui/install/npm.sh "$work" >/dev/null
mkdir "$root/packages"
mv "$work"/greenboost* "$root/packages/"
# npm is JavaScript alone; a Debian package of it brings three hundred others.
cp -R "$(npm root -g)/npm" "$root/packages/npm"
cp test/packages/in-root.sh "$root/packages/"
in_root sh /packages/in-root.sh "$suite"
