/* SPDX-License-Identifier: Apache-2.0 */
/* images.c: see images.h. */
#define _GNU_SOURCE
#include "images.h"

#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "lane.h"

#define PLACES (sizeof(((struct gbx_images *)NULL)->places) / sizeof(struct gbx_image *))
/* Zeroes behind an image: the end of a text, and nothing foreign for a loader that reads on. */
#define BEHIND_BYTES 4096u
/* What a program holds while it runs: a magic, a version, and a pointer. Never an image. */
#define FATBIN_WRAPPER 0x466243b1u
#define FATBIN 0xba55ed50u

_Static_assert(GB_RUN_IMAGE_BLOCK_BYTES == GBX_BLOCK_BYTES, "images are cached by the cache's blocks");
_Static_assert(GB_RUN_DIGEST_BYTES == GBX_DIGEST_BYTES && GBX_DIGEST_BYTES == GB_LANE_DIGEST_BYTES, "digests");

struct gbx_image {
  struct gbx_image *next;
  uint8_t digest[GBX_DIGEST_BYTES];
  uint64_t bytes;
  uint32_t block_count;
  uint32_t missing; /* blocks */
  uint8_t *digests; /* of the blocks; gone when it is whole */
  uint32_t *filled; /* bytes of each block that are there */
  uint8_t *memory;  /* whole blocks and BEHIND_BYTES; gone when it is loaded */
  bool is_loaded;
  CUresult refused; /* why the driver does not load it */
  CUlibrary library;
  CUmodule module; /* of a driver without libraries */
};

static const struct gbx_outcome ok = {GB_RUN_OK, 0};

static struct gbx_outcome failed(enum gb_run_status status) {
  return (struct gbx_outcome){status, 0};
}

/* What a driver answers about code that this GPU, or this driver, cannot run. */
static struct gbx_outcome from_cuda(CUresult result) {
  switch (result) {
  case CUDA_SUCCESS:
    return ok;
  case CUDA_ERROR_NOT_FOUND:
    return (struct gbx_outcome){GB_RUN_NOT_FOUND, result};
  case CUDA_ERROR_INVALID_IMAGE:
  case CUDA_ERROR_NO_BINARY_FOR_GPU:
  case CUDA_ERROR_INVALID_PTX:
  case CUDA_ERROR_UNSUPPORTED_PTX_VERSION:
  case CUDA_ERROR_JIT_COMPILER_NOT_FOUND:
  case CUDA_ERROR_JIT_COMPILATION_DISABLED:
  case CUDA_ERROR_INVALID_SOURCE:
  case CUDA_ERROR_NOT_SUPPORTED:
    return (struct gbx_outcome){GB_RUN_UNSUPPORTED, result};
  default:
    return (struct gbx_outcome){GB_RUN_FAILED, result};
  }
}

/* ---- the table ---- */

static struct gbx_image **place_of(struct gbx_images *images, const uint8_t *digest) {
  uint32_t place;
  memcpy(&place, digest, sizeof(place));
  return &images->places[place % PLACES];
}

static struct gbx_image *find(struct gbx_images *images, const uint8_t *digest) {
  struct gbx_image *image = *place_of(images, digest);
  while (image && memcmp(image->digest, digest, sizeof(image->digest)) != 0)
    image = image->next;
  return image;
}

static uint64_t memory_bytes(const struct gbx_image *image) {
  return (uint64_t)image->block_count * GBX_BLOCK_BYTES + BEHIND_BYTES;
}

/* Gives back what only putting together needs. */
static void drop_parts(struct gbx_image *image) {
  free(image->digests);
  free(image->filled);
  image->digests = NULL;
  image->filled = NULL;
}

static void drop_memory(struct gbx_image *image) {
  if (image->memory)
    munmap(image->memory, memory_bytes(image));
  image->memory = NULL;
}

static void forget(struct gbx_images *images, struct gbx_image *image) {
  struct gbx_image **at = place_of(images, image->digest);
  while (*at != image)
    at = &(*at)->next;
  *at = image->next;
  images->count--;
  images->bytes -= image->bytes;
  drop_parts(image);
  drop_memory(image);
  free(image);
}

/* Pages of its memory exist once something has been written to them. */
static bool make_parts(struct gbx_image *image, const uint8_t *digests) {
  image->digests = malloc((size_t)image->block_count * GBX_DIGEST_BYTES);
  image->filled = calloc(image->block_count, sizeof(*image->filled));
  void *memory = mmap(NULL, memory_bytes(image), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                      -1, 0);
  image->memory = memory == MAP_FAILED ? NULL : memory;
  if (!image->digests || !image->filled || !image->memory)
    return false;
  memcpy(image->digests, digests, (size_t)image->block_count * GBX_DIGEST_BYTES);
  return true;
}

static struct gbx_image *add(struct gbx_images *images, const struct gb_run_image *wanted, const uint8_t *digests) {
  uint64_t most = (uint64_t)GB_RUN_IMAGES_BYTES_MAX_MIB << 20;
  if (images->count == GB_RUN_IMAGES_MAX || wanted->bytes > most - images->bytes)
    return NULL;
  struct gbx_image *image = calloc(1, sizeof(*image));
  if (!image)
    return NULL;
  memcpy(image->digest, wanted->digest, sizeof(image->digest));
  image->bytes = wanted->bytes;
  image->block_count = image->missing = wanted->block_count;
  struct gbx_image **place = place_of(images, image->digest);
  image->next = *place;
  *place = image;
  images->count++;
  images->bytes += image->bytes;
  if (make_parts(image, digests))
    return image;
  forget(images, image);
  return NULL;
}

/* ---- blocks ---- */

/* Bytes of the image that lie in a block. */
static uint32_t block_bytes(const struct gbx_image *image, uint32_t block) {
  uint64_t from = (uint64_t)block * GBX_BLOCK_BYTES;
  return image->bytes - from < GBX_BLOCK_BYTES ? (uint32_t)(image->bytes - from) : GBX_BLOCK_BYTES;
}

static bool has_block(const struct gbx_image *image, uint32_t block) {
  return !image->filled || image->filled[block] == block_bytes(image, block);
}

struct found {
  struct gbx_image *image;
  const uint32_t *blocks; /* that were asked for */
};

/* A block that the cache knows; it has proven the digest. */
static void take_block(void *context, unsigned index, const uint8_t *content) {
  const struct found *found = context;
  struct gbx_image *image = found->image;
  uint32_t block = found->blocks[index];
  memcpy(image->memory + (uint64_t)block * GBX_BLOCK_BYTES, content, block_bytes(image, block));
  image->filled[block] = block_bytes(image, block);
  image->missing--;
}

/* Looks for the blocks in the cache of which nothing has come yet. */
static void fill_from_cache(struct gbx_images *images, struct gbx_image *image) {
  uint8_t digests[GBX_CACHE_READS_MAX * GBX_DIGEST_BYTES];
  uint32_t blocks[GBX_CACHE_READS_MAX];
  unsigned count = 0;
  struct found found = {image, blocks};
  for (uint32_t block = 0; block < image->block_count; block++) {
    if (image->filled[block] == 0) {
      memcpy(digests + (size_t)count * GBX_DIGEST_BYTES, image->digests + (size_t)block * GBX_DIGEST_BYTES,
             GBX_DIGEST_BYTES);
      blocks[count++] = block;
    }
    if (count == GBX_CACHE_READS_MAX || (block + 1 == image->block_count && count > 0)) {
      gbx_cache_fill(images->cache, digests, count, take_block, &found);
      count = 0;
    }
  }
}

/* Looks whether the whole is what its name says; a wrong one is forgotten, and may be sent again. */
static struct gbx_outcome prove(struct gbx_images *images, struct gbx_image *image) {
  uint8_t digest[GBX_DIGEST_BYTES];
  if (gb_lane_digest(image->memory, image->bytes, digest) != GB_LANE_OK ||
      memcmp(digest, image->digest, sizeof(digest)) != 0) {
    forget(images, image);
    return failed(GB_RUN_INVALID);
  }
  drop_parts(image);
  return ok;
}

/* Proves a block that has come whole, and gives it to the cache. */
static struct gbx_outcome end_block(struct gbx_images *images, struct gbx_image *image, uint32_t block) {
  uint8_t digest[GBX_DIGEST_BYTES];
  uint8_t *content = image->memory + (uint64_t)block * GBX_BLOCK_BYTES;
  if (gb_lane_digest(content, GBX_BLOCK_BYTES, digest) != GB_LANE_OK ||
      memcmp(digest, image->digests + (size_t)block * GBX_DIGEST_BYTES, sizeof(digest)) != 0) {
    image->filled[block] = 0;
    memset(content, 0, GBX_BLOCK_BYTES);
    return failed(GB_RUN_INVALID);
  }
  gbx_cache_keep(images->cache, digest, content);
  return --image->missing == 0 ? prove(images, image) : ok;
}

struct gbx_outcome gbx_images_part(struct gbx_images *images, const struct gb_run_image_part *part,
                                   const uint8_t *bytes) {
  struct gbx_image *image = find(images, part->digest);
  if (!image)
    return failed(GB_RUN_NOT_FOUND);
  if (part->offset >= image->bytes || part->length > image->bytes - part->offset)
    return failed(GB_RUN_INVALID);
  uint32_t block = (uint32_t)(part->offset / GBX_BLOCK_BYTES);
  uint32_t in_block = (uint32_t)(part->offset % GBX_BLOCK_BYTES);
  if (has_block(image, block) || in_block + part->length <= image->filled[block])
    return ok;
  if (in_block > image->filled[block])
    return failed(GB_RUN_INVALID);
  uint32_t there = image->filled[block] - in_block;
  memcpy(image->memory + part->offset + there, bytes + there, part->length - there);
  image->filled[block] = in_block + (uint32_t)part->length;
  return has_block(image, block) ? end_block(images, image, block) : ok;
}

/* ---- loading ---- */

static bool ends_within(uint64_t from, uint64_t count, uint64_t each, uint64_t bytes) {
  return from <= bytes && count * each <= bytes - from; /* counts are of 16 bits */
}

/* How many sections an image has, whose table lies within it; UINT64_MAX: it does not. */
static uint64_t sections_of(const Elf64_Ehdr *header, const uint8_t *memory, uint64_t bytes) {
  Elf64_Shdr first;
  if (header->e_shoff == 0)
    return header->e_shnum == 0 ? 0 : UINT64_MAX;
  if (header->e_shentsize != sizeof(first) || !ends_within(header->e_shoff, 1, sizeof(first), bytes))
    return UINT64_MAX;
  memcpy(&first, memory + header->e_shoff, sizeof(first));
  uint64_t count = header->e_shnum != 0 ? header->e_shnum : first.sh_size; /* more than 16 bits can say */
  return count <= (bytes - header->e_shoff) / sizeof(first) ? count : UINT64_MAX;
}

/* The loader believes the sizes in an image: they must not lead out of it. */
static bool is_sane_elf(const uint8_t *memory, uint64_t bytes) {
  Elf64_Ehdr header;
  if (bytes < sizeof(header))
    return false;
  memcpy(&header, memory, sizeof(header));
  uint64_t sections = sections_of(&header, memory, bytes);
  if (header.e_ident[EI_CLASS] != ELFCLASS64 || sections == UINT64_MAX ||
      !ends_within(header.e_phoff, header.e_phnum, header.e_phentsize, bytes))
    return false;
  for (uint64_t index = 0; index < sections; index++) {
    Elf64_Shdr section;
    memcpy(&section, memory + header.e_shoff + index * sizeof(section), sizeof(section));
    if (section.sh_type != SHT_NOBITS && !ends_within(section.sh_offset, 1, section.sh_size, bytes))
      return false;
  }
  return true;
}

static bool is_sane_fatbin(const uint8_t *memory, uint64_t bytes) {
  struct {
    uint32_t magic;
    uint16_t version, header_bytes;
    uint64_t bytes;
  } header;
  if (bytes < sizeof(header))
    return false;
  memcpy(&header, memory, sizeof(header));
  return header.header_bytes >= sizeof(header) && ends_within(header.header_bytes, 1, header.bytes, bytes);
}

static bool is_sane(const uint8_t *memory, uint64_t bytes) {
  uint32_t magic;
  memcpy(&magic, memory, sizeof(magic)); /* there is as much memory, however short the image */
  if (magic == FATBIN)
    return is_sane_fatbin(memory, bytes);
  if (memcmp(memory, ELFMAG, SELFMAG) == 0)
    return is_sane_elf(memory, bytes);
  return magic != FATBIN_WRAPPER;
}

/* Loads an image that is whole, once. */
static struct gbx_outcome load(struct gbx_images *images, struct gbx_image *image) {
  const struct gbx_driver *driver = images->driver;
  if (image->missing > 0)
    return failed(GB_RUN_NOT_FOUND);
  if (image->is_loaded || image->refused != CUDA_SUCCESS)
    return from_cuda(image->refused);
  CUresult result = CUDA_ERROR_INVALID_IMAGE;
  if (is_sane(image->memory, image->bytes)) {
    result = CUDA_ERROR_NOT_SUPPORTED;
    if (driver->cuLibraryLoadData && driver->cuLibraryGetKernel && driver->cuKernelGetFunction &&
        driver->cuLibraryGetGlobal)
      result = driver->cuLibraryLoadData(&image->library, image->memory, NULL, NULL, 0, NULL, NULL, 0);
    if (result == CUDA_ERROR_NOT_SUPPORTED)
      result = driver->cuModuleLoadData(&image->module, image->memory);
  }
  struct gbx_outcome outcome = from_cuda(result);
  image->is_loaded = result == CUDA_SUCCESS;
  if (outcome.status == GB_RUN_UNSUPPORTED)
    image->refused = result;
  if (outcome.status != GB_RUN_FAILED) /* what failed for want of memory may be tried again */
    drop_memory(image);
  return outcome;
}

struct gbx_outcome gbx_images_offer(struct gbx_images *images, const struct gb_run_image *wanted,
                                    const uint8_t *digests, uint8_t *bitmap) {
  struct gbx_image *image = find(images, wanted->digest);
  if (!image)
    image = add(images, wanted, digests);
  if (!image)
    return failed(GB_RUN_LIMIT);
  if (image->bytes != wanted->bytes)
    return failed(GB_RUN_INVALID);
  if (image->missing > 0) {
    fill_from_cache(images, image);
    struct gbx_outcome proven = image->missing == 0 ? prove(images, image) : ok;
    if (proven.status != GB_RUN_OK)
      return proven;
  }
  for (uint32_t block = 0; image->missing > 0 && block < image->block_count; block++)
    bitmap[block / 8] |= (uint8_t)(!has_block(image, block) << block % 8);
  return image->missing == 0 ? load(images, image) : ok;
}

/* ---- kernels and variables ---- */

static uint64_t param_bytes_of(const struct gbx_driver *driver, CUfunction function) {
  uint64_t end = 0;
  size_t offset = 0, bytes = 0;
  if (!driver->cuFuncGetParamInfo)
    return UINT64_MAX;
  for (size_t index = 0; driver->cuFuncGetParamInfo(function, index, &offset, &bytes) == CUDA_SUCCESS; index++) {
    if (offset + bytes > end)
      end = offset + bytes;
  }
  return end;
}

/* Loads the image of that name; *image is it where that went well. */
static struct gbx_outcome load_named(struct gbx_images *images, const uint8_t *digest, struct gbx_image **image) {
  *image = find(images, digest);
  return *image ? load(images, *image) : failed(GB_RUN_NOT_FOUND);
}

struct gbx_outcome gbx_images_function(struct gbx_images *images, const uint8_t *digest, const char *name,
                                       CUfunction *function, uint64_t *param_bytes) {
  const struct gbx_driver *driver = images->driver;
  struct gbx_image *image;
  struct gbx_outcome loaded = load_named(images, digest, &image);
  if (loaded.status != GB_RUN_OK)
    return loaded;
  CUresult result;
  if (image->library) {
    CUkernel kernel = NULL;
    result = driver->cuLibraryGetKernel(&kernel, image->library, name);
    if (result == CUDA_SUCCESS)
      result = driver->cuKernelGetFunction(function, kernel);
  } else {
    result = driver->cuModuleGetFunction(function, image->module, name);
  }
  if (result == CUDA_SUCCESS)
    *param_bytes = param_bytes_of(driver, *function);
  return from_cuda(result);
}

struct gbx_outcome gbx_images_symbol(struct gbx_images *images, const uint8_t *digest, const char *name,
                                     CUdeviceptr *address, size_t *bytes) {
  const struct gbx_driver *driver = images->driver;
  struct gbx_image *image;
  struct gbx_outcome loaded = load_named(images, digest, &image);
  if (loaded.status != GB_RUN_OK)
    return loaded;
  return from_cuda(image->library ? driver->cuLibraryGetGlobal(address, bytes, image->library, name)
                                  : driver->cuModuleGetGlobal_v2(address, bytes, image->module, name));
}

void gbx_images_open(struct gbx_images *images, const struct gbx_driver *driver, struct gbx_block_cache *cache) {
  *images = (struct gbx_images){.driver = driver, .cache = cache};
}

void gbx_images_close(struct gbx_images *images) {
  for (size_t place = 0; place < PLACES; place++) {
    while (images->places[place])
      forget(images, images->places[place]);
  }
}
