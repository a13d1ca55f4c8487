/* SPDX-License-Identifier: Apache-2.0 */
/* kernels.c: a module of C kernels, loaded by stream_test. */
#include <gbsim_kernel.h>

__attribute__((visibility("default"))) extern uint32_t gbsim_global_counter;
uint32_t gbsim_global_counter;

/* Every thread adds `amount` to the module's variable. */
GBSIM_KERNEL(count_up, 1, {4}) {
  uint32_t amount;
  size_t bytes = 0;
  gbsim_param(launch, 0, &amount);
  uint32_t *counter = launch->global(launch, "counter", &bytes);
  if (counter != NULL && bytes == 4) *counter += amount * (uint32_t)gbsim_threads(launch);
}

/* (flag, table, out): when the flag is set, out = the word that the table's entry points at. */
GBSIM_KERNEL(touch_when, 3, {8, 8, 8}) {
  const volatile uint32_t *flag;
  const uint64_t *const volatile *table;
  volatile uint64_t *out;
  gbsim_param(launch, 0, &flag);
  gbsim_param(launch, 1, &table);
  gbsim_param(launch, 2, &out);
  while (*flag == 0) continue;
  *out = **table;
}
