/* SPDX-License-Identifier: Apache-2.0 */
/* code_test.c: what the shim keeps of a program's code, on the simulated driver. argv[1]: an object of kernels. */
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "../check.h"
#include "../programs/kernels.h"
#include "code.h"
#include "gb_abi.h"
#include "lane.h"
#include "peer.h"

static const char ptx[] = PTX_HEAD PTX_FILL PTX_MIX_PAIR ".global .align 8 .b8 table[64];\n";
static const char other_ptx[] = PTX_HEAD PTX_FILL PTX_EMPTY;
static const char *object_path;
static uint8_t *object;
static size_t object_bytes;

static bool read_object(const char *path) {
  FILE *file = fopen(path, "rb");
  if (file == NULL) return false;
  object = malloc(16 << 20);
  object_bytes = object != NULL ? fread(object, 1, 16 << 20, file) : 0;
  fclose(file);
  return object_bytes > 0 && object_bytes < 16 << 20;
}

static bool is_image(const struct gb_code *code, const void *bytes, size_t length) {
  uint8_t digest[GB_LANE_DIGEST_BYTES];
  return code != NULL && code->image->bytes == length && memcmp(code->image->content, bytes, length) == 0 &&
         gb_lane_digest(bytes, length, digest) == GB_LANE_OK &&
         memcmp(digest, code->image->digest, sizeof digest) == 0;
}

static const struct gb_code *code_of(CUmodule module, const char *name) {
  CUfunction function = NULL;
  return cuModuleGetFunction(&function, module, name) == CUDA_SUCCESS ? gb_code_of(function) : NULL;
}

static void ptx_is_kept(void) {
  CUmodule module;
  REQUIRE(cuModuleLoadData(&module, ptx) == CUDA_SUCCESS);
  const struct gb_code *fill = code_of(module, "gb_fill");
  const struct gb_code *mix = code_of(module, "gb_mix");
  CHECK(is_image(fill, ptx, sizeof ptx)); /* with its NUL */
  REQUIRE(fill != NULL && mix != NULL);
  CHECK(fill->image == mix->image && fill->number != mix->number);
  CHECK(strcmp(fill->name, "gb_fill") == 0 && strcmp(mix->name, "gb_mix") == 0);
  REQUIRE(fill->param_count == 3 && mix->param_count == 1);
  for (uint32_t i = 0; i < 3; i++) CHECK(fill->params[i].offset == i * 8 && fill->params[i].bytes == 8);
  CHECK(fill->param_bytes == 24 && mix->param_bytes == 32 && mix->params[0].bytes == 32);
  CHECK(code_of(module, "gb_fill") == fill);
  CHECK_EQUAL(cuModuleUnload(module), CUDA_SUCCESS);
}

/* The same bytes again, after they have gone: the same function. */
static void loads_are_recognised(void) {
  CUmodule module;
  CUmodule other;
  REQUIRE(cuModuleLoadDataEx(&module, ptx, 0, NULL, NULL) == CUDA_SUCCESS);
  const struct gb_code *first = code_of(module, "gb_fill");
  /* A second load at the same time has variables of its own: it runs here. */
  REQUIRE(cuModuleLoadFatBinary(&other, ptx) == CUDA_SUCCESS);
  CHECK(first != NULL && code_of(other, "gb_fill") == NULL);
  CHECK_EQUAL(cuModuleUnload(other), CUDA_SUCCESS);
  CHECK_EQUAL(cuModuleUnload(module), CUDA_SUCCESS);
  REQUIRE(cuModuleLoadData(&module, ptx) == CUDA_SUCCESS);
  CHECK(code_of(module, "gb_fill") == first);
  CHECK_EQUAL(cuModuleUnload(module), CUDA_SUCCESS);
  REQUIRE(cuModuleLoadData(&module, other_ptx) == CUDA_SUCCESS);
  const struct gb_code *fill = code_of(module, "gb_fill");
  CHECK(fill != NULL && fill != first && is_image(fill, other_ptx, sizeof other_ptx));
  CHECK_EQUAL(cuModuleUnload(module), CUDA_SUCCESS);
}

static void objects_are_measured(void) {
  CUmodule module;
  CUlibrary library;
  CUkernel kernel;
  uint8_t *longer = malloc(object_bytes + 4096);
  REQUIRE(longer != NULL);
  memcpy(longer, object, object_bytes);
  memset(longer + object_bytes, 0x5a, 4096); /* not a part of it */
  REQUIRE(cuModuleLoadData(&module, longer) == CUDA_SUCCESS);
  const struct gb_code *code = code_of(module, "touch_when");
  CHECK(code != NULL && code->image->bytes <= object_bytes && object_bytes - code->image->bytes < 16);
  CHECK(code != NULL && memcmp(code->image->content, object, code->image->bytes) == 0);
  CHECK(code != NULL && code->param_count == 3 && code->param_bytes == 24);
  CHECK_EQUAL(cuModuleUnload(module), CUDA_SUCCESS);
  free(longer);
  REQUIRE(cuModuleLoad(&module, object_path) == CUDA_SUCCESS);
  CHECK(code_of(module, "touch_when") == code);
  CHECK_EQUAL(cuModuleUnload(module), CUDA_SUCCESS);
  REQUIRE(cuLibraryLoadFromFile(&library, object_path, NULL, NULL, 0, NULL, NULL, 0) == CUDA_SUCCESS);
  REQUIRE(cuLibraryGetKernel(&kernel, library, "touch_when") == CUDA_SUCCESS);
  CHECK(gb_code_of((CUfunction)kernel) == code);
  CHECK_EQUAL(cuLibraryUnload(library), CUDA_SUCCESS);
}

static void libraries_are_kept(void) {
  CUlibrary library;
  CUkernel kernels[2];
  CUfunction function;
  CUmodule module;
  REQUIRE(cuLibraryLoadData(&library, ptx, NULL, NULL, 0, NULL, NULL, 0) == CUDA_SUCCESS);
  REQUIRE(cuLibraryEnumerateKernels(kernels, 2, library) == CUDA_SUCCESS);
  REQUIRE(cuKernelGetFunction(&function, kernels[0]) == CUDA_SUCCESS);
  REQUIRE(cuLibraryGetModule(&module, library) == CUDA_SUCCESS);
  const struct gb_code *code = gb_code_of((CUfunction)kernels[0]);
  CHECK(is_image(code, ptx, sizeof ptx));
  CHECK(gb_code_of(function) == code && code_of(module, "gb_fill") == code);
  CHECK(gb_code_of((CUfunction)kernels[1]) != NULL && gb_code_of((CUfunction)kernels[1]) != code);
  CHECK_EQUAL(cuLibraryUnload(library), CUDA_SUCCESS);
  CHECK(gb_code_of((CUfunction)kernels[1]) == NULL);
}

/* ---- containers ---- */

struct header {
  uint32_t magic;
  uint16_t version, header_bytes;
  uint64_t bytes;
};
struct entry {
  uint16_t kind, version;
  uint32_t header_bytes;
  uint64_t bytes;
  uint32_t compressed_bytes, reserved;
};
struct wrapper {
  uint32_t magic, version;
  const void *data;
  void *unused;
};

/* A fat binary of one PTX text. returns: its bytes. */
static size_t make_fatbin(uint8_t *to) {
  struct entry entry = {1, 0x101, sizeof entry, (sizeof ptx + 7) & ~7ull, 0, 0};
  struct header header = {0xba55ed50u, 1, sizeof header, sizeof entry + entry.bytes};
  memcpy(to, &header, sizeof header);
  memcpy(to + sizeof header, &entry, sizeof entry);
  memset(to + sizeof header + sizeof entry, 0, entry.bytes);
  memcpy(to + sizeof header + sizeof entry, ptx, sizeof ptx);
  return sizeof header + header.bytes;
}

static void fatbins_are_kept_whole(void) {
  static uint8_t bytes[8192];
  static uint8_t copy[8192];
  size_t length = make_fatbin(bytes);
  struct wrapper wrapper = {0x466243b1u, 1, bytes, NULL};
  CUmodule module;
  memcpy(copy, bytes, sizeof bytes);
  REQUIRE(cuModuleLoadData(&module, bytes) == CUDA_SUCCESS);
  memset(bytes, 0, 4); /* what is kept is our own */
  const struct gb_code *code = code_of(module, "gb_fill");
  CHECK(is_image(code, copy, length));
  CHECK_EQUAL(cuModuleUnload(module), CUDA_SUCCESS);
  memcpy(bytes, copy, 4);
  REQUIRE(cuModuleLoadFatBinary(&module, &wrapper) == CUDA_SUCCESS);
  CHECK(code_of(module, "gb_fill") == code);
  CHECK_EQUAL(cuModuleUnload(module), CUDA_SUCCESS);
}

/* ---- what does not go elsewhere ---- */

static void errors_pass_through(void) {
  CUmodule module = NULL;
  CUfunction function = NULL;
  CHECK(cuModuleLoadData(&module, NULL) != CUDA_SUCCESS);
  CHECK(cuModuleLoadData(NULL, ptx) != CUDA_SUCCESS);
  CHECK(cuModuleLoad(&module, "/nowhere/at/all") != CUDA_SUCCESS);
  REQUIRE(cuModuleLoadData(&module, ptx) == CUDA_SUCCESS);
  CHECK_EQUAL(cuModuleGetFunction(&function, module, "not_there"), CUDA_ERROR_NOT_FOUND);
  CHECK(cuModuleGetFunction(NULL, module, "gb_fill") != CUDA_SUCCESS);
  CHECK(cuFuncSetAttribute(NULL, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 1) != CUDA_SUCCESS);
  CHECK(gb_code_of(NULL) == NULL && gb_code_of((CUfunction)&function) == NULL);
  CHECK_EQUAL(cuModuleUnload(module), CUDA_SUCCESS);
  CHECK(cuModuleUnload(module) != CUDA_SUCCESS);
}

static void bound_modules_run_here(void) {
  CUmodule module;
  REQUIRE(cuModuleLoadData(&module, other_ptx) == CUDA_SUCCESS);
  CHECK(code_of(module, "gb_fill") != NULL);
  gb_code_bound_here(module);
  CHECK(code_of(module, "gb_fill") == NULL && code_of(module, "gb_empty") == NULL);
  CHECK_EQUAL(cuModuleUnload(module), CUDA_SUCCESS);
}

/* ---- attributes and variables ---- */

static void attributes_are_kept(void) {
  CUmodule module;
  CUfunction function;
  struct gb_code_attribute list[GB_CODE_ATTRIBUTES_MAX];
  uint32_t version = 0;
  uint32_t later = 0;
  REQUIRE(cuModuleLoadData(&module, ptx) == CUDA_SUCCESS);
  REQUIRE(cuModuleGetFunction(&function, module, "gb_mix") == CUDA_SUCCESS);
  REQUIRE(cuFuncSetAttribute(function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 70000) == CUDA_SUCCESS);
  REQUIRE(cuFuncSetCacheConfig(function, CU_FUNC_CACHE_PREFER_SHARED) == CUDA_SUCCESS);
  const struct gb_code *code = gb_code_of(function);
  REQUIRE(code != NULL && gb_code_attributes(code, list, &version) == 2);
  CHECK(list[0].attribute == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES && list[0].value == 70000);
  CHECK(list[1].attribute == CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT && list[1].value == 100);
  REQUIRE(cuFuncSetAttribute(function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 70000) == CUDA_SUCCESS);
  CHECK(gb_code_attributes(code, list, &later) == 2 && later == version);
  REQUIRE(cuKernelSetAttribute(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 80000, (CUkernel)function, 0) ==
          CUDA_SUCCESS);
  CHECK(gb_code_attributes(code, list, &later) == 2 && later != version && list[0].value == 80000);
  CHECK_EQUAL(cuModuleUnload(module), CUDA_SUCCESS);
}

/* Of an image that nobody else here has loaded: the host may have written its variable, and nobody loads it afresh. */
static void variables_are_found(void) {
  static const char text[] = PTX_HEAD ".global .align 8 .b8 table[64];\n.global .align 4 .u32 flag;\n" PTX_EMPTY;
  CUmodule module;
  CUdeviceptr table = 0;
  CUdeviceptr flag = 0;
  size_t bytes = 0;
  struct gb_code_symbol symbol;
  REQUIRE(cuModuleLoadData(&module, text) == CUDA_SUCCESS);
  REQUIRE(cuModuleGetGlobal_v2(&table, NULL, module, "table") == CUDA_SUCCESS);
  REQUIRE(cuModuleGetGlobal_v2(&flag, &bytes, module, "flag") == CUDA_SUCCESS);
  REQUIRE(cuModuleGetGlobal_v2(NULL, &bytes, module, "table") == CUDA_SUCCESS && bytes == 64);
  REQUIRE(gb_code_symbol_at(table + 40, &symbol));
  CHECK(strcmp(symbol.name, "table") == 0 && symbol.offset == 40);
  const struct gb_code *code = code_of(module, "gb_empty");
  CHECK(code != NULL && symbol.image == code->image && code->param_count == 0);
  REQUIRE(gb_code_symbol_at(flag, &symbol));
  CHECK(strcmp(symbol.name, "flag") == 0 && symbol.offset == 0);
  CHECK(!gb_code_symbol_at(table + 64, &symbol) || symbol.offset != 64);
  CHECK(!gb_code_symbol_at(4096, &symbol));
  CHECK_EQUAL(cuModuleUnload(module), CUDA_SUCCESS);
  CHECK(!gb_code_symbol_at(table, &symbol) && !gb_code_symbol_at(flag, &symbol));
  REQUIRE(cuModuleLoadData(&module, text) == CUDA_SUCCESS);
  CHECK(code_of(module, "gb_empty") == NULL);
  CHECK_EQUAL(cuModuleUnload(module), CUDA_SUCCESS);
}

/* ---- threads ---- */

static CUfunction steady;
static const struct gb_code *steady_code;
static _Atomic bool over;

static void *look_up(void *unused) {
  (void)unused;
  uintptr_t wrong = 0;
  while (!over) wrong += gb_code_of(steady) != steady_code;
  return (void *)wrong;
}

/* Look-ups go on while other code comes and goes. */
static void look_ups_need_no_lock(void) {
  CUmodule module;
  CUmodule passing;
  pthread_t threads[2];
  REQUIRE(cuModuleLoadData(&module, ptx) == CUDA_SUCCESS);
  REQUIRE(cuModuleGetFunction(&steady, module, "gb_fill") == CUDA_SUCCESS);
  steady_code = gb_code_of(steady);
  REQUIRE(steady_code != NULL);
  for (int i = 0; i < 2; i++) REQUIRE(pthread_create(&threads[i], NULL, look_up, NULL) == 0);
  for (int i = 0; i < 300; i++) {
    REQUIRE(cuModuleLoadData(&passing, other_ptx) == CUDA_SUCCESS);
    CHECK(code_of(passing, "gb_fill") != NULL && code_of(passing, "gb_empty") != NULL);
    REQUIRE(cuModuleUnload(passing) == CUDA_SUCCESS);
  }
  over = true;
  for (int i = 0; i < 2; i++) {
    void *wrong = NULL;
    pthread_join(threads[i], &wrong);
    CHECK(wrong == NULL);
  }
  CHECK_EQUAL(cuModuleUnload(module), CUDA_SUCCESS);
}

/* A texture object is a number to a kernel, which means nothing elsewhere. */
static void objects_end_it(void) {
  CUmodule module;
  REQUIRE(cuModuleLoadData(&module, ptx) == CUDA_SUCCESS);
  CHECK(code_of(module, "gb_fill") != NULL && gb_code_wanted());
  gb_code_objects_made();
  CHECK(code_of(module, "gb_fill") == NULL && !gb_code_wanted());
  CHECK_EQUAL(cuModuleUnload(module), CUDA_SUCCESS);
}

/* Without GREENBOOST_REMOTE=merged, or where it cannot be. */
static void nothing_is_kept(void) {
  CUmodule module;
  CUdeviceptr table = 0;
  struct gb_code_symbol symbol;
  CHECK(!gb_code_wanted());
  REQUIRE(cuModuleLoadData(&module, ptx) == CUDA_SUCCESS);
  CHECK(code_of(module, "gb_fill") == NULL);
  REQUIRE(cuModuleGetGlobal_v2(&table, NULL, module, "table") == CUDA_SUCCESS);
  CHECK(!gb_code_symbol_at(table, &symbol));
  CHECK_EQUAL(cuModuleUnload(module), CUDA_SUCCESS);
}

int main(int count, char **arguments) {
  CUcontext context;
  bool off = count == 3 && strcmp(arguments[2], "off") == 0;
  if (count < 2 || !read_object(object_path = arguments[1])) return 2;
  bool listens = peer_start(GB_FEATURE_GATED | GB_FEATURE_DISPATCH);
  if (!listens || cuInit(0) != CUDA_SUCCESS || cuCtxCreate_v2(&context, 0, 0) != CUDA_SUCCESS) {
    fprintf(stderr, "the simulated driver or the shim does not start\n");
    return 2;
  }
  if (off) {
    RUN(nothing_is_kept);
    peer_stop();
    return check_done();
  }
  RUN(ptx_is_kept);
  RUN(loads_are_recognised);
  RUN(objects_are_measured);
  RUN(libraries_are_kept);
  RUN(fatbins_are_kept_whole);
  RUN(errors_pass_through);
  RUN(bound_modules_run_here);
  RUN(attributes_are_kept);
  RUN(variables_are_found);
  RUN(look_ups_need_no_lock);
  RUN(objects_end_it);
  peer_stop();
  return check_done();
}
