#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# After the package is unpacked. Starts nothing: whether a machine lends is its owner's decision.
set -e
[ "$1" = configure ] || exit 0
if command -v systemd-sysusers >/dev/null; then
  systemd-sysusers --root="${DPKG_ROOT:-/}" greenboost.conf
fi
# Another root than this machine's: the rest is about what runs here.
[ -z "${DPKG_ROOT:-}" ] || exit 0
if [ -d /run/systemd/system ]; then
  systemctl daemon-reload
fi
if [ -d /sys/kernel/security/apparmor ] && command -v apparmor_parser >/dev/null; then
  apparmor_parser -r -W /etc/apparmor.d/greenboost-feed /etc/apparmor.d/greenboost-agent || true
fi
