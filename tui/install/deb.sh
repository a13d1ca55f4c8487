#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# make deb: `deb.sh FOLDER` writes FOLDER/greenboost_VERSION_amd64.deb from a built checkout with portable natives
# (make portable). Needs dpkg-deb and strip, no root and no network.
set -eu
umask 022
out=$1
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
version=$(node -p 'require("./package.json").version')
NATIVES=build/portable tui/install/install.sh install /usr "$stage" >/dev/null
home=$stage/usr/lib/greenboost
# dpkg keeps its own list of what it made.
rm "$home/created-folders"
find "$home/build/lib" "$home/build/bin" -type f -exec strip --strip-unneeded {} +
# Where Debian's zsh looks.
mkdir "$stage/usr/share/zsh/vendor-completions"
mv "$stage/usr/share/zsh/site-functions/_greenboost" "$stage/usr/share/zsh/vendor-completions/"
rmdir "$stage/usr/share/zsh/site-functions"
gzip -9n "$stage"/usr/share/man/man1/*.1
doc=$stage/usr/share/doc/greenboost
gzip -9nc CHANGELOG.md >"$doc/changelog.gz"
rm "$home/LICENSE"
{
  echo 'Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/'
  echo 'Upstream-Name: greenboost'
  echo
  echo 'Files: *'
  echo 'Copyright: the GreenBoost authors'
  echo 'License: Apache-2.0'
  echo ' On Debian systems the full text is in /usr/share/common-licenses/Apache-2.0.'
  echo ' Packages below node_modules carry their own licences beside their code.'
} >"$doc/copyright"
install -D -m 644 -t "$stage/etc/apparmor.d" security/apparmor/greenboost-feed security/apparmor/greenboost-agent
mkdir "$stage/DEBIAN"
cat >"$stage/DEBIAN/control" <<CONTROL
Package: greenboost
Version: $version
Architecture: amd64
Maintainer: GreenBoost maintainers <maintainers@greenboost.invalid>
Section: utils
Priority: optional
Installed-Size: $(du -sk --exclude=DEBIAN "$stage" | cut -f1)
Depends: nodejs (>= 20.19), libc6 (>= 2.31)
Recommends: libssl3 | libssl1.1, bash-completion, man-db
Description: memory of several machines as one CUDA device
 The VRAM and RAM of one inference host, and of its neighbours on the LAN, for
 unmodified CUDA programs: programs start under "greenboost run", spare
 machines lend memory with "greenboost feed start".
 .
 Debian 13 and Ubuntu 25.04 have nodejs 20 or newer; older ones get it from
 https://deb.nodesource.com. NVIDIA's driver 550 or newer is needed for a real
 GPU and is no dependency: feeders of RAM need none.
CONTROL
printf '%s\n' /etc/apparmor.d/greenboost-feed /etc/apparmor.d/greenboost-agent >"$stage/DEBIAN/conffiles"
install -m 755 tui/install/deb-postinst.sh "$stage/DEBIAN/postinst"
install -m 755 tui/install/deb-prerm.sh "$stage/DEBIAN/prerm"
install -m 755 tui/install/deb-postrm.sh "$stage/DEBIAN/postrm"
(cd "$stage" && find usr etc -type f -exec md5sum {} + | LC_ALL=C sort -k 2) >"$stage/DEBIAN/md5sums"
chmod -R u+rwX,go+rX,go-w "$stage"
mkdir -p "$out"
dpkg-deb --root-owner-group -Zxz -z6 --build "$stage" "$out/greenboost_${version}_amd64.deb" >/dev/null
echo "$out/greenboost_${version}_amd64.deb"
