/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stat and its kin are functions of glibc since 2.33; before, they were inline. Natives that are packaged bring their
 * own, hidden from everybody else (portable.mk). On x86-64 the kernel fills the C library's struct.
 */
#define _GNU_SOURCE
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

int stat(const char *path, struct stat *into) { return (int)syscall(SYS_stat, path, into); }
int lstat(const char *path, struct stat *into) { return (int)syscall(SYS_lstat, path, into); }
int fstat(int fd, struct stat *into) { return (int)syscall(SYS_fstat, fd, into); }
int fstatat(int fd, const char *path, struct stat *into, int flags) {
  return (int)syscall(SYS_newfstatat, fd, path, into, flags);
}
