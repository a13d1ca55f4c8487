#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Before the package goes: a feeder of the machine says goodbye to its hosts. Daemons of users are theirs.
set -e
if [ "$1" = remove ] && [ -z "${DPKG_ROOT:-}" ] && [ -d /run/systemd/system ]; then
  systemctl disable --now greenboost-feed.service || true
fi
