/* SPDX-License-Identifier: Apache-2.0 */
/*
 * record.c: preloaded in front of the shim. It stands between the CUDA runtime and the shim's
 * cuGetProcAddress_v2, asks the driver the same question, and writes one line for each: "ok NAME
 * VERSION FLAGS KIND SYMBOL" or "BAD ...". Built with the shim's own dlsym.c, whose next dlsym is
 * then the shim's.
 *
 * An answer is right when it is the driver's own and the shim wraps no symbol of that address, or
 * when it is the shim's entry of exactly the symbol at the address the driver answered.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hooks.h"

typedef CUresult (*resolver)(const char *, void **, int, cuuint64_t,
                             CUdriverProcAddressQueryResult *);
typedef void *(*look_up)(void *, const char *);

static resolver shim_resolve;

static look_up libc_dlsym(void) {
  static look_up found;
  if (found == NULL)
    found = (look_up)gb_dlsym()(dlopen("libc.so.6", RTLD_LAZY | RTLD_NOLOAD), "dlsym");
  return found;
}

/* The address the driver answers with when it means this symbol. */
static void *driver_address(const char *symbol) {
  void *driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
  void *(*internal)(const char *) =
      (void *(*)(const char *))libc_dlsym()(driver, "gb_foreign_internal");
  return internal != NULL ? internal(symbol) : libc_dlsym()(driver, symbol);
}

static bool ends_per_thread(const char *symbol) {
  size_t length = strlen(symbol);
  return length > 5 &&
         (strcmp(symbol + length - 5, "_ptsz") == 0 || strcmp(symbol + length - 5, "_ptds") == 0);
}

static bool has_per_thread(const char *symbol) {
  char name[160];
  snprintf(name, sizeof name, "%s_ptsz", symbol);
  if (driver_address(name) != NULL) return true;
  snprintf(name, sizeof name, "%s_ptds", symbol);
  return driver_address(name) != NULL;
}

/* Is any symbol the shim wraps at this address of the driver? returns: its name or NULL. */
static const char *wrapped_at(void *address) {
  static void *shim;
  if (shim == NULL) shim = dlopen("libgreenboost_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
  static const char *const names[] = {
#define GB_HOOK(base, symbol, since, stream, weight, parameters, arguments) #symbol,
#define GB_PAIR(base, legacy, thread, since, since_thread, weight, parameters, arguments) \
  #legacy, #thread,
#include "hooks.def"
  };
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
    if (driver_address(names[i]) == address) return names[i];
  return NULL;
}

/* returns: NULL when right, else what is wrong. *symbol: the shim's symbol, or "" for the driver's
 * own. */
static const char *judge(void *answer, void *real, cuuint64_t flags, const char **symbol) {
  *symbol = "";
  if (real == NULL) return answer == NULL ? NULL : "an address where the driver has none";
  if (answer == real) return wrapped_at(real) == NULL ? NULL : "not wrapped";
  Dl_info info;
  if (answer == NULL || dladdr(answer, &info) == 0 || info.dli_sname == NULL)
    return "neither driver nor shim";
  if (strstr(info.dli_fname, "libgreenboost_cuda.so") == NULL) return "not the shim's";
  *symbol = info.dli_sname;
  if (driver_address(*symbol) != real) return "the wrapper of another symbol";
  bool thread = (flags & CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM) != 0;
  if (thread && !ends_per_thread(*symbol) && has_per_thread(*symbol))
    return "legacy flavour for a per-thread request";
  return !thread && ends_per_thread(*symbol) ? "per-thread flavour for a legacy request" : NULL;
}

static CUresult recorded(const char *name, void **function, int version, cuuint64_t flags,
                         CUdriverProcAddressQueryResult *status) {
  CUresult result = shim_resolve(name, function, version, flags, status);
  resolver ask = (resolver)libc_dlsym()(dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD),
                                        "cuGetProcAddress_v2");
  void *real = NULL;
  CUdriverProcAddressQueryResult ignored;
  CUresult real_result = ask(name, &real, version, flags, status != NULL ? &ignored : NULL);
  const char *symbol = "";
  const char *wrong = judge(function != NULL ? *function : NULL, real, flags, &symbol);
  if (wrong == NULL && result != real_result) wrong = "another result";
  FILE *file = fopen(getenv("GB_RECORD"), "a");
  if (file != NULL) {
    fprintf(file, "%s \"%s\" %d %d %s %s%s\n", wrong == NULL ? "ok" : "BAD", name, version,
            (int)flags,
            symbol[0] != '\0' ? "shim"
            : real != NULL    ? "driver"
                              : "none",
            symbol, wrong != NULL ? wrong : "");
    fclose(file);
  }
  /* The runtime asks for the resolver too: keep standing in between. */
  if (symbol[0] != '\0' && strcmp(symbol, "cuGetProcAddress_v2") == 0) *function = (void *)recorded;
  return result;
}

void *gb_route_symbol(const char *name, void *found) {
  if (name == NULL || strcmp(name, "cuGetProcAddress_v2") != 0 || found == NULL ||
      getenv("GB_RECORD") == NULL)
    return found;
  shim_resolve = (resolver)found;
  return (void *)recorded;
}
