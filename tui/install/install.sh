#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# make install and make uninstall: `install.sh install|uninstall PREFIX [DESTDIR]`, from the root of a built checkout.
# NATIVES: the folder of the natives (build; packages take build/portable).
# Everything lies in PREFIX/lib/greenboost; the command, completions, manual and systemd unit point there. Folders that
# install had to make are remembered, so that uninstall takes them away again and no others.
set -eu
action=$1
prefix=$2
dest=${3:-}
root=$dest$2
home=$root/lib/greenboost
natives=${NATIVES:-build}
created=$home/created-folders

folder() { # makes $1 with its parents, notes the new ones
  [ -d "$1" ] && return 0
  folder "$(dirname "$1")"
  mkdir "$1"
  echo "${1#"$dest"}" >>"$notes"
}

put() { # copies file $1 to $2 with mode $3
  folder "$(dirname "$2")"
  install -m "$3" "$1" "$2"
}

unit_folder() { # units of users, and of the machine
  case $1 in
  */system/*) echo "$root/lib/systemd/system" ;;
  *) echo "$root/lib/systemd/user" ;;
  esac
}

install_all() {
  notes=$(mktemp)
  trap 'rm -f "$notes"' EXIT
  # A reinstall replaces the old one and keeps what it noted about folders.
  [ -f "$created" ] && cat "$created" >"$notes"
  rm -rf "$home"
  folder "$home"
  folder "$home/build/bin"
  install -m 644 package.json LICENSE "$home/"
  [ -f README.md ] && install -m 644 README.md "$home/"
  cp -R build/js "$natives/lib" "$home/build/"
  find "$home/build/js" -name '*.map' -delete
  chmod 755 "$home/build/js/tui/cli/main.js"
  for program in gb-executor gb-probe gb_workset; do
    cp "$natives/bin/$program" "$home/build/bin/"
  done
  put shim/python/greenboost.py "$home/shim/python/greenboost.py" 644
  put shim/include/greenboost.h "$home/shim/include/greenboost.h" 644
  node tui/install/dependencies.mjs . >"$home/packages"
  while read -r package; do
    mkdir -p "$home/$package"
    cp -R "$package/." "$home/$package/"
    # What belongs to it alone comes by its own line.
    rm -rf "$home/$package/node_modules"
  done <"$home/packages"
  rm "$home/packages"
  folder "$root/bin"
  ln -sf ../lib/greenboost/build/js/tui/cli/main.js "$root/bin/greenboost"
  for shell in bash zsh fish; do
    node build/js/tui/cli/main.js completion $shell >"$home/completion.$shell"
  done
  put "$home/completion.bash" "$root/share/bash-completion/completions/greenboost" 644
  put "$home/completion.zsh" "$root/share/zsh/site-functions/_greenboost" 644
  put "$home/completion.fish" "$root/share/fish/vendor_completions.d/greenboost.fish" 644
  rm -f "$home"/completion.*
  node build/js/tui/cli/manual.js "$home/man"
  for page in "$home"/man/*.1; do
    put "$page" "$root/share/man/man1/$(basename "$page")" 644
  done
  rm -rf "$home/man"
  for unit in feeder/systemd/*.service feeder/systemd/system/*.service host/systemd/*.service; do
    put "$unit" "$(unit_folder "$unit")/$(basename "$unit")" 644
    sed -i "s|/usr/bin/env greenboost|$prefix/bin/greenboost|" "$(unit_folder "$unit")/$(basename "$unit")"
  done
  put feeder/systemd/system/greenboost.sysusers "$root/lib/sysusers.d/greenboost.conf" 644
  for page in docs/*.md docs/schemas/*.json docs/examples/*; do
    put "$page" "$root/share/doc/greenboost/${page#docs/}" 644
  done
  cp "$notes" "$created"
  echo "installed $root/bin/greenboost; try: greenboost demo"
}

uninstall_all() {
  if [ ! -d "$home" ]; then
    echo "nothing is installed in $root"
    return 0
  fi
  notes=$(mktemp)
  trap 'rm -f "$notes"' EXIT
  [ -f "$created" ] && sort -r "$created" >"$notes"
  for unit in "$root"/lib/systemd/user/greenboost-*.service "$root"/lib/systemd/system/greenboost-*.service; do
    rm -f "$unit"
  done
  rm -f "$root/lib/sysusers.d/greenboost.conf"
  rm -f "$root/bin/greenboost" "$root/share/bash-completion/completions/greenboost" \
    "$root/share/zsh/site-functions/_greenboost" "$root/share/fish/vendor_completions.d/greenboost.fish"
  rm -f "$root"/share/man/man1/greenboost.1 "$root"/share/man/man1/greenboost-*.1
  rm -rf "$home" "$root/share/doc/greenboost"
  while read -r path; do
    [ -d "$dest$path" ] && rmdir --ignore-fail-on-non-empty "$dest$path"
  done <"$notes"
  echo "uninstalled from $root; keys and logs of users stay in their own folders (docs/operating.md)"
}

case $action in
install) install_all ;;
uninstall) uninstall_all ;;
*) echo "usage: install.sh install|uninstall PREFIX [DESTDIR]" >&2; exit 2 ;;
esac
