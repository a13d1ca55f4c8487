/* SPDX-License-Identifier: Apache-2.0 */
/*
 * resolve.c: cuInit and the resolvers. The real resolver is asked first; then the answer is
 * identified (which concrete symbol, which ABI) and the wrapper of exactly that symbol swapped in.
 * A look-up starts nothing: programs resolve names before, and without ever, using a GPU.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <pthread.h>
#include <string.h>

#include "hooks.h"

/* ---- identifying an answer ---- */

/* One look-up in the real resolver, with the flags of the call in hand. */
struct ask {
  const char *name;
  cuuint64_t flags;
  bool thread; /* the per-thread flavour is wanted */
  CUresult (*resolve)(const struct ask *ask, int version, void **function,
                      CUdriverProcAddressQueryResult *status);
};

static CUresult ask_v1(const struct ask *ask, int version, void **function,
                       CUdriverProcAddressQueryResult *status) {
  (void)status;
  return gb_real.cuGetProcAddress(ask->name, function, version, ask->flags);
}
static CUresult ask_v1_ptsz(const struct ask *ask, int version, void **function,
                            CUdriverProcAddressQueryResult *status) {
  (void)status;
  return gb_real.cuGetProcAddress_ptsz(ask->name, function, version, ask->flags);
}
static CUresult ask_v2(const struct ask *ask, int version, void **function,
                       CUdriverProcAddressQueryResult *status) {
  return gb_real.cuGetProcAddress_v2(ask->name, function, version, ask->flags, status);
}
static CUresult ask_v2_ptsz(const struct ask *ask, int version, void **function,
                            CUdriverProcAddressQueryResult *status) {
  return gb_real.cuGetProcAddress_v2_ptsz(ask->name, function, version, ask->flags, status);
}

static bool flavour_fits(const struct gb_row *row, const struct ask *ask) {
  return row->stream == GB_ANY || (row->stream == GB_THREAD) == ask->thread;
}

/* Does the real resolver give the same answer for the version that introduced this row? Then the
 * answer is this row's ABI, also where the driver hands out internal addresses that it does not
 * export. */
static bool same_answer(const struct gb_row *row, const struct ask *ask, void *found) {
  void *other = NULL;
  CUdriverProcAddressQueryResult status;
  return ask->resolve(ask, row->since, &other, &status) == CUDA_SUCCESS && other == found;
}

/* The newest row that gives the same answer. fitting: only of the flavour that was asked for; a
 * driver may lack that one and answer with the other. */
static const struct gb_row *by_answer(const struct ask *ask, void *found, bool fitting) {
  for (size_t i = gb_row_count; i-- > 0;) {
    const struct gb_row *row = &gb_rows[i];
    if (row->base == NULL || strcmp(row->base, ask->name) != 0) continue;
    if (fitting && !flavour_fits(row, ask)) continue;
    if (same_answer(row, ask, found)) return row;
  }
  return NULL;
}

/* returns: the row of the concrete symbol `found` is, or NULL. */
static const struct gb_row *identify(const struct ask *ask, void *found) {
  const struct gb_row *best = NULL;
  for (size_t i = 0; i < gb_row_count; i++) {
    const struct gb_row *row = &gb_rows[i];
    if (row->base == NULL || *row->real != found || strcmp(row->base, ask->name) != 0) continue;
    /* Flavours and versions may share one function in the driver: take what was asked for. */
    if (best == NULL || (flavour_fits(row, ask) && !flavour_fits(best, ask))) best = row;
  }
  if (best != NULL) return best;
  best = by_answer(ask, found, true);
  return best != NULL ? best : by_answer(ask, found, false);
}

/* True when an ABI of this name that we do not know must not reach the program. */
static bool must_know(const char *name) {
  for (size_t i = 0; i < gb_row_count; i++)
    if (gb_rows[i].base != NULL && gb_rows[i].weight == GB_MUST &&
        strcmp(gb_rows[i].base, name) == 0)
      return true;
  return false;
}

static bool is_known_name(const char *name) {
  for (size_t i = 0; i < gb_row_count; i++)
    if (gb_rows[i].base != NULL && strcmp(gb_rows[i].base, name) == 0) return true;
  return false;
}

/* Answers as the driver does for a name it has never heard of, so that its conventions (which
 * versions return an error and which only a status) hold. */
static CUresult refuse(const struct ask *ask, int version, void **function,
                       CUdriverProcAddressQueryResult *status) {
  struct ask nothing = *ask;
  nothing.name = "cuGreenBoostRefused";
  CUdriverProcAddressQueryResult ignored;
  CUresult result = nothing.resolve(&nothing, version, function, status != NULL ? &ignored : NULL);
  *function = NULL;
  if (status != NULL) *status = CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT;
  gb_log(GB_LOG_WARN,
         "this driver answers %s for CUDA %d with a version newer than this shim knows; refused",
         ask->name, version);
  return result;
}

static void note_old(const struct gb_row *row) {
  static uint32_t told;
  if (__atomic_exchange_n(&told, 1, __ATOMIC_RELAXED) == 0)
    gb_log(GB_LOG_WARN, "%s has the 32-bit era ABI; its memory stays with the driver", row->symbol);
}

static CUresult resolve(const struct ask *ask, int version, void **function,
                        CUdriverProcAddressQueryResult *status) {
  CUresult result = ask->resolve(ask, version, function, status);
  if (result != CUDA_SUCCESS || ask->name == NULL || function == NULL || *function == NULL)
    return result;
  /* The runtime's first question has no name; the answer, if any, is the resolver itself, with
   * which the runtime would go on. */
  struct ask named = *ask;
  if (*ask->name == '\0') named.name = "cuGetProcAddress";
  if (!is_known_name(named.name)) return result;
  const struct gb_row *row = identify(&named, *function);
  if (row == NULL) return must_know(ask->name) ? refuse(ask, version, function, status) : result;
  if (row->entry != NULL)
    *function = row->entry;
  else
    note_old(row);
  return result;
}

/* ---- resolvers: they work before cuInit, so they do not use hooks_define.h ---- */

static bool passing(void) { return gb_routing() == GB_ROUTING_PASS; }

CUresult gb_hook_cuGetProcAddress(const char *name, void **function, int version,
                                  cuuint64_t flags) {
  if (!gb_real_load() || gb_real.cuGetProcAddress == NULL) return CUDA_ERROR_NOT_FOUND;
  if (passing()) return gb_real.cuGetProcAddress(name, function, version, flags);
  struct ask ask = {name, flags, (flags & CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM) != 0,
                    ask_v1};
  return resolve(&ask, version, function, NULL);
}

CUresult gb_hook_cuGetProcAddress_ptsz(const char *name, void **function, int version,
                                       cuuint64_t flags) {
  if (!gb_real_load() || gb_real.cuGetProcAddress_ptsz == NULL) return CUDA_ERROR_NOT_FOUND;
  if (passing()) return gb_real.cuGetProcAddress_ptsz(name, function, version, flags);
  struct ask ask = {name, flags, (flags & CU_GET_PROC_ADDRESS_LEGACY_STREAM) == 0, ask_v1_ptsz};
  return resolve(&ask, version, function, NULL);
}

CUresult gb_hook_cuGetProcAddress_v2(const char *name, void **function, int version,
                                     cuuint64_t flags, CUdriverProcAddressQueryResult *status) {
  if (!gb_real_load() || gb_real.cuGetProcAddress_v2 == NULL) return CUDA_ERROR_NOT_FOUND;
  if (passing()) return gb_real.cuGetProcAddress_v2(name, function, version, flags, status);
  struct ask ask = {name, flags, (flags & CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM) != 0,
                    ask_v2};
  return resolve(&ask, version, function, status);
}

CUresult gb_hook_cuGetProcAddress_v2_ptsz(const char *name, void **function, int version,
                                          cuuint64_t flags,
                                          CUdriverProcAddressQueryResult *status) {
  if (!gb_real_load() || gb_real.cuGetProcAddress_v2_ptsz == NULL) return CUDA_ERROR_NOT_FOUND;
  if (passing()) return gb_real.cuGetProcAddress_v2_ptsz(name, function, version, flags, status);
  struct ask ask = {name, flags, (flags & CU_GET_PROC_ADDRESS_LEGACY_STREAM) == 0, ask_v2_ptsz};
  return resolve(&ask, version, function, status);
}

/* ---- cuInit: the only place that starts the core ---- */

static pthread_once_t started = PTHREAD_ONCE_INIT;

static void start(void) {
  gb_core_start();
  if (!gb_core_active()) return;
  /* CUDA does not survive a fork; the child must see the driver's own answers, without us. */
  if (pthread_atfork(NULL, NULL, gb_route_pass) != 0) return;
  gb_route_live();
}

CUresult gb_hook_cuInit(unsigned flags) {
  if (!gb_real_load() || gb_real.cuInit == NULL) return CUDA_ERROR_NOT_FOUND;
  CUresult result = gb_real.cuInit(flags);
  if (result == CUDA_SUCCESS && gb_routing() == GB_ROUTING_READY) pthread_once(&started, start);
  return result;
}
