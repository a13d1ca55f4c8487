/* SPDX-License-Identifier: Apache-2.0 */
/* ptx.c: a PTX text to the instructions and blocks of one kernel; see ptx.h. */
#include "ptx.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "ptx_part.h"

/* ---- the kernel's text ---- */

static bool is_name(char c) {
  return isalnum((unsigned char)c) || c == '_' || c == '$' || c == '%';
}

static const char *skip_space(const char *at) {
  while (isspace((unsigned char)*at)) at++;
  return at;
}

/* A copy without comments. */
static char *without_comments(const char *text) {
  char *copy = malloc(strlen(text) + 1);
  char *to = copy;
  while (copy != NULL && *text != '\0') {
    if (text[0] == '/' && text[1] == '/') {
      text += strcspn(text, "\n");
    } else if (text[0] == '/' && text[1] == '*') {
      const char *end = strstr(text + 2, "*/");
      text = end == NULL ? text + strlen(text) : end + 2;
      *to++ = ' ';
    } else {
      *to++ = *text++;
    }
  }
  if (copy != NULL) *to = '\0';
  return copy;
}

/* Behind ".entry name", or NULL. */
static char *find_entry(char *text, const char *name) {
  size_t length = strlen(name);
  for (char *at = strstr(text, ".entry"); at != NULL; at = strstr(at, ".entry")) {
    at += strlen(".entry");
    char *word = at + (skip_space(at) - at);
    if (word != at && strncmp(word, name, length) == 0 && !is_name(word[length])) return word + length;
  }
  return NULL;
}

/* The body between its braces, which become ends of strings. at: behind the name. */
static char *find_body(char *at) {
  char *begin = strchr(at, '{');
  unsigned depth = 0;
  if (begin == NULL) return NULL;
  for (char *end = begin; *end != '\0'; end++) {
    depth += *end == '{';
    if (*end == '}' && --depth == 0) {
      *begin = *end = '\0';
      return begin + 1;
    }
  }
  return NULL;
}

/* ---- parameters ---- */

/* Names of "(.param .u64 a, .param .align 8 .b8 b[48])", in order. returns: false when there are not so many. */
static bool read_params(struct gb_ptx_reader *reader, char *at, uint32_t count) {
  char *begin = at + (skip_space(at) - at);
  char *end = *begin == '(' ? strchr(begin, ')') : NULL;
  char *rest = NULL;
  if (count == 0) return end == NULL || *skip_space(begin + 1) == ')';
  if (end == NULL || count > GB_PTX_PARAMS_MAX) return false;
  *end = ' ';
  for (char *each = strtok_r(begin + 1, ",", &rest); each != NULL; each = strtok_r(NULL, ",", &rest)) {
    char *last = each + strcspn(each, "[");
    *last = '\0';
    while (last > each && isspace((unsigned char)last[-1])) *--last = '\0';
    while (last > each && is_name(last[-1])) last--;
    if (reader->param_count == count) return false;
    reader->params[reader->param_count++] = last;
  }
  return reader->param_count == count;
}

/* ---- statements ---- */

/* Labels and directives before a statement. returns: where it begins, or NULL for a scope of its own. */
static char *skip_to_statement(struct gb_ptx_reader *reader, char *at) {
  for (;;) {
    at += skip_space(at) - at;
    if (*at == '{' || *at == '}') return NULL;
    if (strncmp(at, ".loc", 4) == 0 && isspace((unsigned char)at[4])) { /* the one that ends with its line */
      at += strcspn(at, "\n");
      continue;
    }
    char *end = at;
    while (is_name(*end)) end++;
    char *colon = end + (skip_space(end) - end);
    if (end == at || *colon != ':' || colon[1] == ':') return at;
    *end = '\0';
    if (!gb_ptx_label(reader, at)) return NULL;
    at = colon + 1;
  }
}

static bool read_statements(struct gb_ptx_reader *reader, char *at) {
  for (;;) {
    at = skip_to_statement(reader, at);
    if (at == NULL) return false;
    if (*at == '\0') return true;
    char *end = strchr(at, ';');
    if (end == NULL) return false;
    *end = '\0';
    if (*at != '.' && *at != '\0' && !gb_ptx_statement(reader, at)) return false;
    at = end + 1;
  }
}

static bool find_targets(struct gb_ptx_reader *reader) {
  struct gb_ptx *kernel = reader->kernel;
  for (uint32_t i = 0; i < kernel->count; i++) {
    if (kernel->code[i].op != GB_PTX_BRANCH) continue;
    const char *name = reader->names[i];
    uint32_t label = 0;
    while (label < reader->label_count && strcmp(reader->labels[label].name, name) != 0) label++;
    if (label == reader->label_count) return false;
    kernel->code[i].target = reader->labels[label].at;
  }
  return true;
}

/* ---- blocks ---- */

static bool ends_block(const struct gb_ptx_code *code) {
  return code->op == GB_PTX_BRANCH || code->op == GB_PTX_EXIT;
}

static uint32_t block_at(const struct gb_ptx *kernel, uint32_t code) {
  for (uint32_t b = 0; b < kernel->block_count; b++) {
    if (kernel->blocks[b].first == code) return b;
  }
  return GB_PTX_NONE;
}

static bool cut(struct gb_ptx *kernel) {
  bool *begins = calloc(kernel->count + 1, 1);
  if (begins == NULL) return false;
  begins[0] = true;
  for (uint32_t i = 0; i < kernel->count; i++) {
    if (kernel->code[i].op == GB_PTX_BRANCH) begins[kernel->code[i].target] = true;
    if (ends_block(&kernel->code[i])) begins[i + 1] = true;
  }
  for (uint32_t i = 0; i < kernel->count && kernel->block_count <= GB_PTX_BLOCKS_MAX; i++) {
    if (begins[i] && kernel->block_count++ < GB_PTX_BLOCKS_MAX) kernel->blocks[kernel->block_count - 1].first = i;
    if (kernel->block_count <= GB_PTX_BLOCKS_MAX) kernel->blocks[kernel->block_count - 1].end = i + 1;
  }
  free(begins);
  if (kernel->block_count > GB_PTX_BLOCKS_MAX) return false;
  for (uint32_t b = 0; b < kernel->block_count; b++) {
    struct gb_ptx_block *block = &kernel->blocks[b];
    const struct gb_ptx_code *last = &kernel->code[block->end - 1];
    bool always = ends_block(last) && last->guard == GB_PTX_NONE;
    uint32_t behind = b + 1 < kernel->block_count ? b + 1 : GB_PTX_NONE;
    block->next[0] = last->op == GB_PTX_BRANCH ? block_at(kernel, last->target)
                     : last->op == GB_PTX_EXIT ? GB_PTX_NONE
                                               : behind;
    block->next[1] = always || !ends_block(last) ? GB_PTX_NONE : behind;
  }
  return true;
}

#define WORDS (GB_PTX_BLOCKS_MAX / 64)

/* What follows block b on all ways is among what follows this one. returns: whether that took something away. */
static bool meet(uint64_t (*behind)[WORDS], uint32_t b, uint32_t next) {
  bool less = false;
  for (uint32_t w = 0; w < WORDS; w++) {
    uint64_t own = b / 64 == w ? 1ull << b % 64 : 0;
    uint64_t both = behind[b][w] & ((next == GB_PTX_NONE ? 0 : behind[next][w]) | own);
    less |= both != behind[b][w];
    behind[b][w] = both;
  }
  return less;
}

static uint32_t size_of(const uint64_t *set) {
  uint32_t size = 0;
  for (uint32_t w = 0; w < WORDS; w++) size += (uint32_t)__builtin_popcountll(set[w]);
  return size;
}

/* Post-dominators, as a data flow problem. */
static bool find_after(struct gb_ptx *kernel) {
  uint64_t(*behind)[WORDS] = malloc(kernel->block_count * sizeof *behind);
  if (behind == NULL) return false;
  memset(behind, 0xff, kernel->block_count * sizeof *behind);
  for (bool less = true; less;) {
    less = false;
    for (uint32_t b = kernel->block_count; b-- > 0;) {
      const struct gb_ptx_block *block = &kernel->blocks[b];
      bool two = kernel->code[block->end - 1].guard != GB_PTX_NONE && ends_block(&kernel->code[block->end - 1]);
      less |= meet(behind, b, block->next[0]);
      if (two) less |= meet(behind, b, block->next[1]);
    }
  }
  for (uint32_t b = 0; b < kernel->block_count; b++) {
    uint32_t best = 0;
    kernel->blocks[b].after = GB_PTX_NONE;
    for (uint32_t a = 0; a < kernel->block_count; a++) {
      if (a == b || (behind[b][a / 64] >> a % 64 & 1) == 0 || size_of(behind[a]) <= best) continue;
      best = size_of(behind[a]);
      kernel->blocks[b].after = a;
    }
  }
  free(behind);
  return true;
}

/* ---- all of it ---- */

static bool read_all(struct gb_ptx_reader *reader, char *text, const char *name, const uint32_t *params,
                     uint32_t param_count) {
  char *at = find_entry(text, name);
  char *body = at != NULL ? find_body(at) : NULL;
  reader->offsets = params;
  return body != NULL && read_params(reader, at, param_count) && read_statements(reader, body) &&
         reader->kernel->count > 0 && find_targets(reader) && cut(reader->kernel) && find_after(reader->kernel);
}

struct gb_ptx *gb_ptx_read(const char *text, const char *name, const uint32_t *params, uint32_t param_count) {
  struct gb_ptx_reader *reader = calloc(1, sizeof *reader);
  struct gb_ptx *kernel = calloc(1, sizeof *kernel);
  char *copy = without_comments(text);
  bool known = reader != NULL && kernel != NULL && copy != NULL;
  if (known) {
    reader->kernel = kernel;
    kernel->code = calloc(GB_PTX_CODE_MAX, sizeof *kernel->code);
    known = kernel->code != NULL && read_all(reader, copy, name, params, param_count);
  }
  free(copy);
  free(reader);
  if (known) return kernel;
  gb_ptx_free(kernel);
  return NULL;
}

void gb_ptx_free(struct gb_ptx *kernel) {
  if (kernel == NULL) return;
  free(kernel->code);
  free(kernel);
}
