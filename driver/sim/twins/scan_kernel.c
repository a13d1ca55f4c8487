/* SPDX-License-Identifier: Apache-2.0 */
/* scan_kernel.c: the C twin of the shim's content scan (shim/src/scan_kernel.h). */
#include "../gbsim_kernel.h"

GBSIM_KERNEL_BOUNDED(gb_scan_kernel, 6, {8, 8, 8, 8, 4, 8}) {
  uint64_t address, words, base, size, result;
  uint32_t clear;
  gbsim_param(launch, 0, &address);
  gbsim_param(launch, 1, &words);
  gbsim_param(launch, 2, &base);
  gbsim_param(launch, 3, &size);
  gbsim_param(launch, 4, &clear);
  gbsim_param(launch, 5, &result);
  const unsigned char *bytes = (const unsigned char *)(uintptr_t)address;
  for (uint64_t i = 0; i + 1 < words; i++) {
    uint64_t word;
    memcpy(&word, bytes + 4 * i, sizeof word);
    if (word - base < size && (uint32_t)word >= clear) {
      *(uint32_t *)(uintptr_t)result = 1;
      return;
    }
  }
}
