/* SPDX-License-Identifier: Apache-2.0 */
/* ptx_code.c: one PTX instruction. Whatever is not listed here is not known. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "ptx_part.h"

#define OPERANDS_MAX 6u
#define PARTS_MAX 16u

struct statement {
  char *parts[PARTS_MAX]; /* of the opcode, between its points */
  uint32_t part_count;
  char *operands[OPERANDS_MAX];
  uint32_t operand_count;
};

/* Registers are all they touch. */
static const char *const opaque[] = {
    "abs",  "activemask", "addc",  "bfe",   "bfi",  "bfind", "bmsk",     "brev", "clz",   "cnot", "copysign", "cos",
    "cvt",  "dp2a",       "dp4a",  "ex2",   "fma",  "fns",   "isspacep", "lg2",  "lop3",  "mad24", "madc",    "mul24",
    "neg",  "not",        "or",    "popc",  "prmt", "rcp",   "rsqrt",    "sad",  "selp",  "set",  "shf",      "shfl",
    "sin",  "slct",       "sqrt",  "subc",  "szext", "tanh", "testp",    "vote", "match", "xor",  "elect",    "redux"};
static const char *const nothing[] = {"bar", "barrier", "membar", "fence", "nanosleep", "griddepcontrol"};

static const struct {
  const char *name;
  enum gb_ptx_op op;
} arithmetic[] = {{"mov", GB_PTX_MOV}, {"cvta", GB_PTX_MOV}, {"cvt", GB_PTX_CVT}, {"add", GB_PTX_ADD},
                  {"sub", GB_PTX_SUB}, {"mul", GB_PTX_MUL},  {"mad", GB_PTX_MAD}, {"shl", GB_PTX_SHL},
                  {"shr", GB_PTX_SHR}, {"and", GB_PTX_AND},  {"div", GB_PTX_DIV}, {"rem", GB_PTX_REM},
                  {"min", GB_PTX_MIN}, {"max", GB_PTX_MAX},  {"setp", GB_PTX_SETP}};

static bool is_in(const char *word, const char *const *list, size_t count) {
  for (size_t i = 0; i < count; i++) {
    if (strcmp(word, list[i]) == 0) return true;
  }
  return false;
}
#define IS_IN(word, list) is_in(word, list, sizeof(list) / sizeof(list)[0])

static bool has(const struct statement *s, const char *part) {
  for (uint32_t i = 1; i < s->part_count; i++) {
    if (strcmp(s->parts[i], part) == 0) return true;
  }
  return false;
}

/* ---- taking it apart ---- */

static char *trim(char *text) {
  while (isspace((unsigned char)*text)) text++;
  char *end = text + strlen(text);
  while (end > text && isspace((unsigned char)end[-1])) end--;
  *end = '\0';
  return text;
}

/* At commas outside of brackets. */
static bool split_operands(struct statement *s, char *at) {
  unsigned depth = 0;
  at = trim(at);
  while (*at != '\0') {
    char *end = at;
    for (; *end != '\0' && (depth > 0 || *end != ','); end++) {
      depth += *end == '{' || *end == '[';
      depth -= *end == '}' || *end == ']';
    }
    bool more = *end == ',';
    *end = '\0';
    if (s->operand_count == OPERANDS_MAX) return false;
    s->operands[s->operand_count++] = trim(at);
    at = more ? end + 1 : end;
  }
  return true;
}

static bool split(struct statement *s, char *at) {
  char *opcode = at;
  at += strcspn(at, " \t\r\n");
  char *operands = *at == '\0' ? at : at + 1;
  *at = '\0';
  for (char *rest = NULL, *part = strtok_r(opcode, ".", &rest); part != NULL; part = strtok_r(NULL, ".", &rest)) {
    if (s->part_count == PARTS_MAX) return false;
    s->parts[s->part_count++] = part;
  }
  return s->part_count > 0 && split_operands(s, operands);
}

struct type {
  uint8_t bits; /* 0: no type */
  bool is_signed, is_float;
};

static struct type type_of(const char *part) {
  struct type type = {0, part[0] == 's', part[0] == 'f' || strncmp(part, "bf", 2) == 0};
  const char *digits = part + strcspn(part, "0123456789");
  if (strcmp(part, "pred") == 0) return (struct type){1, false, false};
  if (strcmp(part, "f16x2") == 0 || strcmp(part, "bf16x2") == 0) return (struct type){32, false, true};
  if (strchr("usbf", part[0]) == NULL || part[0] == '\0') return type;
  if (digits != part + 1 && !(strncmp(part, "bf", 2) == 0 && digits == part + 2)) return type;
  char *end = NULL;
  unsigned long bits = strtoul(digits, &end, 10);
  if (*end == '\0' && (bits == 8 || bits == 16 || bits == 32 || bits == 64 || bits == 128)) type.bits = (uint8_t)bits;
  return type;
}

/* ---- operands ---- */

static uint32_t register_of(struct gb_ptx_reader *reader, const char *name) {
  uint32_t i = 0;
  while (i < reader->kernel->register_count && strcmp(reader->registers[i], name) != 0) i++;
  if (i == GB_PTX_REGISTERS_MAX) return GB_PTX_NONE;
  if (i == reader->kernel->register_count) reader->registers[reader->kernel->register_count++] = name;
  return i;
}

static bool is_special(const char *text, struct gb_ptx_operand *operand) {
  static const char *const names[] = {"%tid.", "%ctaid.", "%ntid.", "%nctaid."};
  for (uint32_t i = 0; i < 4; i++) {
    size_t length = strlen(names[i]);
    if (strncmp(text, names[i], length) != 0 || text[length] < 'x' || text[length] > 'z' || text[length + 1] != '\0')
      continue;
    *operand = (struct gb_ptx_operand){GB_PTX_SPECIAL, 4u * (uint32_t)(text[length] - 'x') + i, 0};
    return true;
  }
  return false;
}

static struct gb_ptx_operand operand_of(struct gb_ptx_reader *reader, const char *text) {
  struct gb_ptx_operand operand = {GB_PTX_UNKNOWN, 0, 0};
  if (is_special(text, &operand)) return operand;
  if (text[0] == '%' && strchr(text, '.') == NULL) {
    uint32_t index = register_of(reader, text);
    if (index != GB_PTX_NONE) operand = (struct gb_ptx_operand){GB_PTX_REGISTER, index, 0};
  } else if (isdigit((unsigned char)text[0]) || text[0] == '-') {
    char *end = NULL;
    uint64_t number = strtoull(text, &end, 0);
    if (*end == 'U') end++;
    if (*end == '\0') operand = (struct gb_ptx_operand){GB_PTX_NUMBER, 0, number};
  }
  return operand;
}

/* "%a", "%a|%b", "{%a, %b}", "_": the registers that are written. */
static bool read_results(struct gb_ptx_reader *reader, struct gb_ptx_code *code, char *text) {
  for (char *rest = NULL, *each = strtok_r(text, "{}|, \t\r\n", &rest); each != NULL;
       each = strtok_r(NULL, "{}|, \t\r\n", &rest)) {
    if (strcmp(each, "_") == 0) continue;
    uint32_t index = each[0] == '%' && strchr(each, '.') == NULL ? register_of(reader, each) : GB_PTX_NONE;
    if (index == GB_PTX_NONE || code->result_count == sizeof code->results / sizeof code->results[0]) return false;
    code->results[code->result_count++] = index;
  }
  return true;
}

/* "[%rd1+8]" to from[0] and offset; of anything but a register, from[0] is not known and *name says what it is. */
static bool read_address(struct gb_ptx_reader *reader, struct gb_ptx_code *code, char *text, const char **name) {
  char *end = strchr(text, ']');
  if (text[0] != '[' || end == NULL || end[1] != '\0') return false;
  *end = '\0';
  char *base = trim(text + 1);
  char *sign = base + strcspn(base, "+-");
  if (*sign != '\0') {
    char *stop = NULL;
    char *digits = trim(sign + 1);
    code->offset = (int64_t)strtoul(digits, &stop, 0);
    if (*digits == '\0' || *stop != '\0' || code->offset > INT32_MAX) {
      if (*digits != '-') return false;
      code->offset = -(int64_t)strtoul(digits + 1, &stop, 0);
      if (*stop != '\0' || code->offset < INT32_MIN) return false;
    }
    if (*sign == '-') code->offset = -code->offset;
    *sign = '\0';
  }
  *name = trim(base);
  code->from[0] = operand_of(reader, *name);
  return code->from[0].kind != GB_PTX_NUMBER;
}

/* ---- memory ---- */

static uint32_t vector_of(const struct statement *s) {
  return has(s, "v2") ? 2 : has(s, "v4") ? 4 : has(s, "v8") ? 8 : 1;
}

static bool read_param(struct gb_ptx_reader *reader, struct gb_ptx_code *code, const char *name) {
  for (uint32_t i = 0; i < reader->param_count; i++) {
    if (strcmp(reader->params[i], name) != 0) continue;
    code->op = code->result_count == 1 ? GB_PTX_PARAM : GB_PTX_OPAQUE;
    code->offset += reader->offsets[i];
    return true;
  }
  return false;
}

/* ld, st, atom and red. A name instead of a register is a variable of the module's, or on chip: nothing of ours. */
static bool read_memory(struct gb_ptx_reader *reader, struct gb_ptx_code *code, struct statement *s,
                        enum gb_ptx_op op) {
  struct type type = type_of(s->parts[s->part_count - 1]);
  bool inside = has(s, "shared") || has(s, "local") || has(s, "const") || has(s, "shared::cta");
  uint32_t address = op == GB_PTX_LOAD || (op == GB_PTX_ATOMIC && strcmp(s->parts[0], "atom") == 0) ? 1 : 0;
  const char *name = NULL;
  if (type.bits < 8 || s->operand_count <= address || has(s, "shared::cluster") || has(s, "async")) return false;
  if (address == 1 && !read_results(reader, code, s->operands[0])) return false;
  if (!read_address(reader, code, s->operands[address], &name)) return false;
  code->bits = type.bits;
  code->is_signed = type.is_signed;
  code->bytes = type.bits / 8u * vector_of(s);
  if (has(s, "param")) return op == GB_PTX_LOAD && read_param(reader, code, name);
  inside |= code->from[0].kind == GB_PTX_UNKNOWN && name[0] != '%';
  code->op = !inside ? op : address == 1 ? GB_PTX_OPAQUE : GB_PTX_NOTHING;
  return true;
}

/* ---- arithmetic ---- */

static bool is_compare(const char *part, enum gb_ptx_compare *compare) {
  static const char *const names[] = {"eq", "ne", "lt", "le", "gt", "ge", NULL, NULL, "lo", "ls", "hi", "hs"};
  for (uint32_t i = 0; i < sizeof names / sizeof names[0]; i++) {
    if (names[i] == NULL || strcmp(part, names[i]) != 0) continue;
    *compare = (enum gb_ptx_compare)(i < 8 ? i : i - 6);
    return true;
  }
  return false;
}

/* What of these is followed more closely than by "writes its registers". */
static bool is_followed(struct gb_ptx_code *code, const struct statement *s, struct type type) {
  uint32_t sources = code->op == GB_PTX_MAD ? 3 : code->op == GB_PTX_MOV || code->op == GB_PTX_CVT ? 1 : 2;
  if (type.is_float || (type.bits != 32 && type.bits != 64) || code->result_count != 1) return false;
  if (s->operand_count != sources + 1 || has(s, "sat") || has(s, "cc") || has(s, "hi")) return false;
  if (code->op == GB_PTX_MOV && s->part_count > 2 && !has(s, "global")) return false; /* cvta of another space */
  if (code->op == GB_PTX_SETP) return s->part_count == 3 && is_compare(s->parts[1], &code->compare);
  if (code->op != GB_PTX_CVT) return true;
  struct type from = type_of(s->parts[s->part_count - 1]);
  struct type to = type_of(s->parts[s->part_count - 2]);
  if (s->part_count != 3 || from.bits < 8 || from.is_float || to.is_float || to.bits < 32) return false;
  code->from_bits = from.bits;
  code->bits = to.bits;
  code->is_signed = from.is_signed;
  return true;
}

static bool read_arithmetic(struct gb_ptx_reader *reader, struct gb_ptx_code *code, struct statement *s) {
  if (s->operand_count < 2) return s->operand_count == 1 && read_results(reader, code, s->operands[0]);
  struct type type = type_of(s->parts[s->part_count - 1]);
  code->bits = type.bits;
  code->is_signed = type.is_signed;
  code->wide = has(s, "wide");
  if (!read_results(reader, code, s->operands[0])) return false;
  if (!is_followed(code, s, type)) code->op = GB_PTX_OPAQUE;
  for (uint32_t i = 1; code->op != GB_PTX_OPAQUE && i < s->operand_count && i <= 3; i++)
    code->from[i - 1] = operand_of(reader, s->operands[i]);
  return true;
}

/* ---- statements ---- */

static bool read_guard(struct gb_ptx_reader *reader, struct gb_ptx_code *code, char **text) {
  char *at = *text;
  code->guard = GB_PTX_NONE;
  if (*at != '@') return true;
  code->guard_negated = *++at == '!';
  at += code->guard_negated;
  char *end = at + strcspn(at, " \t\r\n");
  if (*end == '\0' || *at != '%') return false;
  *end = '\0';
  code->guard = register_of(reader, at);
  *text = trim(end + 1);
  return code->guard != GB_PTX_NONE;
}

static bool read_code(struct gb_ptx_reader *reader, struct gb_ptx_code *code, struct statement *s) {
  const char *name = s->parts[0];
  if (strcmp(name, "ld") == 0 || strcmp(name, "ldu") == 0) return read_memory(reader, code, s, GB_PTX_LOAD);
  if (strcmp(name, "st") == 0) return read_memory(reader, code, s, GB_PTX_STORE);
  if (strcmp(name, "atom") == 0 || strcmp(name, "red") == 0) return read_memory(reader, code, s, GB_PTX_ATOMIC);
  if (strcmp(name, "ret") == 0 || strcmp(name, "exit") == 0 || strcmp(name, "trap") == 0) {
    code->op = GB_PTX_EXIT;
    return s->operand_count == 0;
  }
  if (strcmp(name, "bra") == 0) {
    code->op = GB_PTX_BRANCH;
    reader->names[reader->kernel->count] = s->operands[0];
    return s->operand_count == 1;
  }
  for (size_t i = 0; i < sizeof arithmetic / sizeof arithmetic[0]; i++) {
    if (strcmp(name, arithmetic[i].name) != 0) continue;
    code->op = arithmetic[i].op;
    return read_arithmetic(reader, code, s);
  }
  code->op = GB_PTX_OPAQUE;
  if (IS_IN(name, opaque)) return read_arithmetic(reader, code, s);
  code->op = GB_PTX_NOTHING;
  return IS_IN(name, nothing) && !has(s, "red");
}

bool gb_ptx_label(struct gb_ptx_reader *reader, char *name) {
  if (reader->label_count == GB_PTX_LABELS_MAX) return false;
  reader->labels[reader->label_count].name = name;
  reader->labels[reader->label_count++].at = reader->kernel->count;
  return true;
}

bool gb_ptx_statement(struct gb_ptx_reader *reader, char *text) {
  struct gb_ptx_code code = {0};
  struct statement s = {0};
  text = trim(text);
  if (reader->kernel->count == GB_PTX_CODE_MAX || !read_guard(reader, &code, &text)) return false;
  if (!split(&s, text) || !read_code(reader, &code, &s)) return false;
  reader->kernel->code[reader->kernel->count++] = code;
  return true;
}
