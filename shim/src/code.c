/* SPDX-License-Identifier: Apache-2.0 */
/* code.c: what this process keeps of the program's code. */
#include "code.h"

_Atomic bool gb_code_kept;

void gb_code_start(bool wanted) { (void)wanted; }
void gb_code_loaded(void *handle, const void *image, bool file) { (void)handle, (void)image, (void)file; }
void gb_code_unloading(void *handle) { (void)handle; }
void gb_code_function(void *handle, void *from) { (void)handle, (void)from; }
void gb_code_set_attribute(void *function, int attribute, int value) { (void)function, (void)attribute, (void)value; }
void gb_code_variable(uint64_t address, uint64_t bytes, void *from, const char *name) {
  (void)address, (void)bytes, (void)from, (void)name;
}
void gb_code_bound_here(void *from) { (void)from; }
const struct gb_code *gb_code_of(CUfunction function) {
  (void)function;
  return NULL;
}
uint32_t gb_code_attributes(const struct gb_code *code, struct gb_code_attribute list[GB_CODE_ATTRIBUTES_MAX],
                            uint32_t *version) {
  (void)code, (void)list;
  *version = 0;
  return 0;
}
bool gb_code_symbol_at(uint64_t address, struct gb_code_symbol *symbol) {
  (void)address, (void)symbol;
  return false;
}
