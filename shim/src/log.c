/* SPDX-License-Identifier: Apache-2.0 */
/* log.c: the shim's own log, silent unless GREENBOOST_LOG is set, and events for the agent. */
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "client.h"
#include "core.h"
#include "lock.h"

#define LINE_BYTES 512

static pthread_once_t log_once = PTHREAD_ONCE_INIT;
static int log_fd = -1;
static int log_level = -1; /* nothing */
static const char *const level_names[] = {"error", "warn", "info", "debug"};

static void open_log(void) {
  const char *level = getenv("GREENBOOST_LOG");
  const char *path = getenv("GREENBOOST_LOG_FILE");
  if (level == NULL || level[0] == '\0') return;
  for (int i = 0; i < 4; i++) {
    if (strcmp(level, level_names[i]) == 0) log_level = i;
  }
  log_fd = STDERR_FILENO;
  if (path != NULL && path[0] != '\0') {
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd >= 0) log_fd = fd;
  }
}

static void write_line(enum gb_log_level level, const char *text) {
  char line[LINE_BYTES];
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  int length = snprintf(line, sizeof line, "greenboost[%d] %lld.%03ld %s: %s\n", (int)getpid(),
                        (long long)now.tv_sec, now.tv_nsec / 1000000, level_names[level], text);
  if (length < 0) return;
  if (length >= (int)sizeof line) {
    length = (int)sizeof line;
    line[length - 1] = '\n';
  }
  /* One write for each line keeps the lines of threads and processes apart; a full disk is not our
   * business. */
  ssize_t written = write(log_fd, line, (size_t)length);
  (void)written;
}

void gb_log(enum gb_log_level level, const char *format, ...) {
  pthread_once(&log_once, open_log);
  if ((int)level > log_level) return;
  char text[LINE_BYTES - 64];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  write_line(level, text);
}

void gb_event(enum gb_log_level level, CUresult error, const char *name, const char *format, ...) {
  struct gb_event event = {.severity = level == GB_LOG_ERROR  ? 2u
                                       : level == GB_LOG_WARN ? 1u
                                                              : 0u,
                           .cuda_error = (uint32_t)error};
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(event.text, sizeof event.text, format, arguments);
  va_end(arguments);
  snprintf(event.name, sizeof event.name, "%s", name);
  gb_log(level, "%s: %s", event.name, event.text);
  gb_client_notice(GB_MSG_EVENT, &event, sizeof event);
}
