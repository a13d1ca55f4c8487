#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Before the package goes: the machine's feeder gives hosts their bytes back and ends, and is no longer started at boot.
# Daemons that people started are theirs.
set -e
[ "$1" = remove ] || exit 0
if [ -d /run/systemd/system ]; then
  systemctl stop greenboost-feed.service || true
fi
if command -v systemctl >/dev/null; then
  systemctl --quiet disable greenboost-feed.service || true
  systemctl --quiet --global disable greenboost-feed.service greenboost-agent.service || true
fi
if [ -d /sys/kernel/security/apparmor ] && command -v apparmor_parser >/dev/null; then
  apparmor_parser -R /etc/apparmor.d/greenboost-feed /etc/apparmor.d/greenboost-agent || true
fi
