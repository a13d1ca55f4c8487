/* SPDX-License-Identifier: Apache-2.0 */
/* refuse.c: the one line a refusal leaves. */
#include "refuse.h"

#include <stdarg.h>
#include <stdio.h>

CUresult gb_refused(uint32_t *told, CUresult error, const char *name, const char *format, ...) {
  char text[256];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  if (__atomic_exchange_n(told, 1, __ATOMIC_RELAXED) == 0)
    gb_event(GB_LOG_WARN, error, name, "%s", text);
  else
    gb_log(GB_LOG_DEBUG, "%s: %s", name, text);
  return error;
}
