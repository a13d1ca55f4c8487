#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs the store's test with io_uring and with threads, in a folder of the tree's own file system: the
# temporary folder may lie in memory, where there is no direct I/O. run.sh BINARY
set -u
binary=$(realpath "$1")
cd "$(dirname "$0")/../../.."
work=$(mktemp -d "build/test/store/work.XXXXXX")
trap 'rm -rf "$work"' EXIT
status=0
timeout 120 "$binary" "$work" || status=1
timeout 120 "$binary" "$work" threads || status=1
exit $status
