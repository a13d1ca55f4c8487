#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# make deb: `deb.sh FOLDER` writes FOLDER/greenboost_VERSION_amd64.deb from a built checkout with portable natives
# (make portable), and prints where. Needs dpkg-deb and strip, no root and no network.
set -eu
umask 022
out=$1
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
version=$(node -p 'require("./package.json").version')
archive=$out/greenboost_${version}_amd64.deb

tree() { # what lies on the machine, below $stage
  NATIVES=build/portable tui/install/install.sh install /usr "$stage" >/dev/null
  home=$stage/usr/lib/greenboost
  # dpkg keeps its own list of what it made; the licence is Debian's copy.
  rm "$home/created-folders" "$home/LICENSE"
  find "$home/build/lib" "$home/build/bin" -type f -exec strip --strip-unneeded {} +
  # Of koffi only what this architecture and C library load.
  rm -rf "$home/node_modules/@koromix/koffi-linux-x64/musl_x64"
  # Where Debian's zsh looks.
  mkdir "$stage/usr/share/zsh/vendor-completions"
  mv "$stage/usr/share/zsh/site-functions/_greenboost" "$stage/usr/share/zsh/vendor-completions/"
  rmdir "$stage/usr/share/zsh/site-functions"
  gzip -9n "$stage"/usr/share/man/man1/*.1
  gzip -9nc CHANGELOG.md >"$stage/usr/share/doc/greenboost/changelog.gz"
  copyright >"$stage/usr/share/doc/greenboost/copyright"
  install -D -m 644 -t "$stage/etc/apparmor.d" security/apparmor/greenboost-feed security/apparmor/greenboost-agent
}

copyright() {
  cat <<'COPYRIGHT'
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: greenboost

Files: *
Copyright: the GreenBoost authors
License: Apache-2.0
 On Debian systems the full text is in /usr/share/common-licenses/Apache-2.0.
 Packages below /usr/lib/greenboost/node_modules carry their own licences beside their code.
COPYRIGHT
}

control() {
  cat <<CONTROL
Package: greenboost
Version: $version
Architecture: amd64
Maintainer: GreenBoost maintainers <maintainers@greenboost.invalid>
Section: utils
Priority: optional
Installed-Size: $(du -sk --exclude=DEBIAN "$stage" | cut -f1)
Depends: nodejs (>= 20.19), libc6 (>= 2.31), libssl3 | libssl1.1
Suggests: apparmor, bash-completion, man-db
Description: memory of several machines as one CUDA device
 The VRAM and RAM of one inference host, and of its neighbours on the LAN, for
 unmodified CUDA programs: programs start under "greenboost run", spare
 machines lend memory with "greenboost feed start".
 .
 Debian 13 and Ubuntu 25.04 have nodejs 20 or newer; older ones get it from
 NodeSource. NVIDIA's driver 550 or newer is needed for a real GPU and is no
 dependency: feeders of RAM need none.
CONTROL
}

tree
mkdir "$stage/DEBIAN"
control >"$stage/DEBIAN/control"
printf '%s\n' /etc/apparmor.d/greenboost-feed /etc/apparmor.d/greenboost-agent >"$stage/DEBIAN/conffiles"
for script in postinst prerm postrm; do
  install -m 755 "tui/install/deb-$script.sh" "$stage/DEBIAN/$script"
done
(cd "$stage" && find usr -type f -exec md5sum {} + | LC_ALL=C sort -k 2) >"$stage/DEBIAN/md5sums"
chmod -R u+rwX,go+rX,go-w "$stage"
mkdir -p "$out"
dpkg-deb --root-owner-group -Zxz -z6 --build "$stage" "$archive" >/dev/null
echo "$archive"
