#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# documented.sh: every entry point of the driver is spoken of in docs/entry-points.md, and every
# wrapped one in its first half. Prints what is missing.
set -u
doc=docs/entry-points.md
missing=0
names=$(sed -n 's/^GB_CU[A-Z_]*(\(cu[A-Za-z0-9_]*\),.*/\1/p' driver/include/gb_cuda/functions_*.def)
for name in $names; do
  grep -q "\`$name\`" $doc || { echo "not documented: $name"; missing=$((missing + 1)); }
done
wrapped=$(sed -n 's/^GB_[HP][A-Z]*([^,]*, *\(cu[A-Za-z0-9_]*\),.*/\1/p' shim/src/hooks.def)
for name in $wrapped; do
  sed -n '/^## Intercepted/,/^## Passed/p' $doc | grep -q "\`$name\`" ||
    { echo "wrapped but not said so: $name"; missing=$((missing + 1)); }
done
exit $missing
