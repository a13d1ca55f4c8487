#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# make npm-package: `npm.sh FOLDER` writes FOLDER/greenboost-VERSION.tgz from a built checkout with portable natives
# (make portable), and prints where. What it depends on is inside, as it was tested: npm installs it without a network
# and without a compiler.
set -eu
umask 022
out=$1
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
mkdir -p "$out" "$stage/build/bin"
cp -R build/js build/portable/lib "$stage/build/"
for program in gb-executor gb-probe gb_workset; do cp "build/portable/bin/$program" "$stage/build/bin/"; done
find "$stage/build/lib" "$stage/build/bin" -type f -exec strip --strip-unneeded {} +
# npm packs no links; only what is linked against the simulated driver looks for this name.
find "$stage/build/lib" -type l -delete
for path in README.md LICENSE CHANGELOG.md docs feeder/systemd host/systemd security/apparmor \
  shim/python/greenboost.py shim/include/greenboost.h; do
  mkdir -p "$stage/$(dirname "$path")"
  cp -R "$path" "$stage/$path"
done
node tui/install/dependencies.mjs . | while read -r package; do
  mkdir -p "$stage/$package"
  cp -R "$package/." "$stage/$package/"
done
# The manifest without what only a checkout needs.
node -e '
  const { devDependencies, scripts, jest, prettier, knip, ...manifest } = require(process.argv[1]);
  const bundleDependencies = Object.keys(manifest.dependencies);
  require("fs").writeFileSync(process.argv[2], JSON.stringify({ ...manifest, bundleDependencies }, null, 2) + "\n");
' "$PWD/package.json" "$stage/package.json"
archive=$(cd "$stage" && npm pack --silent --ignore-scripts)
mv "$stage/$archive" "$out/$archive"
echo "$out/$archive"
