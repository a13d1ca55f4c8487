/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dlsym.c: our own dlsym, exported in both versions glibc has (a binary binds to the one it was
 * linked with).
 *
 * RTLD_DEFAULT and RTLD_NEXT are answered by the real dlsym, reached by a jump: it finds out who
 * asks from the return address, which must be the program's. Only look-ups in an explicit handle
 * can yield a wrapper. Nothing here takes a lock, loads a library or starts anything.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>

#include "hooks.h"

typedef void *(*dlsym_function)(void *handle, const char *name);

/* Sanitizers look their own functions up, through our dlsym, before they work. */
#define GB_PLAIN __attribute__((no_sanitize("address", "undefined", "thread")))

/* Used by the assembler below. */
dlsym_function gb_dlsym_real;
void *gb_dlsym_find(void);
void *gb_dlsym_handle(void *handle, const char *name);

GB_PLAIN static void *no_dlsym(void *handle, const char *name) {
  (void)handle;
  (void)name;
  return NULL;
}

/* Finds the next dlsym after ours. Without a once-guard: dlvsym takes the loader's lock, and a
 * thread that waited for a guard under that lock would never get it. Threads that race store the
 * same value. */
GB_PLAIN void *gb_dlsym_find(void) {
  static const char *const versions[] = {"GLIBC_2.34", "GLIBC_2.17", "GLIBC_2.2.5"};
  dlsym_function found = __atomic_load_n(&gb_dlsym_real, __ATOMIC_RELAXED);
  for (size_t i = 0; found == NULL && i < sizeof versions / sizeof versions[0]; i++)
    found = (dlsym_function)dlvsym(RTLD_NEXT, "dlsym", versions[i]);
  if (found == NULL) return (void *)no_dlsym;
  __atomic_store_n(&gb_dlsym_real, found, __ATOMIC_RELAXED);
  return (void *)found;
}

GB_PLAIN dlsym_function gb_dlsym(void) { return (dlsym_function)gb_dlsym_find(); }

GB_PLAIN void *gb_dlsym_handle(void *handle, const char *name) {
  return gb_route_symbol(name, gb_dlsym()(handle, name));
}

#if defined(__x86_64__)
__asm__(
    ".text\n"
    ".p2align 4\n"
    ".globl gb_dlsym_new\n"
    ".globl gb_dlsym_old\n"
    ".hidden gb_dlsym_real\n"
    ".hidden gb_dlsym_find\n"
    ".hidden gb_dlsym_handle\n"
    ".type gb_dlsym_new, @function\n"
    ".type gb_dlsym_old, @function\n"
    "gb_dlsym_new:\n"
    "gb_dlsym_old:\n"
    ".cfi_startproc\n"
    "  lea 1(%rdi), %rax\n" /* RTLD_NEXT is -1, RTLD_DEFAULT is 0 */
    "  cmp $1, %rax\n"
    "  ja gb_dlsym_handle\n"
    "  mov gb_dlsym_real(%rip), %rax\n"
    "  test %rax, %rax\n"
    "  jne 1f\n"
    "  push %rdi\n"
    ".cfi_adjust_cfa_offset 8\n"
    "  push %rsi\n"
    ".cfi_adjust_cfa_offset 8\n"
    "  sub $8, %rsp\n"
    ".cfi_adjust_cfa_offset 8\n"
    "  call gb_dlsym_find\n"
    "  add $8, %rsp\n"
    ".cfi_adjust_cfa_offset -8\n"
    "  pop %rsi\n"
    ".cfi_adjust_cfa_offset -8\n"
    "  pop %rdi\n"
    ".cfi_adjust_cfa_offset -8\n"
    "1:\n"
    "  jmp *%rax\n"
    ".cfi_endproc\n"
    ".size gb_dlsym_new, .-gb_dlsym_new\n"
    ".size gb_dlsym_old, .-gb_dlsym_old\n"
    ".symver gb_dlsym_new, dlsym@@GLIBC_2.34\n"
    ".symver gb_dlsym_old, dlsym@GLIBC_2.2.5\n");
#else
#error "The dlsym entry is written for x86-64: other machines need their own jump and versions."
#endif
