/* SPDX-License-Identifier: Apache-2.0 */
/*
 * code.h: the program's code as another machine needs it (docs/adr/0013): images by their SHA-256, functions by
 * image and name, their parameters and attributes. Kept only when launches may be dispatched (gb_code_wanted).
 *
 *   image loaded -> gb_code_loaded (bytes copied, hashed)  function handle -> gb_code_of  unloaded -> forgotten, bytes
 *   kept while somebody needs them
 */
#ifndef GB_CODE_H
#define GB_CODE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core.h"

#define GB_CODE_DIGEST_BYTES 32u
#define GB_CODE_PARAMS_MAX 4096u
#define GB_CODE_ATTRIBUTES_MAX 16u

/* Whose functions run elsewhere: those of every context (merged), or of one device's (devices.h). */
#define GB_CODE_ANY 0u
#define GB_CODE_GROUPS 8u

struct gb_image {
  uint8_t digest[GB_CODE_DIGEST_BYTES]; /* SHA-256 of `bytes` */
  uint64_t bytes;
  const uint8_t *content; /* ours; an ELF, a PTX text with its NUL, or a whole fatbin */
};

struct gb_code_param {
  uint32_t offset; /* in the buffer of CU_LAUNCH_PARAM_BUFFER_POINTER */
  uint32_t bytes;
};

/* A function that can run elsewhere. Never changes but for its attributes, and is never freed. */
struct gb_code {
  uint32_t number; /* of this function in this process, from 1 on, never used twice; at most GB_RUN_FUNCTIONS_MAX */
  _Atomic uint32_t attributes_version; /* changes with its attributes */
  const struct gb_image *image;
  const char *name;
  uint32_t param_count;
  uint32_t param_bytes; /* of the whole buffer */
  const struct gb_code_param *params;
};

struct gb_code_attribute {
  int32_t attribute; /* CUfunction_attribute */
  int32_t value;
};

/* A write of the host to a variable of a module. */
struct gb_code_symbol {
  const struct gb_image *image;
  const char *name;
  uint64_t offset;
  uint32_t group; /* whose variable it is */
};

/* From cuInit on: whether images are kept. Before the first module is loaded. */
void gb_code_start(bool wanted);
extern _Atomic bool gb_code_kept;
static inline bool gb_code_wanted(void) {
  return atomic_load_explicit(&gb_code_kept, memory_order_relaxed);
}

/* Wrappers tell what was loaded, by its handle (module or library), and what goes. `image`: as the driver takes it;
 * with `file` it is a path. group: of a module, its context's; of a library, and in merged mode, GB_CODE_ANY. */
void gb_code_loaded(void *handle, const void *image, bool file, uint32_t group);
void gb_code_unloading(void *handle);
/* A kernel or function handle was got from a module, a library or another handle. */
void gb_code_function(void *handle, void *from);
/* The program sets an attribute of a function, or has got the address of a module's variable. */
void gb_code_set_attribute(void *function, int attribute, int value);
void gb_code_variable(uint64_t address, uint64_t bytes, void *from, const char *name, uint32_t group);
/* The group's contexts are gone, and their variables with them. */
void gb_code_group_gone(uint32_t group);
/* The program binds textures or surfaces to the module's references: its functions run here only. */
void gb_code_bound_here(void *from);

/* The function of a handle (CUfunction or CUkernel), or NULL when its code or parameters are not known. Fast after
 * the first time. Any thread. */
const struct gb_code *gb_code_of(CUfunction function);
/* Its attributes now, those that were set, and their version. returns: how many. */
uint32_t gb_code_attributes(const struct gb_code *code, struct gb_code_attribute list[GB_CODE_ATTRIBUTES_MAX],
                            uint32_t *version);
/* The program has made a texture or surface object: kernels name it by a number that means nothing elsewhere, so that
 * from now on no code is known. */
void gb_code_objects_made(void);
/* The variable that holds the address. returns: false when it is none. */
bool gb_code_symbol_at(uint64_t address, struct gb_code_symbol *symbol);

#endif
