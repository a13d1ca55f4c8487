/* SPDX-License-Identifier: Apache-2.0 */
/*
 * strict.c: GBSIM_STRICT=1: proves that nothing runs across a remap.
 *
 * Every map and unmap has a number, and so has, by the number before it, every operation when it
 * begins to run. Two things are violations, and either makes CUDA_ERROR_ILLEGAL_STATE the answer to
 * every later call:
 *
 *   - an operation touches addresses whose mapping changed after it began. Such a mapping is
 *     veiled (left without access) while older operations run; the fault of one of them tells, and
 *     the fault of anybody else lifts the veil. (What is unmapped when it is touched is a fault
 *     anyway.)
 *   - addresses are unmapped and mapped again while a kernel or a graph runs that began before.
 *     Kernels that touch only what their arguments name (gbsim_kernel.h: bounded) do not count.
 */
#include "sim.h"

#include <stdio.h>
#include <sys/mman.h>

#define VEILS_MAX 4096
#define UNMAPS_MAX 4096

struct veil {
  uint64_t base, bytes;
  uint64_t changed; /* number of the map */
  bool lifted;      /* others may have met it at the same time: they try again */
};

struct unmap {
  uint64_t base, bytes, number;
};

static pthread_mutex_t veil_lock = PTHREAD_MUTEX_INITIALIZER; /* after sim_lock; guards veils */
static struct veil veils[VEILS_MAX];
static size_t veil_count;
static struct unmap unmaps[UNMAPS_MAX]; /* the newest ones; locks: sim_lock */
static uint64_t remaps;                 /* locks: sim_lock */
static _Atomic uint64_t violations;

/* What the calling worker runs: the number of the remap before it began. */
static _Thread_local uint64_t began __attribute__((tls_model("initial-exec"))) = UINT64_MAX;
static _Thread_local const char *running __attribute__((tls_model("initial-exec")));

static void violation(const char *what, const char *name, uint64_t address) {
  int none = 0;
  atomic_fetch_add(&violations, 1);
  atomic_compare_exchange_strong(&sim_sticky, &none, CUDA_ERROR_ILLEGAL_STATE);
  sim_strict(CUDA_ERROR_ILLEGAL_STATE, "violation: %s 0x%llx while %s runs", what,
             (unsigned long long)address, name);
}

uint64_t sim_violations(void) { return atomic_load(&violations); }

/* ---- what runs ---- */

const char *sim_op_name(const struct sim_op *op) {
  switch (op->kind) {
    case SIM_OP_KERNEL: return op->kernel.function->name;
    case SIM_OP_GRAPH: return "a graph";
    case SIM_OP_COPY: return "a copy";
    case SIM_OP_FILL: return "a fill";
    default: return "an operation";
  }
}

static bool touches_memory(const struct sim_op *op) {
  return op->kind == SIM_OP_KERNEL || op->kind == SIM_OP_GRAPH || op->kind == SIM_OP_COPY ||
         op->kind == SIM_OP_FILL;
}

void sim_strict_begin(struct sim_op *op) { op->began = remaps; }

void sim_strict_enter(const struct sim_op *op) {
  running = sim_op_name(op);
  began = op->began;
}

void sim_strict_leave(void) { began = UINT64_MAX; }

/* An operation that runs since before remap `number`; unbounded: one whose addresses are not
 * known. locks: held. */
static const struct sim_op *older(uint64_t number, bool unbounded) {
  struct sim_context *context;
  for (size_t i = 0; (context = sim_context_at(i)) != NULL; i++)
    for (const struct sim_stream *stream = context->streams; stream != NULL;
         stream = stream->next) {
      const struct sim_op *op = stream->current;
      if (op == NULL || !touches_memory(op) || op->began >= number) continue;
      const bool bounded = op->kind == SIM_OP_COPY || op->kind == SIM_OP_FILL ||
                           (op->kind == SIM_OP_KERNEL && op->kernel.function->kernel->bounded);
      if (!unbounded || !bounded) return op;
    }
  return NULL;
}

/* ---- veils ---- */

static void unveil(uint64_t base, uint64_t bytes) {
  pthread_mutex_lock(&veil_lock);
  for (size_t i = veil_count; i > 0; i--)
    if (veils[i - 1].base < base + bytes && base < veils[i - 1].base + veils[i - 1].bytes)
      veils[i - 1] = veils[--veil_count];
  pthread_mutex_unlock(&veil_lock);
}

int sim_strict_veil(struct sim_region *region, int protection) {
  if (!sim_config.strict_remap) return protection;
  unveil(region->base, region->bytes);
  if (protection != (PROT_READ | PROT_WRITE) || older(region->changed, false) == NULL)
    return protection;
  pthread_mutex_lock(&veil_lock);
  const bool room = veil_count < VEILS_MAX;
  if (room)
    veils[veil_count++] = (struct veil){region->base, region->bytes, region->changed, false};
  pthread_mutex_unlock(&veil_lock);
  return room ? PROT_NONE : protection;
}

bool sim_strict_fault(uint64_t address) {
  if (!sim_config.strict_remap) return false;
  bool found = false, late = false;
  pthread_mutex_lock(&veil_lock);
  for (size_t i = 0; i < veil_count && !found; i++) {
    struct veil *veil = &veils[i];
    if (address - veil->base >= veil->bytes) continue;
    found = true;
    late = began < veil->changed;
    if (!veil->lifted) mprotect((void *)veil->base, veil->bytes, PROT_READ | PROT_WRITE);
    veil->lifted = true;
  }
  pthread_mutex_unlock(&veil_lock);
  if (late) violation("a touch of the new mapping of", running, address);
  return found;
}

/* ---- remaps ---- */

void sim_strict_unmapped(uint64_t base, uint64_t bytes) {
  if (!sim_config.strict_remap) return;
  unveil(base, bytes);
  remaps++;
  unmaps[remaps % UNMAPS_MAX] = (struct unmap){base, bytes, remaps};
}

uint64_t sim_strict_mapped(uint64_t base, uint64_t bytes) {
  if (!sim_config.strict_remap) return 0;
  uint64_t unmapped = 0;
  for (size_t i = 0; i < UNMAPS_MAX; i++)
    if (unmaps[i].number > unmapped && unmaps[i].base < base + bytes &&
        base < unmaps[i].base + unmaps[i].bytes)
      unmapped = unmaps[i].number;
  const struct sim_op *op = unmapped == 0 ? NULL : older(unmapped, true);
  if (op != NULL) violation("a remap of", sim_op_name(op), base);
  return ++remaps;
}
