#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# documented.sh: the tables of docs/entry-points.md are the list of wrappers: every entry point of the
# driver is in one of them, every wrapped one in the first half and not in the second, and nothing is
# said to be intercepted that is not. Prints what is wrong.
set -u
doc=docs/entry-points.md
wrong=0
say() {
  echo "$1"
  wrong=$((wrong + 1))
}
state=$(mktemp -d)
trap 'rm -rf "$state"' EXIT
names() { grep -o '`\(cu[A-Z]\|nvml\)[A-Za-z0-9_]*`' | tr -d '`' | sort -u; }
# Only the columns that list names: the first in the first half, the second in the second.
sed -n '/^## Intercepted/,/^## Passed/p' $doc | grep '^|' | cut -d'|' -f2 | names >"$state/first"
sed -n '/^## Passed/,/^## Limits/p' $doc | grep '^|' | cut -d'|' -f3 | names >"$state/second"

sed -n 's/^GB_CU[A-Z_]*(\(cu[A-Za-z0-9_]*\),.*/\1/p' driver/include/gb_cuda/functions_*.def | sort -u >"$state/api"
{
  sed -n 's/^GB_[HP][A-Z]*([^,]*, *\(cu[A-Za-z0-9_]*\),.*/\1/p' shim/src/hooks.def
  # Rows that are broken after the base name.
  sed -n '/^GB_[HP][A-Z]*(cu[A-Za-z0-9_]*,$/{n;s/^ *\(cu[A-Za-z0-9_]*\),.*/\1/p}' shim/src/hooks.def
  sed -n 's/^GB_NVML(\(nvml[A-Za-z0-9_]*\),.*/\1/p' shim/src/hooks.def
} | sort -u >"$state/wrapped"

[ "$(wc -l <"$state/wrapped")" -ge 150 ] || say "only $(wc -l <"$state/wrapped") wrapped names found"
for name in $(cat "$state/first" "$state/second" | sort | comm -13 - "$state/api"); do
  say "in no table: $name"
done
for name in $(comm -13 "$state/first" "$state/wrapped"); do say "wrapped but not said so: $name"; done
for name in $(comm -23 "$state/first" "$state/wrapped"); do say "not wrapped: $name"; done
for name in $(comm -12 "$state/second" "$state/wrapped"); do say "passed and wrapped: $name"; done
exit $wrong
