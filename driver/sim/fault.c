/* SPDX-License-Identifier: Apache-2.0 */
/* fault.c: runs what a device would run, and turns its page faults into CUDA_ERROR_ILLEGAL_ADDRESS.
 */
#include "sim.h"

#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

static _Thread_local sigjmp_buf *fault_jump __attribute__((tls_model("initial-exec")));
static _Thread_local void *volatile fault_address __attribute__((tls_model("initial-exec")));
static struct sigaction previous[2]; /* SIGSEGV, SIGBUS */

/* async-signal-safe: yes. */
static void fault_caught(int number, siginfo_t *info, void *machine) {
  if (number == SIGSEGV && sim_strict_fault((uint64_t)info->si_addr)) return;
  if (fault_jump != NULL) {
    fault_address = info->si_addr;
    sigjmp_buf *jump = fault_jump;
    fault_jump = NULL;
    siglongjmp(*jump, 1);
  }
  const struct sigaction *old = &previous[number == SIGBUS];
  if (old->sa_flags & SA_SIGINFO) {
    old->sa_sigaction(number, info, machine);
  } else if (old->sa_handler != SIG_DFL && old->sa_handler != SIG_IGN) {
    old->sa_handler(number);
  } else {
    signal(number, SIG_DFL); /* the access is repeated and ends the process as without us */
  }
}

void sim_fault_handler_install(void) {
  const int numbers[2] = {SIGSEGV, SIGBUS};
  for (int i = 0; i < 2; i++) {
    struct sigaction now;
    sigaction(numbers[i], NULL, &now);
    if ((now.sa_flags & SA_SIGINFO) && now.sa_sigaction == fault_caught) continue;
    struct sigaction ours = {.sa_sigaction = fault_caught,
                             .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};
    sigemptyset(&ours.sa_mask);
    previous[i] = now;
    sigaction(numbers[i], &ours, NULL);
  }
}

/* Not memcpy: sanitizers check that against the host's memory model, and device memory does not
 * follow it. */
static inline void move_bytes(uint64_t dst, uint64_t src, size_t bytes) {
#if defined(__x86_64__)
  __asm__ volatile("rep movsb" : "+D"(dst), "+S"(src), "+c"(bytes) : : "memory");
#else
  volatile unsigned char *to = (volatile unsigned char *)dst;
  const volatile unsigned char *from = (const volatile unsigned char *)src;
  for (size_t i = 0; i < bytes; i++) to[i] = from[i];
#endif
}

static void run_copy(const struct sim_copy *copy) {
  static pthread_mutex_t link_lock = PTHREAD_MUTEX_INITIALIZER;
  static uint64_t link_free_ns[3]; /* per direction: when the simulated link is idle again */
  uint64_t deadline = 0;
  if (copy->direction != SIM_DIRECT && sim_config.pcie_bytes_per_ns > 0) {
    const uint64_t bytes = (uint64_t)copy->width * copy->height * copy->depth, now = sim_now_ns();
    pthread_mutex_lock(&link_lock);
    uint64_t *idle = &link_free_ns[copy->direction];
    deadline =
        (*idle > now ? *idle : now) + (uint64_t)((double)bytes / sim_config.pcie_bytes_per_ns);
    *idle = deadline;
    pthread_mutex_unlock(&link_lock);
  }
  for (size_t z = 0; z < copy->depth; z++)
    for (size_t y = 0; y < copy->height; y++)
      move_bytes(copy->dst + z * copy->dst_slice + y * copy->dst_pitch,
                 copy->src + z * copy->src_slice + y * copy->src_pitch, copy->width);
  if (deadline != 0) sim_sleep_until(deadline);
}

static void run_fill(const struct sim_fill *fill) {
  for (size_t y = 0; y < fill->height; y++) {
    const uint64_t row = fill->dst + y * fill->pitch;
    for (size_t x = 0; x < fill->width; x++) {
      if (fill->element == 1) ((volatile uint8_t *)row)[x] = (uint8_t)fill->value;
      else if (fill->element == 2) ((volatile uint16_t *)row)[x] = (uint16_t)fill->value;
      else ((volatile uint32_t *)row)[x] = fill->value;
    }
  }
}

static void *launch_global(const struct gbsim_launch *launch, const char *name, size_t *bytes) {
  const struct sim_module *module = launch->module;
  for (size_t i = 0; i < module->global_count; i++)
    if (strcmp(module->globals[i].name, name) == 0) {
      if (bytes != NULL) *bytes = module->globals[i].bytes;
      return (void *)module->globals[i].address;
    }
  return NULL;
}

static void run_kernel(const struct sim_kernel_call *call, const unsigned char *params) {
  const struct sim_function *function = call->function;
  const uint64_t start = sim_config.kernel_ns_min == 0 ? 0 : sim_now_ns();
  struct gbsim_launch launch = {.shared_bytes = call->shared_bytes,
                                .param_bytes = call->param_bytes,
                                .params = params,
                                .kernel = function->kernel,
                                .module = function->module,
                                .global = launch_global};
  memcpy(launch.grid, call->grid, sizeof launch.grid);
  memcpy(launch.block, call->block, sizeof launch.block);
  function->kernel->run(&launch);
  if (start != 0) sim_sleep_until(start + sim_config.kernel_ns_min);
}

bool sim_value_due(const struct sim_op *op) {
  const bool wide = op->value.wide;
  const uint64_t wanted = op->value.value, all = wide ? UINT64_MAX : UINT32_MAX;
  const uint64_t found =
      wide ? *(volatile uint64_t *)op->value.address : *(volatile uint32_t *)op->value.address;
  switch (op->value.flags & 3u) {
    case CU_STREAM_WAIT_VALUE_EQ: return found == wanted;
    case CU_STREAM_WAIT_VALUE_AND: return (found & wanted) != 0;
    case CU_STREAM_WAIT_VALUE_NOR: return (~(found | wanted) & all) != 0;
    default: /* GEQ compares cyclically. */
      return wide ? (int64_t)(found - wanted) >= 0
                  : (int32_t)((uint32_t)found - (uint32_t)wanted) >= 0;
  }
}

/* Programs wait for memory values that the host or another stream writes. */
static void run_value_wait(const struct sim_op *op) {
  while (!sim_value_due(op) && atomic_load(&sim_sticky) == 0) usleep(20);
}

static void run(struct sim_op *op) {
  switch (op->kind) {
    case SIM_OP_KERNEL: run_kernel(&op->kernel, op->bytes); break;
    case SIM_OP_COPY: run_copy(&op->copy); break;
    case SIM_OP_FILL: run_fill(&op->fill); break;
    case SIM_OP_VALUE_WAIT: run_value_wait(op); break;
    case SIM_OP_VALUE_WRITE:
      if (op->value.wide) *(volatile uint64_t *)op->value.address = op->value.value;
      else *(volatile uint32_t *)op->value.address = (uint32_t)op->value.value;
      break;
    default: break;
  }
}

void sim_op_run(struct sim_op *op) {
  /* The host's own code: its faults are its own. */
  if (op->kind == SIM_OP_HOST) {
    op->host.run(op->host.data);
    return;
  }
  if (op->kind == SIM_OP_CALLBACK) {
    op->callback.run(op->callback.stream, CUDA_SUCCESS, op->callback.data);
    return;
  }
  if (op->kind == SIM_OP_GRAPH) {
    sim_exec_run(op->graph.exec);
    return;
  }
  sigjmp_buf jump;
  if (sigsetjmp(jump, 0) == 0) {
    fault_jump = &jump;
    run(op);
    fault_jump = NULL;
    return;
  }
  int none = 0;
  if (atomic_compare_exchange_strong(&sim_sticky, &none, CUDA_ERROR_ILLEGAL_ADDRESS))
    fprintf(stderr, "gbsim: %s%s touched %p, which is not mapped: ILLEGAL_ADDRESS from now on\n",
            op->kind == SIM_OP_KERNEL ? "kernel "
            : op->kind == SIM_OP_COPY ? "a copy"
                                      : "an operation",
            op->kind == SIM_OP_KERNEL ? op->kernel.function->name : "", fault_address);
}
