#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Prints a C program that prints every enumerator of our cuda.h with its value. Compiled with ours
# and with the toolkit's header, both must print the same. Usage: values.sh FOLDER (of gb_cuda)
set -eu
printf '#include <cuda.h>\n#include <stdio.h>\nint main(void) {\n'
{
  cat "$1/enums.h" "$1/stream_enums.h" | grep -oE '\b(CU|CUDA)_[A-Z0-9_]+ = ' | sed 's/ = //'
  grep -oE '\bCUDA_[A-Z0-9_]+,' "$1/errors.def" | tr -d ,
  defines='CU_(MEMHOST|MEM_CREATE|LAUNCH_PARAM|IPC_HANDLE|DEVICE_)[A-Z0-9_]*|CUDA_ARRAY3D_[A-Z_]+'
  sed -nE "s/^#define ($defines) .*/\\1/p" "$1/types.h"
} | sort -u | while read -r name; do
  printf '  printf("%%s %%lld\\n", "%s", (long long)%s);\n' "$name" "$name"
done
printf '  return 0;\n}\n'
