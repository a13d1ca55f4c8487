/* SPDX-License-Identifier: Apache-2.0 */
/* forgetful.c: twins with a hash that sees nothing, so that no frame is ever written back: the soak
 * programs must notice. */
#include <gbsim_kernel.h>

GBSIM_KERNEL_BOUNDED(gb_frame_hash, 5, {8, 8, 8, 8, 8}) {
  uint64_t *result;
  gbsim_param(launch, 4, &result);
  result[0] = result[1] = 1;
}
