#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# After the package is unpacked. Starts nothing that was not running: whether a machine lends is its owner's decision.
set -e
[ "$1" = configure ] || exit 0
if command -v systemd-sysusers >/dev/null; then
  systemd-sysusers greenboost.conf
fi
if [ -d /sys/kernel/security/apparmor ] && command -v apparmor_parser >/dev/null; then
  apparmor_parser -r -W /etc/apparmor.d/greenboost-feed /etc/apparmor.d/greenboost-agent || true
fi
if [ -d /run/systemd/system ]; then
  systemctl daemon-reload
  # An old feeder with new executors would not understand them.
  [ -z "$2" ] || systemctl try-restart greenboost-feed.service || true
fi
