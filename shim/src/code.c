/* SPDX-License-Identifier: Apache-2.0 */
/*
 * code.c: the images that the program loads: how long they are, copies of them, their names by content. The driver
 * has taken an image before it is looked at here, so its own sizes are believed, up to the limit.
 */
#include "code_part.h"

#include <ctype.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lane.h"

#define FATBIN_WRAPPER 0x466243b1u
#define FATBIN_MAGIC 0xba55ed50u

struct fatbin_wrapper {
  uint32_t magic;
  uint32_t version;
  const void *data;
};

struct fatbin_header {
  uint32_t magic;
  uint16_t version;
  uint16_t header_bytes;
  uint64_t bytes; /* behind the header */
};

_Atomic bool gb_code_kept;
static _Atomic uint64_t kept_bytes;
static _Atomic bool told;
static struct gb_code_image *images; /* hashed; by the lock of code_functions.c */

void gb_code_start(bool wanted) {
  atomic_store_explicit(&gb_code_kept, wanted, memory_order_release);
}

/* ---- how long it is ---- */

static uint64_t larger(uint64_t one, uint64_t other) {
  return one > other ? one : other;
}

/* The end of `count` entries at `offset`; UINT64_MAX when that makes no sense. */
static uint64_t end_of(uint64_t offset, uint64_t count, uint64_t bytes) {
  if (offset > GB_CODE_IMAGE_BYTES_MAX || count > GB_CODE_IMAGE_BYTES_MAX || bytes > GB_CODE_IMAGE_BYTES_MAX)
    return UINT64_MAX;
  return offset + count * bytes;
}

/* An ELF carries no length: it ends where the last of its tables and sections ends. room: bytes that may be read. */
static uint64_t elf_bytes(const uint8_t *image, uint64_t room) {
  Elf64_Ehdr header;
  if (room < sizeof header) return 0;
  memcpy(&header, image, sizeof header);
  if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_ident[EI_DATA] != ELFDATA2LSB) return 0;
  uint64_t sections = header.e_shnum;
  uint64_t tables = larger(end_of(header.e_shoff, larger(sections, 1), sizeof(Elf64_Shdr)),
                           end_of(header.e_phoff, header.e_phnum, sizeof(Elf64_Phdr)));
  if (header.e_shoff == 0 || header.e_shentsize != sizeof(Elf64_Shdr) || tables > room) return 0;
  if (header.e_phnum > 0 && header.e_phentsize != sizeof(Elf64_Phdr)) return 0;
  Elf64_Shdr section;
  memcpy(&section, image + header.e_shoff, sizeof section);
  if (sections == 0) sections = section.sh_size; /* more than 16 bits can say */
  uint64_t end = larger(tables, end_of(header.e_shoff, sections, sizeof section));
  if (end > room) return 0;
  for (uint64_t i = 0; i < sections; i++) {
    memcpy(&section, image + header.e_shoff + i * sizeof section, sizeof section);
    if (section.sh_type != SHT_NOBITS && section.sh_type != SHT_NULL)
      end = larger(end, end_of(section.sh_offset, 1, section.sh_size));
  }
  for (uint64_t i = 0; i < header.e_phnum; i++) {
    Elf64_Phdr segment;
    memcpy(&segment, image + header.e_phoff + i * sizeof segment, sizeof segment);
    end = larger(end, end_of(segment.p_offset, 1, segment.p_filesz));
  }
  return end <= room ? end : 0;
}

/* Sections of variables: .nv.global, .nv.global.init, .nv.constant3 (__constant__). Arguments (bank 0) and literals
 * (bank 2) are no state. */
static bool is_state(const char *section) {
  if (strncmp(section, ".nv.constant", 12) == 0) return section[12] != '0' && section[12] != '2';
  return strncmp(section, ".nv.global", 10) == 0;
}

/* pre: elf_bytes found the image whole. */
static bool elf_is_stateless(const uint8_t *image) {
  Elf64_Ehdr header;
  Elf64_Shdr names;
  memcpy(&header, image, sizeof header);
  if (header.e_shnum == 0 || header.e_shstrndx >= header.e_shnum) return false;
  memcpy(&names, image + header.e_shoff + header.e_shstrndx * sizeof names, sizeof names);
  if (names.sh_size == 0 || image[names.sh_offset + names.sh_size - 1] != '\0') return false;
  for (uint64_t i = 0; i < header.e_shnum; i++) {
    Elf64_Shdr section;
    memcpy(&section, image + header.e_shoff + i * sizeof section, sizeof section);
    if (section.sh_name >= names.sh_size || is_state((const char *)image + names.sh_offset + section.sh_name))
      return false;
  }
  return true;
}

/* Text as the PTX assembler takes it, with its NUL. */
static uint64_t ptx_bytes(const uint8_t *image, uint64_t room) {
  uint64_t length = strnlen((const char *)image, room);
  if (length == 0 || length == room) return 0;
  for (uint64_t i = 0; i < length && i < 64; i++) {
    if (!isprint(image[i]) && !isspace(image[i])) return 0;
  }
  return strstr((const char *)image, ".version") != NULL ? length + 1 : 0;
}

/* Sets *start to where the image itself begins, and returns its bytes; 0: no kind that is known. A wrapper points
 * elsewhere: it is no kind of file, and files leave less room. */
static uint64_t measure(const uint8_t *image, uint64_t room, const uint8_t **start) {
  struct fatbin_wrapper wrapper;
  struct fatbin_header header;
  uint32_t magic = 0;
  *start = image;
  if (room < sizeof magic) return 0;
  memcpy(&magic, image, sizeof magic);
  if (magic == FATBIN_WRAPPER && room == GB_CODE_IMAGE_BYTES_MAX) {
    memcpy(&wrapper, image, sizeof wrapper);
    image = *start = wrapper.data;
    if (image == NULL) return 0;
    memcpy(&magic, image, sizeof magic);
  }
  if (magic == FATBIN_MAGIC) {
    if (room < sizeof header) return 0;
    memcpy(&header, image, sizeof header);
    uint64_t end = end_of(header.header_bytes, 1, header.bytes);
    return header.header_bytes >= sizeof header && end <= room ? end : 0;
  }
  return memcmp(image, ELFMAG, SELFMAG) == 0 ? elf_bytes(image, room) : ptx_bytes(image, room);
}

/* ---- copies ---- */

/* Takes the bytes into account. returns: false beyond the limit. */
static bool reserve(uint64_t bytes) {
  if (atomic_fetch_add(&kept_bytes, bytes) + bytes <= GB_CODE_BYTES_MAX) return true;
  atomic_fetch_sub(&kept_bytes, bytes);
  if (!atomic_exchange(&told, true))
    gb_event(GB_LOG_WARN, CUDA_SUCCESS, "code_not_kept",
             "the program has loaded more than %llu MiB of code: what it loads from now on runs here only",
             (unsigned long long)(GB_CODE_BYTES_MAX >> 20));
  return false;
}

void gb_code_image_free(struct gb_code_image *image) {
  if (image == NULL) return;
  atomic_fetch_sub(&kept_bytes, image->is.bytes);
  free((void *)image->is.content);
  free(image);
}

static struct gb_code_image *copy_memory(const uint8_t *from, uint64_t room) {
  const uint8_t *start = NULL;
  uint64_t bytes = measure(from, room, &start);
  if (bytes == 0 || bytes > GB_CODE_IMAGE_BYTES_MAX || !reserve(bytes)) return NULL;
  struct gb_code_image *image = calloc(1, sizeof *image);
  uint8_t *content = malloc(bytes);
  if (image == NULL || content == NULL) {
    free(image);
    free(content);
    atomic_fetch_sub(&kept_bytes, bytes);
    return NULL;
  }
  memcpy(content, start, bytes);
  image->stateless = memcmp(content, ELFMAG, SELFMAG) == 0 && elf_is_stateless(content);
  image->is.bytes = bytes;
  image->is.content = content;
  return image;
}

static bool read_whole(int fd, uint8_t *memory, uint64_t bytes) {
  for (uint64_t done = 0; done < bytes;) {
    ssize_t got = read(fd, memory + done, bytes - done);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    done += (uint64_t)got;
  }
  return true;
}

static struct gb_code_image *copy_file(const char *path) {
  struct gb_code_image *image = NULL;
  struct stat about;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  bool fits = fd >= 0 && fstat(fd, &about) == 0 && S_ISREG(about.st_mode) && about.st_size > 0 &&
              (uint64_t)about.st_size + 1 < GB_CODE_IMAGE_BYTES_MAX;
  uint64_t bytes = fits ? (uint64_t)about.st_size : 0;
  uint8_t *memory = fits ? malloc(bytes + 1) : NULL;
  if (memory != NULL && read_whole(fd, memory, bytes)) {
    memory[bytes] = '\0';
    image = copy_memory(memory, bytes + 1);
  }
  free(memory);
  if (fd >= 0) close(fd);
  return image;
}

struct gb_code_image *gb_code_image_copy(const void *image, bool file) {
  return file ? copy_file(image) : copy_memory(image, GB_CODE_IMAGE_BYTES_MAX);
}

struct gb_code_image *gb_code_image_hash(struct gb_code_image *image) {
  if (image == NULL || image->hashed) return image;
  if (gb_lane_digest(image->is.content, image->is.bytes, image->is.digest) != GB_LANE_OK) {
    gb_code_image_free(image);
    return NULL;
  }
  for (struct gb_code_image *same = images; same != NULL; same = same->next) {
    if (memcmp(same->is.digest, image->is.digest, sizeof image->is.digest) != 0) continue;
    gb_code_image_free(image);
    return same;
  }
  image->hashed = true;
  image->next = images;
  images = image;
  return image;
}
