/* SPDX-License-Identifier: Apache-2.0 */
/* ptx_part.h: what ptx.c (texts, blocks) and ptx_code.c (instructions) share. Nobody else includes it. */
#ifndef GB_PTX_PART_H
#define GB_PTX_PART_H

#include "ptx.h"

#define GB_PTX_LABELS_MAX 512u

/* Names point into the copy of the text. */
struct gb_ptx_reader {
  struct gb_ptx *kernel;
  const uint32_t *offsets; /* of the parameters */
  const char *params[GB_PTX_PARAMS_MAX];
  uint32_t param_count;
  const char *registers[GB_PTX_REGISTERS_MAX];
  struct {
    const char *name;
    uint32_t at;
  } labels[GB_PTX_LABELS_MAX];
  uint32_t label_count;
  const char *names[GB_PTX_CODE_MAX]; /* of a branch: its target */
};

/* The next statement has this label. The name stays as it is. */
bool gb_ptx_label(struct gb_ptx_reader *reader, char *name);
/* One instruction, without its semicolon; the text is cut up. returns: false when it is not known. */
bool gb_ptx_statement(struct gb_ptx_reader *reader, char *text);

#endif
