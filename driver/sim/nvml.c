/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvml.c: libnvidia-ml.so.1 of the simulated GPU: what monitoring tools and frameworks ask,
 * answered from the same shared file as the driver's capacity. Declarations are of the public NVML
 * ABI, only those used here.
 */
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "gpu.h"

#define EXPORT __attribute__((visibility("default")))

typedef enum {
  NVML_SUCCESS = 0,
  NVML_ERROR_UNINITIALIZED = 1,
  NVML_ERROR_INVALID_ARGUMENT = 2,
  NVML_ERROR_NOT_SUPPORTED = 3,
  NVML_ERROR_NOT_FOUND = 6,
  NVML_ERROR_INSUFFICIENT_SIZE = 7,
  NVML_ERROR_UNKNOWN = 999,
} nvmlReturn_t;

typedef struct nvmlDevice_st *nvmlDevice_t;

typedef struct {
  unsigned long long total, free, used;
} nvmlMemory_t;

typedef struct {
  unsigned version; /* sizeof(nvmlMemory_v2_t) | 2 << 24 */
  unsigned long long total, reserved, free, used;
} nvmlMemory_v2_t;

typedef struct {
  unsigned gpu, memory;
} nvmlUtilization_t;

typedef struct {
  unsigned pid;
  unsigned long long usedGpuMemory;
} nvmlProcessInfo_v1_t;

typedef struct {
  unsigned pid;
  unsigned long long usedGpuMemory;
  unsigned gpuInstanceId, computeInstanceId;
} nvmlProcessInfo_t; /* v2 and v3 */

typedef struct {
  char busIdLegacy[16];
  unsigned domain, bus, device, pciDeviceId, pciSubSystemId;
  char busId[32];
} nvmlPciInfo_t;

typedef struct {
  unsigned pid;
  unsigned long long timeStamp; /* microseconds since 1970 */
  unsigned smUtil, memUtil, encUtil, decUtil;
} nvmlProcessUtilizationSample_t;

_Static_assert(sizeof(nvmlProcessUtilizationSample_t) == 32, "nvmlProcessUtilizationSample_t");
_Static_assert(sizeof(nvmlMemory_t) == 24, "nvmlMemory_t");
_Static_assert(sizeof(nvmlMemory_v2_t) == 40, "nvmlMemory_v2_t");
_Static_assert(sizeof(nvmlProcessInfo_v1_t) == 16, "nvmlProcessInfo_v1_t");
_Static_assert(sizeof(nvmlProcessInfo_t) == 24, "nvmlProcessInfo_t");
_Static_assert(sizeof(nvmlPciInfo_t) == 68, "nvmlPciInfo_t");

#define NO_INSTANCE 0xffffffffu
/* Processes that are planted at once. */
#define DRAWN_MAX 16

static _Atomic int users;

static int ordinal_of(nvmlDevice_t device) {
  const int ordinal = (int)(uintptr_t)device - 1;
  return ordinal >= 0 && ordinal < gbsim_device_count() ? ordinal : -1;
}

/* Every question about a device starts so. */
#define DEVICE(device)                                \
  if (users == 0) return NVML_ERROR_UNINITIALIZED;    \
  const int ordinal = ordinal_of(device);             \
  if (ordinal < 0) return NVML_ERROR_INVALID_ARGUMENT

EXPORT nvmlReturn_t nvmlInit_v2(void);
EXPORT nvmlReturn_t nvmlInit_v2(void) {
  users++;
  return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlInit(void);
EXPORT nvmlReturn_t nvmlInit(void) { return nvmlInit_v2(); }

EXPORT nvmlReturn_t nvmlInitWithFlags(unsigned flags);
EXPORT nvmlReturn_t nvmlInitWithFlags(unsigned flags) {
  (void)flags;
  return nvmlInit_v2();
}

EXPORT nvmlReturn_t nvmlShutdown(void);
EXPORT nvmlReturn_t nvmlShutdown(void) {
  if (users == 0) return NVML_ERROR_UNINITIALIZED;
  users--;
  return NVML_SUCCESS;
}

EXPORT const char *nvmlErrorString(nvmlReturn_t result);
EXPORT const char *nvmlErrorString(nvmlReturn_t result) {
  switch (result) {
    case NVML_SUCCESS: return "Success";
    case NVML_ERROR_UNINITIALIZED: return "Uninitialized";
    case NVML_ERROR_INVALID_ARGUMENT: return "Invalid Argument";
    case NVML_ERROR_NOT_SUPPORTED: return "Not Supported";
    case NVML_ERROR_NOT_FOUND: return "Not Found";
    case NVML_ERROR_INSUFFICIENT_SIZE: return "Insufficient Size";
    default: return "Unknown Error";
  }
}

static nvmlReturn_t text_out(char *out, unsigned bytes, const char *text) {
  if (out == NULL) return NVML_ERROR_INVALID_ARGUMENT;
  if (strlen(text) + 1 > bytes) return NVML_ERROR_INSUFFICIENT_SIZE;
  memcpy(out, text, strlen(text) + 1);
  return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlSystemGetDriverVersion(char *text, unsigned bytes);
EXPORT nvmlReturn_t nvmlSystemGetDriverVersion(char *text, unsigned bytes) {
  return users == 0 ? NVML_ERROR_UNINITIALIZED : text_out(text, bytes, "580.0-gbsim");
}

EXPORT nvmlReturn_t nvmlSystemGetNVMLVersion(char *text, unsigned bytes);
EXPORT nvmlReturn_t nvmlSystemGetNVMLVersion(char *text, unsigned bytes) {
  return users == 0 ? NVML_ERROR_UNINITIALIZED : text_out(text, bytes, "13.580.0-gbsim");
}

EXPORT nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *version);
EXPORT nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *version) {
  if (version == NULL) return NVML_ERROR_INVALID_ARGUMENT;
  *version = 13000;
  return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetCount_v2(unsigned *count);
EXPORT nvmlReturn_t nvmlDeviceGetCount_v2(unsigned *count) {
  if (users == 0) return NVML_ERROR_UNINITIALIZED;
  if (count == NULL) return NVML_ERROR_INVALID_ARGUMENT;
  *count = (unsigned)gbsim_device_count();
  return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned index, nvmlDevice_t *device);
EXPORT nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned index, nvmlDevice_t *device) {
  if (users == 0) return NVML_ERROR_UNINITIALIZED;
  if (device == NULL || index >= (unsigned)gbsim_device_count()) return NVML_ERROR_INVALID_ARGUMENT;
  *device = (nvmlDevice_t)(uintptr_t)(index + 1);
  return NVML_SUCCESS;
}

static void uuid_text(int ordinal, char text[64]) {
  uint8_t u[16];
  gbsim_device_uuid(ordinal, u);
  snprintf(text, 64, "GPU-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x",
           u[0], u[1], u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12], u[13],
           u[14], u[15]);
}

EXPORT nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device);
EXPORT nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device) {
  if (users == 0) return NVML_ERROR_UNINITIALIZED;
  if (uuid == NULL || device == NULL) return NVML_ERROR_INVALID_ARGUMENT;
  for (int i = 0; i < gbsim_device_count(); i++) {
    char text[64];
    uuid_text(i, text);
    if (strcmp(text, uuid) == 0) return nvmlDeviceGetHandleByIndex_v2((unsigned)i, device);
  }
  return NVML_ERROR_NOT_FOUND;
}

EXPORT nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *id, nvmlDevice_t *device);
EXPORT nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *id, nvmlDevice_t *device) {
  unsigned domain, bus;
  if (users == 0) return NVML_ERROR_UNINITIALIZED;
  if (id == NULL || device == NULL || sscanf(id, "%x:%x:", &domain, &bus) != 2)
    return NVML_ERROR_INVALID_ARGUMENT;
  if (bus == 0 || bus > (unsigned)gbsim_device_count()) return NVML_ERROR_NOT_FOUND;
  return nvmlDeviceGetHandleByIndex_v2(bus - 1, device);
}

EXPORT nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t device, unsigned *index);
EXPORT nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t device, unsigned *index) {
  DEVICE(device);
  if (index == NULL) return NVML_ERROR_INVALID_ARGUMENT;
  *index = (unsigned)ordinal;
  return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *text, unsigned bytes);
EXPORT nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *text, unsigned bytes) {
  DEVICE(device);
  (void)ordinal;
  return text_out(text, bytes, "GreenBoost Simulated GPU");
}

EXPORT nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *text, unsigned bytes);
EXPORT nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *text, unsigned bytes) {
  DEVICE(device);
  char uuid[64];
  uuid_text(ordinal, uuid);
  return text_out(text, bytes, uuid);
}

EXPORT nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *pci);
EXPORT nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *pci) {
  DEVICE(device);
  if (pci == NULL) return NVML_ERROR_INVALID_ARGUMENT;
  memset(pci, 0, sizeof *pci);
  pci->bus = (unsigned)ordinal + 1;
  snprintf(pci->busIdLegacy, sizeof pci->busIdLegacy, "0000:%02X:00.0",
           (unsigned)(ordinal + 1) & 0xff);
  snprintf(pci->busId, sizeof pci->busId, "00000000:%02X:00.0", ordinal + 1);
  return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory);
EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory) {
  DEVICE(device);
  struct gbsim_usage usage;
  if (memory == NULL) return NVML_ERROR_INVALID_ARGUMENT;
  if (gbsim_gpu_usage(ordinal, &usage) != 0) return NVML_ERROR_UNKNOWN;
  *memory =
      (nvmlMemory_t){usage.total_bytes, usage.total_bytes - usage.used_bytes, usage.used_bytes};
  return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory);
EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory) {
  DEVICE(device);
  struct gbsim_usage usage;
  if (memory == NULL || memory->version != (sizeof *memory | 2u << 24))
    return NVML_ERROR_INVALID_ARGUMENT;
  if (gbsim_gpu_usage(ordinal, &usage) != 0) return NVML_ERROR_UNKNOWN;
  *memory = (nvmlMemory_v2_t){memory->version, usage.total_bytes, 0,
                              usage.total_bytes - usage.used_bytes, usage.used_bytes};
  return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device,
                                                  nvmlUtilization_t *utilization);
EXPORT nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device,
                                                  nvmlUtilization_t *utilization) {
  DEVICE(device);
  struct gbsim_usage usage;
  if (utilization == NULL) return NVML_ERROR_INVALID_ARGUMENT;
  if (gbsim_gpu_usage(ordinal, &usage) != 0) return NVML_ERROR_UNKNOWN;
  *utilization =
      (nvmlUtilization_t){usage.process_count != 0 ? 50 : 0, usage.process_count != 0 ? 25 : 0};
  return NVML_SUCCESS;
}

/* Of no card: warm and at work while somebody has it open. */
EXPORT nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, int sensor, unsigned *celsius);
EXPORT nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, int sensor, unsigned *celsius) {
  DEVICE(device);
  struct gbsim_usage usage;
  if (celsius == NULL || sensor != 0) return NVML_ERROR_INVALID_ARGUMENT;
  if (gbsim_gpu_usage(ordinal, &usage) != 0) return NVML_ERROR_UNKNOWN;
  *celsius = usage.process_count != 0 ? 55 : 35;
  return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t device, unsigned *milliwatts);
EXPORT nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t device, unsigned *milliwatts) {
  DEVICE(device);
  struct gbsim_usage usage;
  if (milliwatts == NULL) return NVML_ERROR_INVALID_ARGUMENT;
  if (gbsim_gpu_usage(ordinal, &usage) != 0) return NVML_ERROR_UNKNOWN;
  *milliwatts = usage.process_count != 0 ? 200000 : 40000;
  return NVML_SUCCESS;
}

/* Those who draw on the GPU, as planted: lines of a pid and the share it takes, in percent. returns: how many. */
static size_t drawn(int ordinal, nvmlProcessUtilizationSample_t *samples, size_t room) {
  char path[512];
  FILE *file = gbsim_gpu_path(ordinal, ".drawn", path, sizeof path) == 0 ? fopen(path, "re") : NULL;
  if (file == NULL) return 0;
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  const unsigned long long stamp = (unsigned long long)now.tv_sec * 1000000u + (unsigned)now.tv_nsec / 1000u;
  size_t count = 0;
  unsigned pid = 0, percent = 0;
  while (count < room && fscanf(file, "%u %u", &pid, &percent) == 2)
    samples[count++] = (nvmlProcessUtilizationSample_t){pid, stamp, percent > 100 ? 100 : percent, 0, 0, 0};
  fclose(file);
  return count;
}

EXPORT nvmlReturn_t nvmlDeviceGetProcessUtilization(nvmlDevice_t device, nvmlProcessUtilizationSample_t *samples,
                                                    unsigned *count, unsigned long long since);
EXPORT nvmlReturn_t nvmlDeviceGetProcessUtilization(nvmlDevice_t device, nvmlProcessUtilizationSample_t *samples,
                                                    unsigned *count, unsigned long long since) {
  DEVICE(device);
  (void)since; /* Samples are of this moment. */
  nvmlProcessUtilizationSample_t found[DRAWN_MAX];
  if (count == NULL) return NVML_ERROR_INVALID_ARGUMENT;
  const unsigned room = samples == NULL ? 0 : *count;
  *count = (unsigned)drawn(ordinal, found, DRAWN_MAX);
  if (*count == 0) return NVML_ERROR_NOT_FOUND;
  if (*count > room) return NVML_ERROR_INSUFFICIENT_SIZE;
  memcpy(samples, found, *count * sizeof *samples);
  return NVML_SUCCESS;
}

/* Fills `write(i, process)` for as many as fit; *count becomes the number there are. */
static nvmlReturn_t processes(int ordinal, unsigned *count, void *infos, bool old) {
  struct gbsim_usage usage;
  if (count == NULL) return NVML_ERROR_INVALID_ARGUMENT;
  if (gbsim_gpu_usage(ordinal, &usage) != 0) return NVML_ERROR_UNKNOWN;
  const unsigned room = infos == NULL ? 0 : *count;
  *count = (unsigned)usage.process_count;
  if (usage.process_count > room) return NVML_ERROR_INSUFFICIENT_SIZE;
  for (size_t i = 0; i < usage.process_count; i++) {
    const struct gbsim_process *process = &usage.processes[i];
    if (old)
      ((nvmlProcessInfo_v1_t *)infos)[i] =
          (nvmlProcessInfo_v1_t){(unsigned)process->pid, process->bytes};
    else
      ((nvmlProcessInfo_t *)infos)[i] =
          (nvmlProcessInfo_t){(unsigned)process->pid, process->bytes, NO_INSTANCE, NO_INSTANCE};
  }
  return NVML_SUCCESS;
}

#define PROCESSES(name, type, old)                                              \
  EXPORT nvmlReturn_t name(nvmlDevice_t device, unsigned *count, type *infos);  \
  EXPORT nvmlReturn_t name(nvmlDevice_t device, unsigned *count, type *infos) { \
    DEVICE(device);                                                             \
    return processes(ordinal, count, infos, old);                               \
  }
PROCESSES(nvmlDeviceGetComputeRunningProcesses, nvmlProcessInfo_v1_t, true)
PROCESSES(nvmlDeviceGetComputeRunningProcesses_v2, nvmlProcessInfo_t, false)
PROCESSES(nvmlDeviceGetComputeRunningProcesses_v3, nvmlProcessInfo_t, false)

/* No graphics here. */
#define NO_PROCESSES(name)                                                      \
  EXPORT nvmlReturn_t name(nvmlDevice_t device, unsigned *count, void *infos);  \
  EXPORT nvmlReturn_t name(nvmlDevice_t device, unsigned *count, void *infos) { \
    DEVICE(device);                                                             \
    (void)ordinal;                                                              \
    (void)infos;                                                                \
    if (count == NULL) return NVML_ERROR_INVALID_ARGUMENT;                      \
    *count = 0;                                                                 \
    return NVML_SUCCESS;                                                        \
  }
NO_PROCESSES(nvmlDeviceGetGraphicsRunningProcesses)
NO_PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v2)
NO_PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v3)
