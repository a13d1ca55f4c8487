#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# After the package went; purge takes the machine's feeder's key, state and user, too. Homes of people are theirs.
set -e
if [ "$1" = purge ]; then
  rm -rf /var/lib/greenboost
  if getent passwd greenboost >/dev/null && command -v userdel >/dev/null; then
    userdel greenboost || true
  fi
fi
if [ -d /run/systemd/system ]; then
  systemctl daemon-reload
fi
