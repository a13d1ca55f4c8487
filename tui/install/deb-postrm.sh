#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# After the package went; purge takes the key, state and user of the machine's feeder, too. Homes of users are theirs.
set -e
if [ "$1" = purge ]; then
  rm -rf "${DPKG_ROOT:-}/var/lib/greenboost"
  if [ -z "${DPKG_ROOT:-}" ] && getent passwd greenboost >/dev/null && command -v userdel >/dev/null; then
    userdel greenboost || true
  fi
fi
if [ -z "${DPKG_ROOT:-}" ] && [ -d /run/systemd/system ]; then
  systemctl daemon-reload
fi
