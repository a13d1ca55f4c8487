#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Inside a clean Debian root, with no network but loopback, started by clean-root.sh: the packages lie in /packages.
# Prints a line for each check, and the counts.
suite=$1
passed=0
failed=0
log=/packages/log
home=/usr/lib/greenboost
workset="--bytes 192MiB --buffer-bytes 8MiB --rounds 1"
export HOME=/packages/person XDG_RUNTIME_DIR=/packages/run GREENBOOST_GPU=sim GBSIM_GPU=root GBSIM_VRAM=64MiB
export DEBIAN_FRONTEND=noninteractive
mkdir -p -m 700 "$HOME" "$XDG_RUNTIME_DIR"

check() { # check TITLE COMMAND...: it ends well
  title=$1
  shift
  if "$@" >"$log" 2>&1; then
    passed=$((passed + 1))
    echo "ok $title"
  else
    failed=$((failed + 1))
    echo "not ok $title: $*"
    tail -n 20 "$log" | sed 's/^/    /'
  fi
}

says() { # says WORDS COMMAND...: it ends well, and prints them
  words=$1
  shift
  "$@" >"$HOME/said" 2>&1 || { cat "$HOME/said"; return 1; }
  grep -qF "$words" "$HOME/said" || { cat "$HOME/said"; return 1; }
}

paths() { # what is on this machine, but for what apt and dpkg keep of all packages, and ourselves
  find / -xdev \( -path /packages -o -path /proc -o -path /dev -o -path /sys -o -path /run/systemd -o -path /tmp \
    -o -path /var/lib/dpkg -o -path /var/lib/apt -o -path /var/cache/apt -o -path /var/log -o -path /etc/.pwd.lock \) \
    -prune -o -print | LC_ALL=C sort
}

used() { # used COMMAND HOME: the main job, on a simulated GPU: VRAM, RAM, and a feeder that lends RAM
  says "greenboost $(sed -n 's/^ *"version": "\(.*\)",$/\1/p' "$2/package.json")" "$1" version &&
    says 'lending 128 MiB of RAM' "$1" feed start --bind 127.0.0.1 --ram 128MiB &&
    "$1" key show >"$HOME/key" && chmod 600 "$HOME/key" &&
    "$1" connect 127.0.0.1 --key-file "$HOME/key" &&
    GREENBOOST_LOG=info says 'right: 0 mismatches' \
      "$1" run --gpu sim --vram-budget 64MiB --ram-budget 32MiB --overcommit gated -- \
      "$2/build/bin/gb_workset" $workset &&
    says 'Ready' "$1" doctor &&
    took_and_gave_back "$1" &&
    "$1" agent stop --force && "$1" feed stop --grace 0
}

took_and_gave_back() { # the feeder held what VRAM and RAM could not
  "$1" feed status --json >"$HOME/status" && cat "$HOME/status" && node -e '
    const { writeBytes, readBytes } = JSON.parse(require("fs").readFileSync(process.env.HOME + "/status", "utf8"));
    process.exit(writeBytes >= 96 << 20 && readBytes >= 96 << 20 ? 0 : 1)'
}

forget_person() {
  rm -rf "$HOME" "$XDG_RUNTIME_DIR"
  mkdir -p -m 700 "$HOME" "$XDG_RUNTIME_DIR"
}

as_in_a_container() { # nobody's user, no capability, nothing to be gained: docs/examples/kubernetes.yaml
  chown -R 1000:1000 "$HOME" "$XDG_RUNTIME_DIR"
  setpriv --reuid 1000 --regid 1000 --clear-groups --bounding-set=-all --inh-caps=-all --no-new-privs \
    sh "$0" "$suite" used
}

nothing_left() { # nothing_left BEFORE: paths are as they were
  paths >/packages/after
  diff "$1" /packages/after
}

user_is_known() { getent passwd greenboost; }
no_user() { ! getent passwd greenboost && ! getent group greenboost; }
units_verify() { # systemd reads them where it looks for them
  systemd-analyze verify --man=no /usr/lib/systemd/system/greenboost-feed.service
}
profiles_parse() { apparmor_parser --skip-kernel-load --skip-cache --names /etc/apparmor.d/greenboost-feed; }
enabled() { [ -L /etc/systemd/system/multi-user.target.wants/greenboost-feed.service ]; }
not_enabled() { ! enabled; }
only_settings() { # after remove: what purge is for
  paths | grep greenboost >/packages/left
  printf '%s\n' /etc/apparmor.d/greenboost-agent /etc/apparmor.d/greenboost-feed /var/lib/greenboost \
    /var/lib/greenboost/state | diff - /packages/left
}

if [ "$2" = used ]; then
  used greenboost "$home"
  exit
fi
paths >/packages/before
check "$suite: apt installs the .deb without a network" apt-get install -y -qq /packages/greenboost_*_amd64.deb
check "$suite: nothing of it differs from the package" dpkg --verify greenboost
check "$suite: the user of the machine's feeder is made" user_is_known
# The systemd of Debian 11 reads none before it is in a control group.
[ "$suite" = bullseye ] || check "$suite: systemd understands the unit" units_verify
check "$suite: AppArmor parses a profile" profiles_parse
check "$suite: the unit can be enabled" systemctl enable greenboost-feed.service
check "$suite: enabled for the next boot" enabled
check "$suite: feeder, host and a program on both" used greenboost "$home"
forget_person
check "$suite: the same without root and capabilities" as_in_a_container
forget_person
check "$suite: installed once more over itself" apt-get install -y -qq --reinstall /packages/greenboost_*_amd64.deb
mkdir -p /var/lib/greenboost && touch /var/lib/greenboost/state
check "$suite: removed" apt-get remove -y -qq greenboost
check "$suite: no longer enabled" not_enabled
check "$suite: settings and state stay until purge" only_settings
check "$suite: purged" dpkg --purge greenboost
check "$suite: the user is gone" no_user
check "$suite: the .deb has left nothing" nothing_left /packages/before

npm() { node /packages/npm/bin/npm-cli.js "$@" --offline --no-audit --no-fund --loglevel=error; }
check "$suite: npm installs without a network or a compiler" npm install --global --prefix /usr/local \
  /packages/greenboost-*.tgz
check "$suite: feeder, host and a program on both, from npm" used /usr/local/bin/greenboost \
  /usr/local/lib/node_modules/greenboost
forget_person
check "$suite: npm uninstalls" npm uninstall --global --prefix /usr/local greenboost
rm -rf /usr/local/lib/node_modules "$HOME/.npm"
check "$suite: the npm package has left nothing" nothing_left /packages/before
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
