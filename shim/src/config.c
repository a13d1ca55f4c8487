/* SPDX-License-Identifier: Apache-2.0 */
/* config.c: environment variables to struct gb_config. A value that cannot be read is named in the
 * log and left out. */
#include "config.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core.h"

static struct gb_config config;
static pthread_once_t config_once = PTHREAD_ONCE_INIT;

static bool unit_shift(const char *unit, unsigned *shift) {
  static const struct {
    const char *name;
    unsigned shift;
  } units[] = {{"", 0},     {"B", 0},  {"K", 10},   {"KiB", 10}, {"M", 20},
               {"MiB", 20}, {"G", 30}, {"GiB", 30}, {"T", 40},   {"TiB", 40}};
  for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
    if (strcmp(unit, units[i].name) == 0) {
      *shift = units[i].shift;
      return true;
    }
  }
  return false;
}

bool gb_parse_size(const char *text, uint64_t *bytes) {
  char *end = NULL;
  if (text == NULL || text[0] < '0' || text[0] > '9') return false;
  double value = strtod(text, &end);
  unsigned shift = 0;
  if (!unit_shift(end, &shift)) return false;
  value *= (double)(1ull << shift);
  if (!(value >= 0) || value > (double)(1ull << 53)) return false;
  *bytes = (uint64_t)value;
  return true;
}

static void read_size(const char *name, uint64_t *bytes) {
  const char *text = getenv(name);
  if (text == NULL || text[0] == '\0') return;
  if (!gb_parse_size(text, bytes)) {
    gb_log(GB_LOG_ERROR, "%s=%s is no size (write 4GiB or 512MiB): ignored", name, text);
  }
}

static void read_path(const char *name, char path[GB_PATH_BYTES]) {
  const char *text = getenv(name);
  if (text == NULL) return;
  if (strlen(text) >= GB_PATH_BYTES) {
    gb_log(GB_LOG_ERROR, "%s is longer than %d bytes: ignored", name, GB_PATH_BYTES - 1);
    return;
  }
  strcpy(path, text);
}

static bool is(const char *name, const char *value) {
  const char *text = getenv(name);
  return text != NULL && strcmp(text, value) == 0;
}

static void read_socket(void) {
  read_path("GREENBOOST_SOCKET", config.socket);
  const char *runtime = getenv("XDG_RUNTIME_DIR");
  if (config.socket[0] != '\0' || runtime == NULL || runtime[0] != '/') return;
  int length = snprintf(config.socket, GB_PATH_BYTES, "%s/greenboost/shim.sock", runtime);
  if (length < 0 || length >= GB_PATH_BYTES) config.socket[0] = '\0';
}

static void read_arena(void) {
  config.arena_base = GB_ARENA_WINDOW_BASE;
  config.arena_bytes = GB_ARENA_BYTES_DEFAULT;
  read_size("GREENBOOST_ARENA_BYTES", &config.arena_bytes);
  config.arena_bytes &= ~(GB_ABI_RANGE_ALIGN - 1);
  const char *base = getenv("GREENBOOST_ARENA_BASE");
  if (base == NULL || base[0] == '\0') return;
  char *end = NULL;
  uint64_t value = strtoull(base, &end, 16);
  bool inside = value >= GB_ARENA_WINDOW_BASE && value < GB_ARENA_WINDOW_END;
  if (*end == '\0' && inside && value % GB_ABI_RANGE_ALIGN == 0) {
    config.arena_base = value;
  } else {
    gb_log(GB_LOG_ERROR,
           "GREENBOOST_ARENA_BASE=%s is not an aligned address of the window: ignored", base);
  }
}

static void read_staging(void) {
  const char *mode = getenv("GREENBOOST_STAGING");
  config.staging = GB_STAGING_AUTO;
  config.frames = UINT64_MAX;
  read_size("GREENBOOST_FRAMES", &config.frames);
  if (mode == NULL || mode[0] == '\0' || strcmp(mode, "auto") == 0) return;
  if (strcmp(mode, "off") == 0)
    config.staging = GB_STAGING_NEVER;
  else if (strcmp(mode, "always") == 0)
    config.staging = GB_STAGING_ALWAYS;
  else
    gb_log(GB_LOG_ERROR, "GREENBOOST_STAGING=%s is not auto, off or always: ignored", mode);
}

/* honest, extend, or extend=SIZE */
static void read_report(void) {
  const char *text = getenv("GREENBOOST_REPORT");
  config.extend_bytes = UINT64_MAX;
  if (text == NULL || text[0] == '\0' || strcmp(text, "extend") == 0) return;
  if (strcmp(text, "honest") == 0) {
    config.honest = true;
  } else if (strncmp(text, "extend=", 7) != 0 || !gb_parse_size(text + 7, &config.extend_bytes)) {
    config.extend_bytes = UINT64_MAX;
    gb_log(GB_LOG_ERROR, "GREENBOOST_REPORT=%s is not honest, extend or extend=SIZE: ignored", text);
  }
}

static void read_nvme(void) {
  config.nvme_budget = UINT64_MAX;
  config.nvme_writes_per_day = UINT64_MAX;
  read_path("GREENBOOST_NVME_DIR", config.nvme_dir);
  read_size("GREENBOOST_NVME_BUDGET", &config.nvme_budget);
  read_size("GREENBOOST_NVME_WRITES_PER_DAY", &config.nvme_writes_per_day);
}

/* off; merged: what lies on feeders, once, is what it is about; devices: what lies there never comes here */
static void read_remote(void) {
  const char *text = getenv("GREENBOOST_REMOTE");
  bool merged = is("GREENBOOST_REMOTE", "merged");
  bool devices = is("GREENBOOST_REMOTE", "devices");
  config.merged = merged && config.gated && !config.replicas;
  config.merged_refused = merged && !config.merged;
  config.devices = devices && !config.gated && !config.replicas;
  config.devices_refused = devices && !config.devices;
  if (merged || devices || text == NULL || text[0] == '\0' || strcmp(text, "off") == 0) return;
  gb_log(GB_LOG_ERROR, "GREENBOOST_REMOTE=%s is not merged, devices or off: ignored", text);
}

static void read_all(void) {
  config.disabled = is("GREENBOOST_DISABLE", "1");
  config.gated = is("GREENBOOST_OVERCOMMIT", "gated");
  config.replicas = is("GREENBOOST_REPLICAS", "2");
  read_remote();
  config.vram_budget = UINT64_MAX;
  config.ram_budget = UINT64_MAX;
  read_size("GREENBOOST_VRAM_BUDGET", &config.vram_budget);
  read_size("GREENBOOST_RAM_BUDGET", &config.ram_budget);
  read_nvme();
  read_path("GREENBOOST_STATS_FILE", config.stats_file);
  read_socket();
  read_size("GREENBOOST_GRAPH_SEGMENT", &config.graph_segment);
  read_staging();
  read_report();
  read_arena();
}

const struct gb_config *gb_config(void) {
  pthread_once(&config_once, read_all);
  return &config;
}
