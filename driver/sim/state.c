/* SPDX-License-Identifier: Apache-2.0 */
/* state.c: configuration from the environment, what every entry point checks first, logging,
 * strictness, injection. */
#include "sim.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#define FAULTS_MAX 32

struct sim_config sim_config;
pthread_mutex_t sim_lock = PTHREAD_MUTEX_INITIALIZER;
pthread_cond_t sim_progress = PTHREAD_COND_INITIALIZER;
_Atomic int sim_sticky;

static _Atomic bool initialised;
static _Atomic bool forked;

struct fault {
  char name[64];
  uint64_t at; /* which call, from 1; 0: every call */
  int result;
  _Atomic uint64_t calls;
};
static struct fault faults[FAULTS_MAX];
static size_t fault_count;

uint64_t sim_now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

void sim_sleep_until(uint64_t deadline_ns) {
  const struct timespec until = {.tv_sec = (time_t)(deadline_ns / 1000000000ull),
                                 .tv_nsec = (long)(deadline_ns % 1000000000ull)};
  while (sim_now_ns() < deadline_ns) clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
}

void sim_log(int level, const char *format, ...) {
  if (level > sim_config.log_level) return;
  char line[512];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(line, sizeof line, format, arguments);
  va_end(arguments);
  fprintf(stderr, "gbsim: %s\n", line);
}

CUresult sim_strict(CUresult result, const char *format, ...) {
  char line[512];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(line, sizeof line, format, arguments);
  va_end(arguments);
  fprintf(stderr, "gbsim: strict: %s\n", line);
  if (sim_config.strict_abort) abort();
  return result;
}

CUresult sim_not_simulated(const char *name) {
  sim_log(1, "not simulated: %s", name);
  return CUDA_ERROR_NOT_SUPPORTED;
}

/* GBSIM_FAIL=cuMemCreate@3=2,cuInit=100 */
static void faults_read(const char *text) {
  while (*text != '\0' && fault_count < FAULTS_MAX) {
    struct fault *fault = &faults[fault_count];
    const size_t name = strcspn(text, "@=,");
    if (name == 0 || name >= sizeof fault->name) break;
    memcpy(fault->name, text, name);
    text += name;
    if (*text == '@') fault->at = strtoull(text + 1, (char **)&text, 10);
    if (*text == '=') fault->result = (int)strtol(text + 1, (char **)&text, 10);
    fault_count++;
    if (*text != ',') break;
    text++;
  }
  if (*text != '\0') fprintf(stderr, "gbsim: GBSIM_FAIL: cannot read \"%s\"\n", text);
}

/* True for the symbol itself and for its versions: cuMemAlloc also names cuMemAlloc_v2 and
 * cuMemAlloc_v2_ptsz. */
static bool fault_names(const char *wanted, const char *function) {
  const size_t length = strlen(wanted);
  if (strncmp(function, wanted, length) != 0) return false;
  const char *rest = function + length;
  return *rest == '\0' || (rest[0] == '_' && ((rest[1] == 'v' && isdigit((unsigned char)rest[2])) ||
                                              strncmp(rest, "_pt", 3) == 0));
}

static CUresult fault_due(const char *function) {
  for (size_t i = 0; i < fault_count; i++) {
    if (!fault_names(faults[i].name, function)) continue;
    const uint64_t call = atomic_fetch_add(&faults[i].calls, 1) + 1;
    if (faults[i].at != 0 && faults[i].at != call) continue;
    sim_log(1, "injected %d into call %llu of %s", faults[i].result, (unsigned long long)call,
            function);
    return (CUresult)faults[i].result;
  }
  return CUDA_SUCCESS;
}

static void fork_child(void) {
  atomic_store(&forked, true);
  sim_streams_fork_child();
}

static bool flag(const char *name) {
  const char *text = getenv(name);
  return text != NULL && *text != '\0' && strcmp(text, "0") != 0;
}

static void exit_check(void) {
  if (sim_violations() != 0)
    fprintf(stderr, "gbsim: strict: %llu violations\n", (unsigned long long)sim_violations());
  if (atomic_load(&forked) || !atomic_load(&initialised) || !sim_config.strict_exit) return;
  static const struct {
    enum sim_type type;
    const char *name;
  } kinds[] = {{SIM_EVENT, "events"},           {SIM_MODULE, "modules"},
               {SIM_CHUNK, "memory handles"},   {SIM_GRAPH, "graphs"},
               {SIM_EXEC, "executable graphs"}, {SIM_ARRAY, "arrays"}};
  for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
    const size_t count = sim_handle_count(kinds[i].type);
    if (count != 0) sim_strict(CUDA_SUCCESS, "%zu %s alive at exit", count, kinds[i].name);
  }
  size_t live = 0;
  for (size_t i = 0; i < sim_region_count(); i++) {
    const enum sim_region_kind kind = sim_region_index(i)->kind;
    if (kind == SIM_REGION_DEVICE || kind == SIM_REGION_POOL || kind == SIM_REGION_HOST ||
        kind == SIM_REGION_MANAGED)
      live++;
  }
  if (live != 0) sim_strict(CUDA_SUCCESS, "%zu allocations alive at exit", live);
  sim_vmm_report_leaks();
}

__attribute__((constructor)) static void configure(void) {
  const char *text = getenv("GBSIM_LOG");
  if (text != NULL) sim_config.log_level = strcmp(text, "trace") == 0 ? 2 : flag("GBSIM_LOG");
  sim_config.devices = gbsim_device_count();
  sim_config.vram_bytes = gbsim_vram_bytes();
  text = getenv("GBSIM_PCIE_GBPS");
  if (text != NULL) sim_config.pcie_bytes_per_ns = atof(text);
  text = getenv("GBSIM_KERNEL_US");
  if (text != NULL) sim_config.kernel_ns_min = strtoull(text, NULL, 10) * 1000;
  text = getenv("GBSIM_STRICT");
  sim_config.strict_abort = text != NULL && strcmp(text, "abort") == 0;
  sim_config.strict_remap = flag("GBSIM_STRICT");
  sim_config.strict_exit = flag("GBSIM_STRICT_EXIT");
  sim_config.noop_launch = flag("GBSIM_NOOP_LAUNCH");
  text = getenv("GBSIM_HOST_NUMA");
  sim_config.host_numa = text == NULL || strcmp(text, "0") != 0;
  text = getenv("GBSIM_FAIL");
  if (text != NULL) faults_read(text);
}

bool sim_initialised(void) { return atomic_load(&initialised); }

CUresult sim_state_init(void) {
  CUresult result = CUDA_SUCCESS;
  pthread_mutex_lock(&sim_lock);
  if (!atomic_load(&initialised)) {
    if (sim_config.devices == 0) result = CUDA_ERROR_NO_DEVICE;
    for (int i = 0; i < sim_config.devices && result == CUDA_SUCCESS; i++) {
      const int opened = gbsim_gpu_open(i, true);
      if (opened != 0) {
        fprintf(stderr, "gbsim: cannot join GPU %d: %s\n", i, strerror(-opened));
        result = CUDA_ERROR_SYSTEM_NOT_READY;
      }
    }
    if (result == CUDA_SUCCESS) {
      pthread_atfork(NULL, NULL, fork_child);
      atexit(exit_check);
      sim_fault_handler_install();
      atomic_store(&initialised, true);
    }
  }
  pthread_mutex_unlock(&sim_lock);
  return result;
}

CUresult sim_enter(const char *function, enum sim_need need) {
  if (sim_config.log_level >= 2) sim_log(2, "%s", function);
  if (fault_count != 0) {
    const CUresult injected = fault_due(function);
    if (injected != CUDA_SUCCESS) return injected;
  }
  if (need == SIM_NEED_NOTHING) return CUDA_SUCCESS;
  if (atomic_load_explicit(&forked, memory_order_relaxed)) return CUDA_ERROR_NOT_INITIALIZED;
  if (!atomic_load_explicit(&initialised, memory_order_acquire)) return CUDA_ERROR_NOT_INITIALIZED;
  const int sticky = atomic_load_explicit(&sim_sticky, memory_order_relaxed);
  if (sticky != 0) return (CUresult)sticky;
  if (need == SIM_NEED_CONTEXT && sim_current() == NULL) return CUDA_ERROR_INVALID_CONTEXT;
  return CUDA_SUCCESS;
}
