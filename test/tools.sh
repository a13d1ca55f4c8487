#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs the Debian packages the tests need, or says in one line how to.
set -euo pipefail
packages=(gcc make openssl iproute2 tmux procps git systemd python3 clang-16 libclang-rt-16-dev
  binutils groff-base man-db zsh fish apparmor debootstrap)
missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0
sudo=()
[ "$(id -u)" -eq 0 ] || sudo=(sudo -n)
echo "installing for the tests: ${missing[*]}"
install() {
  "${sudo[@]}" apt-get update -qq
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}"
}
if ! install >/dev/null 2>&1; then
  echo "the tests need: sudo apt-get install ${missing[*]}" >&2
  exit 1
fi
