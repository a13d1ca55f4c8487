/* SPDX-License-Identifier: Apache-2.0 */
/*
 * model.c: random calls of virtual memory management by a program that knows every byte and every
 * answer: reservations, handles of many sizes, mappings (also two of one memory, and of exported and
 * imported handles), wrong calls, and kernels, copies and fills on what is mapped, across handles.
 *
 * usage: model MODULE SEED STEPS LIMIT_MIB (more than so much is never alive)
 */
#include "../soak/soak.h"

#define GRANULE (2 * MIB)
#define AREAS 4u
#define AREA_GRANULES 80u
#define MEMORIES 24u
#define HANDLES 40u
#define MAPS 64u
#define WORK_WORDS_MAX 3000u

struct memory {
  uint64_t *host; /* NULL: none */
  uint64_t bytes;
  unsigned handles, maps;
  bool exportable, filled;
};
struct handle {
  CUmemGenericAllocationHandle value;
  struct memory *memory; /* NULL: none */
};
struct map {
  CUdeviceptr at;
  struct memory *memory; /* NULL: none */
  bool granted;
};
struct area {
  CUdeviceptr base; /* 0: none */
  uint64_t bytes;
};

static uint64_t random_state, alive_bytes, limit_bytes;
static struct memory memories[MEMORIES];
static struct handle handles[HANDLES];
static struct map maps[MAPS];
static struct area areas[AREAS];
static CUstream stream;
static CUdevice device;
static unsigned launches, mapped, unmapped, shared, refused, wrong;

static uint64_t below(uint64_t limit) { return soak_below(&random_state, limit); }
static void settle(void) { OK(cuStreamSynchronize(stream)); }

#define IS(call, expected) is((call), expected, #call, __LINE__)
static void is(CUresult result, CUresult expected, const char *call, int line) {
  CHECK(result == expected, "line %d: %s: %d, not %d", line, call, result, expected);
}

/* ---- what is there ---- */

static struct map *map_at(CUdeviceptr address) {
  for (unsigned i = 0; i < MAPS; i++)
    if (maps[i].memory != NULL && address - maps[i].at < maps[i].memory->bytes) return &maps[i];
  return NULL;
}

static uint64_t *word_at(CUdeviceptr address) {
  struct map *map = map_at(address);
  return &map->memory->host[(address - map->at) / 8];
}

static struct map *some_map(bool granted) {
  for (unsigned tries = 0; tries < 200; tries++) {
    struct map *map = &maps[below(MAPS)];
    if (map->memory != NULL && (map->granted || !granted)) return map;
  }
  return NULL;
}

/* Words from here on that are mapped and granted, across mappings. */
static uint64_t reach(CUdeviceptr address, uint64_t most) {
  uint64_t words = 0;
  while (words < most) {
    const struct map *map = map_at(address + words * 8);
    if (map == NULL || !map->granted) break;
    words += (map->memory->bytes - (address + words * 8 - map->at)) / 8;
  }
  return words < most ? words : most;
}

static CUdeviceptr some_address(void) {
  const struct map *map = some_map(true);
  if (map == NULL) return 0;
  /* Near the end: what follows may be another handle's. */
  const uint64_t words = map->memory->bytes / 8;
  return map->at + 8 * (below(2) == 0 ? below(words) : words - 1 - below(WORK_WORDS_MAX));
}

static void drop_if_over(struct memory *memory) {
  if (memory->handles != 0 || memory->maps != 0) return;
  alive_bytes -= memory->bytes;
  free(memory->host);
  *memory = (struct memory){0};
}

/* ---- handles ---- */

static struct handle *free_handle(void) {
  for (unsigned i = 0; i < HANDLES; i++)
    if (handles[i].memory == NULL) return &handles[i];
  return NULL;
}

static uint64_t some_bytes(void) {
  switch (below(8)) {
    case 0: return (3 + below(10)) * GRANULE;
    case 1: return 10 * GRANULE;
    case 2: return below(6) == 0 ? 50 * GRANULE : GRANULE; /* more than a chunk */
    default: return (1 + below(4)) * GRANULE;
  }
}

static void create(void) {
  struct handle *handle = free_handle();
  struct memory *memory = NULL;
  for (unsigned i = 0; i < MEMORIES; i++)
    if (memories[i].host == NULL) memory = &memories[i];
  const uint64_t bytes = some_bytes();
  if (handle == NULL || memory == NULL || alive_bytes + bytes > limit_bytes) return;
  CUmemAllocationProp properties = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                    .location = {CU_MEM_LOCATION_TYPE_DEVICE, device}};
  const bool exportable = below(2) == 0;
  if (exportable) properties.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
  const CUresult result = cuMemCreate(&handle->value, bytes, &properties, 0);
  if (result == CUDA_ERROR_OUT_OF_MEMORY) {
    refused++;
    return;
  }
  if (!OK(result)) return;
  handle->memory = memory;
  *memory = (struct memory){malloc(bytes), bytes, 1, 0, exportable, false};
  alive_bytes += bytes;
}

static void release(void) {
  struct handle *handle = &handles[below(HANDLES)];
  if (handle->memory == NULL) return;
  OK(cuMemRelease(handle->value));
  handle->memory->handles--;
  drop_if_over(handle->memory);
  handle->memory = NULL;
}

static void retain(void) {
  const struct map *map = some_map(false);
  struct handle *handle = free_handle();
  if (map == NULL || handle == NULL) return;
  if (!OK(cuMemRetainAllocationHandle(&handle->value, (void *)(uintptr_t)(map->at + 4096)))) return;
  handle->memory = map->memory;
  handle->memory->handles++;
}

/* Another handle of the same memory, by way of a descriptor. */
static void share(void) {
  struct handle *from = &handles[below(HANDLES)], *to = free_handle();
  int descriptor = -1;
  if (from->memory == NULL || to == NULL) return;
  const CUresult result = cuMemExportToShareableHandle(
      &descriptor, from->value, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0);
  if (!from->memory->exportable) {
    is(result, CUDA_ERROR_INVALID_VALUE, "export of what was not asked for", __LINE__);
    return;
  }
  if (result == CUDA_ERROR_OUT_OF_MEMORY) { /* no room for a second copy */
    refused++;
    return;
  }
  if (!OK(result)) return;
  OK(cuMemImportFromShareableHandle(&to->value, (void *)(uintptr_t)descriptor,
                                    CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR));
  close(descriptor);
  to->memory = from->memory;
  to->memory->handles++;
  shared++;
}

/* ---- mappings ---- */

static CUdeviceptr some_hole(uint64_t bytes) {
  for (unsigned tries = 0; tries < 60; tries++) {
    const struct area *area = &areas[below(AREAS)];
    if (area->base == 0 || bytes > area->bytes) continue;
    const CUdeviceptr at = area->base + below((area->bytes - bytes) / GRANULE + 1) * GRANULE;
    CUdeviceptr to = at;
    while (to < at + bytes && map_at(to) == NULL) to += GRANULE;
    if (to >= at + bytes) return at;
  }
  return 0;
}

static void grant(struct map *map) {
  CUmemAccessDesc access = {{CU_MEM_LOCATION_TYPE_DEVICE, device},
                            CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
  unsigned long long flags = 9;
  settle();
  OK(cuMemGetAccess(&flags, &access.location, map->at));
  CHECK(flags == (map->granted ? 3 : 0), "access before: %llu", flags);
  if (map->granted && below(2) == 0) access.flags = CU_MEM_ACCESS_FLAGS_PROT_NONE;
  const CUresult result = cuMemSetAccess(map->at, map->memory->bytes, &access, 1);
  if (result == CUDA_ERROR_OUT_OF_MEMORY) { /* only where the driver fails on purpose */
    refused++;
    return;
  }
  OK(result);
  map->granted = access.flags == CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
}

static void fill(struct map *map) {
  const unsigned char value = (unsigned char)below(256);
  OK(cuMemsetD8Async(map->at, value, map->memory->bytes, stream));
  memset(map->memory->host, value, map->memory->bytes);
}

static void map_one(void) {
  const struct handle *handle = &handles[below(HANDLES)];
  struct map *map = NULL;
  for (unsigned i = 0; i < MAPS; i++)
    if (maps[i].memory == NULL) map = &maps[i];
  if (handle->memory == NULL || map == NULL || (handle->memory->maps > 0 && below(4) != 0)) return;
  const bool fresh = handle->memory->maps == 0;
  const CUdeviceptr at = some_hole(handle->memory->bytes);
  if (at == 0) return;
  const CUresult result = cuMemMap(at, handle->memory->bytes, 0, handle->value, 0);
  if (result == CUDA_ERROR_OUT_OF_MEMORY) { /* no room for a second copy */
    refused++;
    return;
  }
  if (!OK(result)) return;
  *map = (struct map){at, handle->memory, false};
  handle->memory->maps++;
  mapped++;
  grant(map);
  if (!map->granted) return;
  if (!map->memory->filled || (fresh && below(4) == 0)) fill(map); /* else: what it held before */
  map->memory->filled = true;
}

static void unmap_at(struct map *map) {
  map->memory->maps--;
  drop_if_over(map->memory);
  map->memory = NULL;
  unmapped++;
}

/* One mapping, or one and its neighbour in one call. */
static void unmap(void) {
  struct map *map = some_map(false), *next = NULL;
  if (map == NULL) return;
  settle();
  uint64_t bytes = map->memory->bytes;
  if (below(3) == 0) next = map_at(map->at + bytes);
  if (next != NULL) bytes += next->memory->bytes;
  if (!OK(cuMemUnmap(map->at, bytes))) return;
  unmap_at(map);
  if (next != NULL) unmap_at(next);
}

static void reserve_or_free(void) {
  struct area *area = &areas[below(AREAS)];
  if (area->base == 0) {
    area->bytes = (AREA_GRANULES / 2 + below(AREA_GRANULES)) * GRANULE;
    const uint64_t alignment = below(3) == 0 ? 16 * MIB : 0;
    OK(cuMemAddressReserve(&area->base, area->bytes, alignment, 0, 0));
    CHECK(alignment == 0 || area->base % alignment == 0, "alignment");
    return;
  }
  bool used = false;
  for (unsigned i = 0; i < MAPS; i++)
    used |= maps[i].memory != NULL && maps[i].at - area->base < area->bytes;
  IS(cuMemAddressFree(area->base, area->bytes), used ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS);
  if (!used) area->base = 0;
}

/* ---- wrong calls: the driver's error, and nothing happens ---- */

static void wrong_call(void) {
  const struct handle *handle = &handles[below(HANDLES)];
  const struct map *map = some_map(false);
  CUmemAccessDesc access = {{CU_MEM_LOCATION_TYPE_DEVICE, device},
                            CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
  if (handle->memory == NULL || map == NULL) return;
  const uint64_t bytes = handle->memory->bytes;
  const CUdeviceptr hole = some_hole(bytes + GRANULE);
  wrong++;
  switch (below(6)) {
    case 0: IS(cuMemMap(map->at, bytes, 0, handle->value, 0), CUDA_ERROR_INVALID_VALUE); break;
    case 1:
      if (hole != 0)
        IS(cuMemMap(hole, bytes + GRANULE, 0, handle->value, 0), CUDA_ERROR_NOT_SUPPORTED);
      break;
    case 2:
      if (hole != 0)
        IS(cuMemMap(hole, bytes, GRANULE, handle->value, 0), CUDA_ERROR_INVALID_VALUE);
      break;
    case 3:
      if (map->memory->bytes > GRANULE)
        IS(cuMemUnmap(map->at, map->memory->bytes - GRANULE), CUDA_ERROR_INVALID_VALUE);
      break;
    case 4:
      if (hole != 0) IS(cuMemSetAccess(hole, bytes, &access, 1), CUDA_ERROR_INVALID_VALUE);
      break;
    default: IS(cuMemFree(map->at), CUDA_ERROR_INVALID_VALUE); break;
  }
}

/* ---- work ---- */

static void launch(CUdeviceptr to, CUdeviceptr from) {
  uint64_t words = reach(to, 1 + below(WORK_WORDS_MAX)), seed = below(1u << 20);
  words = reach(from, words);
  if (words == 0) return;
  OK(soak_launch_mix(to, from, words, seed, stream));
  for (uint64_t i = 0; i < words; i++) {
    uint64_t *word = word_at(to + i * 8);
    *word = *word * 3 + *word_at(from + i * 8) + seed;
  }
  launches++;
}

static void compare(CUdeviceptr at, uint64_t words) {
  uint64_t *got = malloc(words * 8 + 8);
  OK(cuMemcpyDtoHAsync(got, at, words * 8, stream));
  settle();
  uint64_t wrong_words = 0;
  for (uint64_t i = 0; i < words; i++) wrong_words += got[i] != *word_at(at + i * 8);
  CHECK(wrong_words == 0, "%llu of %llu words at 0x%llx differ", (unsigned long long)wrong_words,
        (unsigned long long)words, at);
  free(got);
}

static void write_words(CUdeviceptr at, uint64_t words) {
  uint64_t *sent = malloc(words * 8 + 8);
  for (uint64_t i = 0; i < words; i++) *word_at(at + i * 8) = sent[i] = below(UINT64_MAX);
  OK(cuMemcpyHtoDAsync(at, sent, words * 8, stream));
  settle();
  free(sent);
}

/* Rounds over everything in one order, which the staging engine learns. */
static void rounds(void) {
  const CUdeviceptr sum = some_address();
  for (uint64_t round = 2 + below(8); round > 0 && sum != 0; round--)
    for (unsigned i = 0; i < MAPS; i++) {
      if (maps[i].memory == NULL || !maps[i].granted) continue;
      launch(sum, maps[i].at);
      if (below(6) == 0) launch(maps[i].at, sum);
    }
}

static void work(void) {
  const CUdeviceptr at = some_address(), other = some_address();
  if (at == 0) return;
  const uint64_t words = reach(at, 1 + below(GRANULE / 4));
  switch (below(6)) {
    case 0: compare(at, words); break;
    case 1: write_words(at, words < 4096 ? words : 4096); break;
    case 2: rounds(); break;
    default: launch(at, other); break;
  }
}

static void step(void) {
  switch (below(16)) {
    case 0:
    case 1: create(); break;
    case 2: release(); break;
    case 3: retain(); break;
    case 4: if (below(3) == 0) share(); break;
    case 5:
    case 6: map_one(); break;
    case 7: unmap(); break;
    case 8: if (below(4) == 0) reserve_or_free(); break;
    case 9: wrong_call(); break;
    case 10: {
      struct map *map = some_map(false);
      if (map != NULL && map->memory->filled && below(3) == 0) grant(map);
      break;
    }
    default: work(); break;
  }
}

static void close_all(void) {
  settle();
  for (unsigned i = 0; i < MAPS; i++) {
    if (maps[i].memory == NULL) continue;
    if (maps[i].granted) compare(maps[i].at, maps[i].memory->bytes / 8);
    OK(cuMemUnmap(maps[i].at, maps[i].memory->bytes));
    unmap_at(&maps[i]);
  }
  for (unsigned i = 0; i < HANDLES; i++) {
    if (handles[i].memory == NULL) continue;
    OK(cuMemRelease(handles[i].value));
    handles[i].memory->handles--;
    drop_if_over(handles[i].memory);
  }
  for (unsigned i = 0; i < AREAS; i++)
    if (areas[i].base != 0) OK(cuMemAddressFree(areas[i].base, areas[i].bytes));
}

int main(int count, char **arguments) {
  size_t before = 0, after = 0;
  if (count != 5) return 2;
  random_state = (strtoull(arguments[2], NULL, 0) + 1) * 0x9e3779b97f4a7c15ull;
  limit_bytes = strtoull(arguments[4], NULL, 0) * MIB;
  soak_open(arguments[1], 240);
  OK(cuCtxGetDevice(&device));
  OK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
  OK(cuMemGetInfo(&before, NULL));
  for (unsigned i = 0; i < AREAS; i++) {
    areas[i].bytes = AREA_GRANULES * GRANULE;
    OK(cuMemAddressReserve(&areas[i].base, areas[i].bytes, 0, 0, 0));
  }
  for (uint64_t n = strtoull(arguments[3], NULL, 0); n > 0 && check_failures == 0; n--) step();
  close_all();
  OK(cuMemGetInfo(&after, NULL));
  CHECK(alive_bytes == 0 && before == after, "free before %zu, after %zu, alive %llu", before,
        after, (unsigned long long)alive_bytes);
  printf("launches %u, mapped %u, unmapped %u, shared %u, refused %u, wrong calls %u; ", launches,
         mapped, unmapped, shared, refused, wrong);
  return CHECK_RESULT();
}
