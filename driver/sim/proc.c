/* SPDX-License-Identifier: Apache-2.0 */
/* proc.c: cuGetProcAddress over gb_cuda/functions.def, with versions and stream flavours as the
 * driver has them. */
#include "sim.h"

#include <ctype.h>
#include <stdio.h>

struct symbol {
  const char *name; /* concrete, with _vN */
  int since;
  void *address;
  int since_per_thread; /* 0: there is no such form */
  void *per_thread;
};

/* The opaque ones have no prototype. */
#define GB_CU_OPAQUE(name, since) __attribute__((visibility("default"))) int name(void);
#define GB_CU_OPAQUE_PT(name, suffix, since, since_per_thread)   \
  __attribute__((visibility("default"))) int name(void);         \
  __attribute__((visibility("default"))) int name##suffix(void);
#include "gb_cuda/functions.def"

static const struct symbol symbols[] = {
#define GB_CU(name, since, parameters) {#name, since, (void *)name, 0, NULL},
#define GB_CU_PT(name, suffix, since, since_per_thread, parameters)     \
  {#name, since, (void *)name, since_per_thread, (void *)name##suffix},
#define GB_CU_OPAQUE(name, since) {#name, since, (void *)name, 0, NULL},
#define GB_CU_OPAQUE_PT(name, suffix, since, since_per_thread)          \
  {#name, since, (void *)name, since_per_thread, (void *)name##suffix},
#include "gb_cuda/functions.def"
};

/* True when `name` is `base` or `base`_vN. A request names the base only: cuMemAlloc_v2 is unknown.
 */
static bool is_version_of(const char *name, const char *base, size_t length) {
  if (strncmp(name, base, length) != 0) return false;
  const char *rest = name + length;
  if (*rest != '\0')
    return rest[0] == '_' && rest[1] == 'v' && isdigit((unsigned char)rest[2]) && rest[3] == '\0';
  return length < 3 || base[length - 3] != '_' || base[length - 2] != 'v';
}

/* True when some ABI of the name answers per-thread requests: then only such ones do. */
static bool has_per_thread(const char *base, size_t length) {
  for (size_t i = 0; i < sizeof symbols / sizeof symbols[0]; i++)
    if (symbols[i].since_per_thread != 0 && is_version_of(symbols[i].name, base, length))
      return true;
  return false;
}

/* The newest ABI of the name that is not newer than the version asked for; NULL for none. The
 * runtime's first question has an empty name, and NULL is the driver's answer to it. */
static CUresult resolve(const char *base, void **address, int version, cuuint64_t flags,
                        CUdriverProcAddressQueryResult *status) {
  if (base == NULL || address == NULL || version > SIM_DRIVER_VERSION || flags > 3)
    return CUDA_ERROR_INVALID_VALUE;
  const size_t length = strlen(base);
  const bool per_thread =
      (flags & CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM) != 0 && has_per_thread(base, length);
  bool known = false;
  int best = -1;
  *address = NULL;
  for (size_t i = 0; i < sizeof symbols / sizeof symbols[0]; i++) {
    if (!is_version_of(symbols[i].name, base, length)) continue;
    known = true;
    if (per_thread && symbols[i].since_per_thread == 0) continue;
    const int since = per_thread ? symbols[i].since_per_thread : symbols[i].since;
    if (since > version || since < best) continue;
    best = since;
    *address = per_thread ? symbols[i].per_thread : symbols[i].address;
  }
  if (*address == NULL && *base != '\0')
    sim_log(1, "cuGetProcAddress(%s, %d, %llu): %s", base, version, (unsigned long long)flags,
            known ? "too old" : "unknown");
  if (status != NULL)
    *status = *address != NULL ? CU_GET_PROC_ADDRESS_SUCCESS
              : known          ? CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT
                               : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
  return CUDA_SUCCESS;
}

static cuuint64_t thread_flags(cuuint64_t flags) {
  return (flags & 3) == 0 ? flags | CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM : flags;
}

CUresult cuGetProcAddress_v2(const char *base, void **address, int version, cuuint64_t flags,
                             CUdriverProcAddressQueryResult *status) {
  SIM_ENTER(SIM_NEED_NOTHING);
  return resolve(base, address, version, flags, status);
}

CUresult cuGetProcAddress_v2_ptsz(const char *base, void **address, int version, cuuint64_t flags,
                                  CUdriverProcAddressQueryResult *status) {
  SIM_ENTER(SIM_NEED_NOTHING);
  return resolve(base, address, version, thread_flags(flags), status);
}

/* The first form has no status: no answer is an error, and the pointer stays as it was. */
static CUresult resolve_first(const char *base, void **address, int version, cuuint64_t flags) {
  void *found = NULL;
  if (address == NULL) return CUDA_ERROR_INVALID_VALUE;
  const CUresult result = resolve(base, &found, version, flags, NULL);
  if (result == CUDA_SUCCESS && found == NULL && *base != '\0') return CUDA_ERROR_NOT_FOUND;
  if (result == CUDA_SUCCESS) *address = found;
  return result;
}

CUresult cuGetProcAddress(const char *base, void **address, int version, cuuint64_t flags) {
  SIM_ENTER(SIM_NEED_NOTHING);
  return resolve_first(base, address, version, flags);
}

CUresult cuGetProcAddress_ptsz(const char *base, void **address, int version, cuuint64_t flags) {
  SIM_ENTER(SIM_NEED_NOTHING);
  return resolve_first(base, address, version, thread_flags(flags));
}

/*
 * The driver's private tables have no public description, and none exists here. NVIDIA's runtime
 * 13.0 makes all of its look-ups through cuGetProcAddress first and then asks for seven tables, the
 * last two of which verify that the driver is NVIDIA's; without them its calls end with
 * cudaErrorSymbolNotFound. That check is to be respected: programs of the runtime API do not run on
 * this driver, programs of the driver API do.
 */
CUresult cuGetExportTable(const void **table, const CUuuid *id) {
  SIM_ENTER(SIM_NEED_NOTHING);
  if (table == NULL || id == NULL) return CUDA_ERROR_INVALID_VALUE;
  *table = NULL;
  char text[33];
  for (int i = 0; i < 16; i++) snprintf(text + 2 * i, 3, "%02x", (unsigned char)id->bytes[i]);
  sim_log(1, "private table %s: not there", text);
  return CUDA_ERROR_NOT_FOUND;
}
