/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ptx.h: one kernel of a PTX text, as far as reach.c follows it: integers, predicates, branches, and what loads and
 * stores. What it does not know well enough makes the kernel unknown, never something else.
 *
 * pure: no driver call, no lock. The text is the program's: any bytes are harmless.
 */
#ifndef GB_PTX_H
#define GB_PTX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GB_PTX_CODE_MAX 4096u
#define GB_PTX_REGISTERS_MAX 512u
#define GB_PTX_BLOCKS_MAX 256u
#define GB_PTX_PARAMS_MAX 64u
#define GB_PTX_NONE UINT32_MAX

enum gb_ptx_op {
  GB_PTX_NOTHING, /* no register, no memory */
  GB_PTX_OPAQUE,  /* writes its registers; what is not known */
  GB_PTX_MOV,     /* also cvta */
  GB_PTX_CVT,
  GB_PTX_ADD,
  GB_PTX_SUB,
  GB_PTX_MUL,
  GB_PTX_MAD,
  GB_PTX_SHL,
  GB_PTX_SHR,
  GB_PTX_AND,
  GB_PTX_DIV,
  GB_PTX_REM,
  GB_PTX_MIN,
  GB_PTX_MAX,
  GB_PTX_SETP,
  GB_PTX_PARAM, /* ld.param */
  GB_PTX_LOAD,  /* of global memory */
  GB_PTX_STORE,
  GB_PTX_ATOMIC, /* both; also red */
  GB_PTX_BRANCH,
  GB_PTX_EXIT,
};

enum gb_ptx_compare { GB_PTX_EQ, GB_PTX_NE, GB_PTX_LT, GB_PTX_LE, GB_PTX_GT, GB_PTX_GE };

enum gb_ptx_special { GB_PTX_TID, GB_PTX_CTAID, GB_PTX_NTID, GB_PTX_NCTAID };

enum gb_ptx_kind { GB_PTX_UNKNOWN, GB_PTX_REGISTER, GB_PTX_NUMBER, GB_PTX_SPECIAL };

struct gb_ptx_operand {
  enum gb_ptx_kind kind;
  uint32_t index; /* of a register; of a special one: 4 * dimension + enum gb_ptx_special */
  uint64_t number;
};

struct gb_ptx_code {
  enum gb_ptx_op op;
  enum gb_ptx_compare compare;
  bool is_signed, wide, is_float, guard_negated;
  uint8_t bits;      /* of the operands */
  uint8_t from_bits; /* cvt: of the source */
  uint32_t guard;    /* predicate register, or GB_PTX_NONE */
  uint32_t results[8]; /* registers written: of a vector more than one */
  uint32_t result_count;
  struct gb_ptx_operand from[3]; /* a load's or store's address is from[0] */
  int64_t offset;                /* of an address; of a parameter: in the buffer */
  uint32_t bytes;                /* of a load or store */
  uint32_t target;               /* of a branch */
};

/* A run of instructions without a branch but the last: code[first] to code[end - 1]. next: blocks that may follow it,
 * GB_PTX_NONE behind the kernel's end or where there is no second one; the first of a conditional branch is its target.
 * after: the block every way from here leads through, or GB_PTX_NONE: the end. */
struct gb_ptx_block {
  uint32_t first, end;
  uint32_t next[2];
  uint32_t after;
};

struct gb_ptx {
  struct gb_ptx_code *code;
  uint32_t count;
  struct gb_ptx_block blocks[GB_PTX_BLOCKS_MAX];
  uint32_t block_count;
  uint32_t register_count;
};

/* params: where each parameter begins in the buffer, as the driver says. owns: gb_ptx_free. returns: NULL: no such
 * kernel, or one that does what is not known here. */
struct gb_ptx *gb_ptx_read(const char *text, const char *name, const uint32_t *params, uint32_t param_count);
void gb_ptx_free(struct gb_ptx *kernel);

#endif
