/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gb_hints: hints of greenboost.h on memory that was allocated, freed, and never was. gb_hints
 * [bytes, 8MiB]. Prints what each call returned; exit 0 when the memory holds its bytes afterwards.
 */
#include "greenboost.h"
#include "program.h"

int main(int argc, char **argv) {
  const uint64_t bytes = argc > 1 ? parse_bytes(argv[1]) : 8ull << 20;
  CUdeviceptr pointer = 0;
  uint32_t last = 0;
  int inside[4];
  const int before = greenboost_hint(0x500000000000ull, 4096, GREENBOOST_HOT);
  open_context(0);
  CU(cuMemAlloc(&pointer, bytes));
  CU(cuMemsetD32(pointer, 0x600DF00Du, bytes / 4));
  for (int hint = GREENBOOST_NONE; hint <= GREENBOOST_PINNED; hint++)
    inside[hint] = greenboost_hint(pointer, bytes, (enum greenboost_hint)hint);
  const int part = greenboost_hint(pointer + bytes / 2, 1, GREENBOOST_COLD);
  const int beyond = greenboost_hint(pointer + (1ull << 38), 4096, GREENBOOST_HOT);
  const int empty = greenboost_hint(pointer, 0, GREENBOOST_HOT);
  const int unknown = greenboost_hint(pointer, bytes, (enum greenboost_hint)9);
  const int host = greenboost_hint((uint64_t)(uintptr_t)&last, 4, GREENBOOST_HOT);
  CU(cuMemcpyDtoH(&last, pointer + bytes - 4, 4));
  CU(cuMemFree(pointer));
  printf("{\"program\":\"gb_hints\",\"ok\":%s,\"before\":%d,\"inside\":[%d,%d,%d,%d],\"part\":%d,"
         "\"beyond\":%d,\"empty\":%d,\"unknown\":%d,\"host\":%d}\n",
         last == 0x600DF00Du ? "true" : "false", before, inside[0], inside[1], inside[2], inside[3],
         part, beyond, empty, unknown, host);
  return last == 0x600DF00Du ? 0 : EXIT_WRONG;
}
