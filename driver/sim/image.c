/* SPDX-License-Identifier: Apache-2.0 */
/*
 * image.c: reads program images: a shared object with kernels (gbsim_kernel.h), or PTX text whose
 * entries are bound to their C twins in libgbsim_twins.so, which lies beside this library.
 */
#include <ctype.h>
#include <dlfcn.h>
#include <elf.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "sim.h"

#define IMAGE_BYTES_MAX (256ull << 20)
#define FATBIN_WRAPPER 0x466243b1u
#define FATBIN_MAGIC 0xba55ed50u
#define PTX_WORD_MAX 256
#define KERNEL_PREFIX "gbsim_kernel_"
#define GLOBAL_PREFIX "gbsim_global_"

/* ---- twins ---- */

const struct gbsim_kernel *sim_twin(const char *name) {
  static void *library; /* locks: sim_lock */
  if (library == NULL) {
    Dl_info self;
    char path[4096] = "libgbsim_twins.so";
    if (dladdr((void *)sim_twin, &self) != 0 && self.dli_fname != NULL) {
      const char *slash = strrchr(self.dli_fname, '/');
      if (slash != NULL && (size_t)(slash - self.dli_fname) < sizeof path - 32)
        snprintf(path, sizeof path, "%.*s/libgbsim_twins.so", (int)(slash - self.dli_fname),
                 self.dli_fname);
    }
    const char *chosen = getenv("GBSIM_TWINS");
    library = dlopen(chosen != NULL ? chosen : path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
      sim_log(1, "no twins: %s", dlerror());
      return NULL;
    }
  }
  char symbol[320];
  snprintf(symbol, sizeof symbol, KERNEL_PREFIX "%s", name);
  const struct gbsim_kernel *kernel = dlsym(library, symbol);
  return kernel != NULL && kernel->version == GBSIM_KERNEL_VERSION &&
                 kernel->param_count <= GBSIM_PARAM_COUNT_MAX
             ? kernel
             : NULL;
}

/* ---- shared objects ---- */

/* The image carries no length: the section headers, which come last, tell it. */
static uint64_t elf_bytes(const Elf64_Ehdr *header) {
  uint64_t end = header->e_shoff + (uint64_t)header->e_shnum * header->e_shentsize;
  const uint64_t segments = header->e_phoff + (uint64_t)header->e_phnum * header->e_phentsize;
  if (segments > end) end = segments;
  const Elf64_Phdr *segment = (const Elf64_Phdr *)((const char *)header + header->e_phoff);
  for (int i = 0; i < header->e_phnum; i++)
    if (segment[i].p_offset + segment[i].p_filesz > end)
      end = segment[i].p_offset + segment[i].p_filesz;
  return end;
}

static CUresult elf_symbols(struct sim_module *module, const unsigned char *image, uint64_t bytes) {
  const Elf64_Ehdr *header = (const Elf64_Ehdr *)image;
  if (header->e_shoff + (uint64_t)header->e_shnum * sizeof(Elf64_Shdr) > bytes)
    return CUDA_ERROR_INVALID_IMAGE;
  const Elf64_Shdr *sections = (const Elf64_Shdr *)(image + header->e_shoff);
  for (int i = 0; i < header->e_shnum; i++) {
    if (sections[i].sh_type != SHT_DYNSYM || sections[i].sh_link >= header->e_shnum) continue;
    const Elf64_Shdr *names = &sections[sections[i].sh_link];
    if (sections[i].sh_offset + sections[i].sh_size > bytes ||
        names->sh_offset + names->sh_size > bytes)
      return CUDA_ERROR_INVALID_IMAGE;
    const Elf64_Sym *symbols = (const Elf64_Sym *)(image + sections[i].sh_offset);
    for (uint64_t s = 0; s < sections[i].sh_size / sizeof *symbols; s++) {
      if (symbols[s].st_name >= names->sh_size || symbols[s].st_shndx == SHN_UNDEF) continue;
      const char *name = (const char *)image + names->sh_offset + symbols[s].st_name;
      void *address = dlsym(module->object, name);
      if (address == NULL) continue;
      if (strncmp(name, KERNEL_PREFIX, strlen(KERNEL_PREFIX)) == 0) {
        const struct gbsim_kernel *kernel = address;
        if (kernel->version != GBSIM_KERNEL_VERSION || kernel->param_count > GBSIM_PARAM_COUNT_MAX)
          return CUDA_ERROR_INVALID_IMAGE;
        sim_module_add(module, name + strlen(KERNEL_PREFIX), kernel);
      } else if (strncmp(name, GLOBAL_PREFIX, strlen(GLOBAL_PREFIX)) == 0) {
        const CUresult added = sim_module_add_global(module, name + strlen(GLOBAL_PREFIX),
                                                     (uint64_t)address, symbols[s].st_size);
        if (added != CUDA_SUCCESS) return added;
      }
    }
  }
  return module->function_count == 0 ? CUDA_ERROR_INVALID_IMAGE : CUDA_SUCCESS;
}

/* A copy per load, so that every module has its own variables. */
static CUresult elf_load(struct sim_module *module, const unsigned char *image) {
  const Elf64_Ehdr *header = (const Elf64_Ehdr *)image;
  if (header->e_ident[EI_CLASS] != ELFCLASS64 || header->e_type != ET_DYN)
    return CUDA_ERROR_NO_BINARY_FOR_GPU;
  const uint64_t bytes = elf_bytes(header);
  if (bytes > IMAGE_BYTES_MAX) return CUDA_ERROR_INVALID_IMAGE;
  const int fd = memfd_create("gbsim-module", MFD_CLOEXEC);
  if (fd < 0) return CUDA_ERROR_OPERATING_SYSTEM;
  for (uint64_t done = 0; done < bytes;) {
    const ssize_t wrote = write(fd, image + done, bytes - done);
    if (wrote <= 0) {
      close(fd);
      return CUDA_ERROR_OPERATING_SYSTEM;
    }
    done += (uint64_t)wrote;
  }
  char path[64];
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  module->object = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  close(fd);
  if (module->object == NULL) {
    sim_log(1, "module: %s", dlerror());
    return CUDA_ERROR_INVALID_IMAGE;
  }
  return elf_symbols(module, image, bytes);
}

/* ---- PTX ---- */

struct ptx {
  const char *at;
  char word[PTX_WORD_MAX];
};

/* Next word: a name with its dots, a number, or one punctuation character; comments are skipped. */
static bool ptx_next(struct ptx *ptx) {
  for (;;) {
    while (isspace((unsigned char)*ptx->at)) ptx->at++;
    if (ptx->at[0] == '/' && ptx->at[1] == '/') {
      while (*ptx->at != '\0' && *ptx->at != '\n') ptx->at++;
    } else if (ptx->at[0] == '/' && ptx->at[1] == '*') {
      const char *end = strstr(ptx->at + 2, "*/");
      ptx->at = end == NULL ? ptx->at + strlen(ptx->at) : end + 2;
    } else {
      break;
    }
  }
  if (*ptx->at == '\0') return false;
  size_t length = 0;
  while (isalnum((unsigned char)ptx->at[length]) ||
         (ptx->at[length] != '\0' && strchr("._$%", ptx->at[length]) != NULL))
    length++;
  if (length == 0) length = 1;
  const size_t kept = length < sizeof ptx->word ? length : sizeof ptx->word - 1;
  memcpy(ptx->word, ptx->at, kept);
  ptx->word[kept] = '\0';
  ptx->at += length;
  return true;
}

/* ".u64" -> 8; 0 for what is no type. */
static uint32_t ptx_type_bytes(const char *word) {
  if (word[0] != '.' || word[1] == '\0' || strchr("bufs", word[1]) == NULL) return 0;
  const int bits = atoi(word + 2);
  return bits == 8 || bits == 16 || bits == 32 || bits == 64 || bits == 128 ? (uint32_t)bits / 8
                                                                            : 0;
}

/* Reads "[.align N] .type [.ptr ...] NAME [ '[' N ']' ]" up to , ) ; = or {. The word after stays
 * in ptx->word. */
static bool ptx_variable(struct ptx *ptx, char *name, size_t name_bytes, uint32_t *bytes,
                         uint32_t *align) {
  uint32_t element = 0, count = 1;
  *align = 0;
  name[0] = '\0';
  while (ptx_next(ptx)) {
    const uint32_t type = ptx_type_bytes(ptx->word);
    if (strchr(",);={", ptx->word[0]) != NULL) {
      *bytes = element * count;
      if (*align == 0) *align = element;
      return element != 0 && name[0] != '\0';
    }
    if (strcmp(ptx->word, ".align") == 0) {
      if (!ptx_next(ptx)) return false;
      *align = (uint32_t)atoi(ptx->word);
    } else if (type != 0) {
      element = type;
    } else if (ptx->word[0] == '[') {
      if (!ptx_next(ptx)) return false;
      count = ptx->word[0] == ']' ? 0 : (uint32_t)strtoul(ptx->word, NULL, 10);
      if (ptx->word[0] != ']' && !ptx_next(ptx)) return false;
    } else if (ptx->word[0] != '.') {
      snprintf(name, name_bytes, "%s", ptx->word);
    }
  }
  return false;
}

static CUresult ptx_entry(struct sim_module *module, struct ptx *ptx) {
  char name[PTX_WORD_MAX], parameter[PTX_WORD_MAX];
  struct gbsim_kernel read = {.version = GBSIM_KERNEL_VERSION};
  if (!ptx_next(ptx)) return CUDA_ERROR_INVALID_PTX;
  snprintf(name, sizeof name, "%s", ptx->word);
  if (!ptx_next(ptx)) return CUDA_ERROR_INVALID_PTX;
  if (ptx->word[0] == '(') {
    for (;;) {
      if (!ptx_next(ptx)) return CUDA_ERROR_INVALID_PTX;
      if (ptx->word[0] == ')') break;
      if (strcmp(ptx->word, ".param") != 0 || read.param_count == GBSIM_PARAM_COUNT_MAX)
        return CUDA_ERROR_INVALID_PTX;
      const uint32_t i = read.param_count++;
      if (!ptx_variable(ptx, parameter, sizeof parameter, &read.param_bytes[i],
                        &read.param_align[i]))
        return CUDA_ERROR_INVALID_PTX;
      if (ptx->word[0] == ')') break;
    }
  }
  const struct gbsim_kernel *twin = sim_twin(name);
  if (twin == NULL) {
    fprintf(stderr, "gbsim: no twin for kernel %s\n", name);
    return CUDA_SUCCESS;
  }
  bool equal = twin->param_count == read.param_count;
  for (uint32_t i = 0; equal && i < read.param_count; i++)
    equal = twin->param_bytes[i] == read.param_bytes[i] &&
            gbsim_param_offset(twin, i) == gbsim_param_offset(&read, i);
  if (!equal)
    return sim_strict(CUDA_ERROR_INVALID_PTX, "kernel %s and its twin have different parameters",
                      name);
  sim_module_add(module, name, twin);
  return CUDA_SUCCESS;
}

static CUresult ptx_global(struct sim_module *module, struct ptx *ptx) {
  char name[PTX_WORD_MAX];
  uint32_t bytes = 0, align = 0;
  if (!ptx_variable(ptx, name, sizeof name, &bytes, &align)) return CUDA_ERROR_INVALID_PTX;
  while (ptx->word[0] != ';' && ptx_next(ptx)) continue;
  return bytes == 0 ? CUDA_SUCCESS : sim_module_add_global(module, name, 0, bytes);
}

static CUresult ptx_load(struct sim_module *module, const char *text) {
  struct ptx ptx = {.at = text};
  if (strstr(text, ".version") == NULL || strstr(text, ".target") == NULL)
    return CUDA_ERROR_INVALID_IMAGE;
  int depth = 0;
  CUresult result = CUDA_SUCCESS;
  while (result == CUDA_SUCCESS && ptx_next(&ptx)) {
    if (ptx.word[0] == '{') depth++;
    else if (ptx.word[0] == '}') depth--;
    else if (depth == 0 && strcmp(ptx.word, ".entry") == 0) result = ptx_entry(module, &ptx);
    else if (depth == 0 && (strcmp(ptx.word, ".global") == 0 || strcmp(ptx.word, ".const") == 0))
      result = ptx_global(module, &ptx);
    if (depth == 0 && ptx.word[0] == '{' && result == CUDA_SUCCESS)
      depth = 1; /* an initialiser or body just opened */
  }
  return result;
}

/* ---- fat binaries ---- */

struct fatbin_header {
  uint32_t magic;
  uint16_t version, header_bytes;
  uint64_t bytes;
};

struct fatbin_entry {
  uint16_t kind; /* 1: PTX, 2: machine code */
  uint16_t version;
  uint32_t header_bytes;
  uint64_t bytes;
  uint32_t compressed_bytes;
};

/* Takes the first uncompressed PTX. Its machine code cannot run here. */
static CUresult fatbin_load(struct sim_module *module, const unsigned char *image) {
  const struct fatbin_header *header = (const struct fatbin_header *)image;
  if (header->bytes > IMAGE_BYTES_MAX) return CUDA_ERROR_INVALID_IMAGE;
  const unsigned char *at = image + header->header_bytes, *end = at + header->bytes;
  while (at + sizeof(struct fatbin_entry) <= end) {
    struct fatbin_entry entry;
    memcpy(&entry, at, sizeof entry);
    if (entry.header_bytes == 0 || entry.bytes > (uint64_t)(end - at))
      return CUDA_ERROR_INVALID_IMAGE;
    if (entry.kind == 1 && entry.compressed_bytes == 0) {
      char *text = strndup((const char *)at + entry.header_bytes, entry.bytes);
      if (text == NULL) abort();
      const CUresult result = ptx_load(module, text);
      free(text);
      return result;
    }
    at += entry.header_bytes + entry.bytes;
  }
  return CUDA_ERROR_NO_BINARY_FOR_GPU;
}

CUresult sim_image_load(struct sim_module *module, const void *image) {
  uint32_t magic;
  memcpy(&magic, image, sizeof magic);
  if (magic == FATBIN_WRAPPER) {
    const void *inner;
    memcpy(&inner, (const char *)image + 8, sizeof inner);
    return inner == NULL ? CUDA_ERROR_INVALID_IMAGE : sim_image_load(module, inner);
  }
  if (magic == FATBIN_MAGIC) return fatbin_load(module, image);
  if (memcmp(image, ELFMAG, SELFMAG) == 0) return elf_load(module, image);
  return ptx_load(module, image);
}

CUresult sim_image_load_file(struct sim_module *module, const char *path) {
  FILE *file = fopen(path, "rb");
  if (file == NULL) return CUDA_ERROR_FILE_NOT_FOUND;
  CUresult result = CUDA_ERROR_INVALID_IMAGE;
  fseek(file, 0, SEEK_END);
  const long bytes = ftell(file);
  rewind(file);
  char *image =
      bytes > 3 && (uint64_t)bytes <= IMAGE_BYTES_MAX ? calloc(1, (size_t)bytes + 1) : NULL;
  if (image != NULL && fread(image, 1, (size_t)bytes, file) == (size_t)bytes)
    result = sim_image_load(module, image);
  free(image);
  fclose(file);
  return result;
}
