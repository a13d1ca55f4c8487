/* SPDX-License-Identifier: Apache-2.0 */
/*
 * code_functions.c: from handles to functions. Handles are entered when they are loaded or asked for; what lies behind
 * one is looked at when it is first launched. Looking a handle up takes no lock: a reader that misses one while the
 * table changes looks again under the lock.
 */
#include "code_part.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "gb_run.h"
#include "real.h"

#define HANDLES_TABLE (1u << 18) /* power of two */
#define HANDLES_MAX (HANDLES_TABLE / 2)
#define VARIABLES_MAX 16384u

struct gb_code_function_kept {
  struct gb_code is;
  uint32_t attribute_count;
  struct gb_code_attribute attributes[GB_CODE_ATTRIBUTES_MAX];
  struct gb_code_function_kept *next; /* of the image */
};

struct gb_code_variable_kept {
  char *name;
  struct gb_code_variable_kept *next; /* of the image */
};

enum state { NOT_ASKED, ASKED };

/* A handle of the program's. Used again after it has gone, so that a reader never meets freed memory. */
struct handle {
  _Atomic(void *) is;
  _Atomic uint32_t state;
  _Atomic(const struct gb_code *) code; /* once ASKED; NULL: not known */
  struct gb_code_load *load;
  struct handle *next; /* of the load, or of those to use again */
};

/* One successful load. */
struct gb_code_load {
  struct gb_code_image *image; /* NULL: not known */
  uint32_t group;
  bool here;
  struct handle *handles;
};

struct place {
  uint64_t address;
  uint64_t bytes;
  struct gb_code_load *load;
  const struct gb_code_variable_kept *variable;
  uint32_t group;
};

static pthread_mutex_t code_lock = PTHREAD_MUTEX_INITIALIZER;
static _Atomic(struct handle *) table[HANDLES_TABLE];
static uint32_t handle_count;
static struct handle *handles_free;
static uint32_t function_count;
static struct gb_code_load nowhere; /* handles whose load was not seen */

static struct place places[VARIABLES_MAX]; /* by address */
static _Atomic uint32_t place_count;

/* ---- handles ---- */

static uint32_t home_of(const void *handle) {
  return (uint32_t)(((uint64_t)(uintptr_t)handle * 0x9e3779b97f4a7c15ull) >> 46) & (HANDLES_TABLE - 1);
}

static struct handle *find(void *handle) {
  for (uint32_t at = home_of(handle);; at = (at + 1) & (HANDLES_TABLE - 1)) {
    struct handle *entry = atomic_load_explicit(&table[at], memory_order_acquire);
    if (entry == NULL || atomic_load_explicit(&entry->is, memory_order_relaxed) == handle) return entry;
  }
}

/* pre: code_lock, not there. returns: false beyond the limit. */
static bool enter(void *handle, struct gb_code_load *load) {
  struct handle *entry = handles_free;
  if (handle == NULL || handle_count == HANDLES_MAX) return false;
  if (entry != NULL)
    handles_free = entry->next;
  else if ((entry = calloc(1, sizeof *entry)) == NULL)
    return false;
  atomic_store_explicit(&entry->state, NOT_ASKED, memory_order_relaxed);
  atomic_store_explicit(&entry->code, NULL, memory_order_relaxed);
  atomic_store_explicit(&entry->is, handle, memory_order_relaxed);
  entry->load = load;
  entry->next = load->handles;
  load->handles = entry;
  uint32_t at = home_of(handle);
  while (atomic_load_explicit(&table[at], memory_order_relaxed) != NULL) at = (at + 1) & (HANDLES_TABLE - 1);
  atomic_store_explicit(&table[at], entry, memory_order_release);
  handle_count++;
  return true;
}

/* Closes the gap, so that look-ups end at the first free place. pre: code_lock. */
static void take_out(struct handle *entry) {
  uint32_t gap = home_of(atomic_load_explicit(&entry->is, memory_order_relaxed));
  while (atomic_load_explicit(&table[gap], memory_order_relaxed) != entry) gap = (gap + 1) & (HANDLES_TABLE - 1);
  for (uint32_t at = (gap + 1) & (HANDLES_TABLE - 1);; at = (at + 1) & (HANDLES_TABLE - 1)) {
    struct handle *other = atomic_load_explicit(&table[at], memory_order_relaxed);
    if (other == NULL) break;
    uint32_t home = home_of(atomic_load_explicit(&other->is, memory_order_relaxed));
    if (((at - home) & (HANDLES_TABLE - 1)) < ((at - gap) & (HANDLES_TABLE - 1))) continue;
    atomic_store_explicit(&table[gap], other, memory_order_release);
    gap = at;
  }
  atomic_store_explicit(&table[gap], NULL, memory_order_release);
  atomic_store_explicit(&entry->is, NULL, memory_order_relaxed);
  handle_count--;
}

/* pre: code_lock. */
static void forget_handles(struct gb_code_load *load) {
  while (load->handles != NULL) {
    struct handle *entry = load->handles;
    load->handles = entry->next;
    take_out(entry);
    entry->next = handles_free;
    handles_free = entry;
  }
}

/* ---- loads ---- */

/* pre: code_lock. */
static void forget_places(const struct gb_code_load *load) {
  uint32_t kept = 0;
  uint32_t count = atomic_load_explicit(&place_count, memory_order_relaxed);
  for (uint32_t i = 0; i < count; i++) {
    if (places[i].load != load) places[kept++] = places[i];
  }
  atomic_store_explicit(&place_count, kept, memory_order_release);
}

/* pre: code_lock. */
static void forget_load(struct gb_code_load *load) {
  struct gb_code_image *image = load->image;
  forget_handles(load);
  forget_places(load);
  if (image != NULL && !image->hashed)
    gb_code_image_free(image);
  else if (image != NULL && image->loads[load->group] == load)
    /* A variable that the host may have written keeps its value there: another load begins with a fresh one. */
    image->loads[load->group] = image->variables == NULL ? NULL : &nowhere;
  free(load);
}

/* The image by its name; NULL when its functions run here only. pre: code_lock. */
static struct gb_code_image *image_of(struct gb_code_load *load) {
  if (load->here || load->image == NULL) return NULL;
  struct gb_code_image *image = load->image = gb_code_image_hash(load->image);
  if (image == NULL) return NULL;
  if (image->loads[load->group] == NULL) image->loads[load->group] = load;
  /* Of a variable there is one in each place, but one for each load here. */
  load->here = image->loads[load->group] != load && !image->stateless;
  return load->here ? NULL : image;
}

void gb_code_loaded(void *handle, const void *image, bool file, uint32_t group) {
  if (!gb_code_wanted() || handle == NULL || image == NULL) return;
  struct gb_code_load *load = calloc(1, sizeof *load);
  if (load == NULL) return;
  load->image = gb_code_image_copy(image, file);
  load->group = group;
  pthread_mutex_lock(&code_lock);
  struct handle *before = find(handle);
  if (before != NULL && before->load != &nowhere) forget_load(before->load);
  forget_handles(&nowhere);
  if (!enter(handle, load)) forget_load(load);
  pthread_mutex_unlock(&code_lock);
}

void gb_code_unloading(void *handle) {
  if (!gb_code_wanted()) return;
  pthread_mutex_lock(&code_lock);
  struct handle *entry = find(handle);
  if (entry != NULL && entry->load != &nowhere) forget_load(entry->load);
  forget_handles(&nowhere);
  pthread_mutex_unlock(&code_lock);
}

void gb_code_function(void *handle, void *from) {
  if (!gb_code_wanted() || handle == NULL) return;
  struct handle *known = find(handle);
  if (known != NULL && atomic_load_explicit(&known->state, memory_order_acquire) == ASKED) return;
  pthread_mutex_lock(&code_lock);
  struct handle *source = find(from);
  if (source != NULL && find(handle) == NULL) (void)enter(handle, source->load);
  pthread_mutex_unlock(&code_lock);
}

void gb_code_bound_here(void *from) {
  if (!gb_code_wanted()) return;
  pthread_mutex_lock(&code_lock);
  struct handle *source = find(from);
  for (struct handle *entry = source != NULL ? source->load->handles : NULL; entry != NULL; entry = entry->next) {
    atomic_store_explicit(&entry->code, NULL, memory_order_release);
  }
  if (source != NULL) source->load->here = true;
  pthread_mutex_unlock(&code_lock);
}

void gb_code_objects_made(void) {
  if (!atomic_exchange(&gb_code_kept, false)) return;
  gb_event(GB_LOG_INFO, CUDA_SUCCESS, "dispatch_ended",
           "the program uses textures or surfaces: its kernels run here from now on");
}

/* ---- what a function is, as the driver tells ---- */

/* Which of the driver's two kinds the handle is: what it says of parameter 0 tells. */
static bool is_kernel(CUfunction function) {
  size_t offset = 0;
  size_t bytes = 0;
  CUresult result = gb_real.cuFuncGetParamInfo(function, 0, &offset, &bytes);
  return result != CUDA_SUCCESS && result != CUDA_ERROR_INVALID_VALUE && gb_real.cuKernelGetParamInfo != NULL;
}

static const char *name_of(CUfunction function, bool kernel) {
  const char *name = NULL;
  CUresult result = CUDA_ERROR_NOT_FOUND;
  if (!kernel && gb_real.cuFuncGetName != NULL) result = gb_real.cuFuncGetName(&name, function);
  if (result != CUDA_SUCCESS && gb_real.cuKernelGetName != NULL)
    result = gb_real.cuKernelGetName(&name, (CUkernel)function);
  bool fits = result == CUDA_SUCCESS && name != NULL && strnlen(name, GB_RUN_NAME_BYTES_MAX) < GB_RUN_NAME_BYTES_MAX;
  return fits ? name : NULL;
}

/* Fills `params`. returns: how many; UINT32_MAX: the driver does not know them all. */
static uint32_t params_of(CUfunction function, bool kernel, struct gb_code_param params[GB_CODE_PARAMS_MAX],
                          uint32_t *total) {
  *total = 0;
  for (uint32_t i = 0; i <= GB_CODE_PARAMS_MAX; i++) {
    size_t offset = 0;
    size_t bytes = 0;
    CUresult result = kernel ? gb_real.cuKernelGetParamInfo((CUkernel)function, i, &offset, &bytes)
                             : gb_real.cuFuncGetParamInfo(function, i, &offset, &bytes);
    if (result == CUDA_ERROR_INVALID_VALUE) return i;
    if (result != CUDA_SUCCESS || i == GB_CODE_PARAMS_MAX) break;
    if (offset > GB_RUN_PARAM_BYTES_MAX || bytes > GB_RUN_PARAM_BYTES_MAX - offset) break;
    params[i] = (struct gb_code_param){(uint32_t)offset, (uint32_t)bytes};
    if (offset + bytes > *total) *total = (uint32_t)(offset + bytes);
  }
  return UINT32_MAX;
}

/* owns: forever. returns: NULL without memory. */
static struct gb_code_function_kept *keep(struct gb_code_image *image, const char *name,
                                          const struct gb_code_param *params, uint32_t count, uint32_t total) {
  struct gb_code_function_kept *kept = calloc(1, sizeof *kept);
  struct gb_code_param *own = malloc((count + 1) * sizeof *own);
  char *own_name = strdup(name);
  if (kept == NULL || own == NULL || own_name == NULL || function_count == GB_RUN_FUNCTIONS_MAX) {
    free(kept);
    free(own);
    free(own_name);
    return NULL;
  }
  memcpy(own, params, count * sizeof *own);
  kept->is.number = ++function_count;
  kept->is.image = &image->is;
  kept->is.name = own_name;
  kept->is.param_count = count;
  kept->is.param_bytes = total;
  kept->is.params = own;
  kept->next = image->functions;
  image->functions = kept;
  return kept;
}

/* pre: code_lock. */
static const struct gb_code *learn(CUfunction function, struct gb_code_load *load) {
  static struct gb_code_param params[GB_CODE_PARAMS_MAX];
  uint32_t total = 0;
  if (gb_real.cuFuncGetParamInfo == NULL) return NULL;
  struct gb_code_image *image = image_of(load);
  bool kernel = image != NULL && is_kernel(function);
  const char *name = image != NULL ? name_of(function, kernel) : NULL;
  if (name == NULL) return NULL;
  for (struct gb_code_function_kept *kept = image->functions; kept != NULL; kept = kept->next) {
    if (strcmp(kept->is.name, name) == 0) return &kept->is;
  }
  uint32_t count = params_of(function, kernel, params, &total);
  if (count == UINT32_MAX) return NULL;
  struct gb_code_function_kept *kept = keep(image, name, params, count, total);
  return kept != NULL ? &kept->is : NULL;
}

/* A handle that no wrapper has seen on its way to the program: the driver knows where it comes from. */
static void *source_of(CUfunction function) {
  CUmodule module = NULL;
  CUlibrary library = NULL;
  if (gb_real.cuKernelGetLibrary != NULL &&
      gb_real.cuKernelGetLibrary(&library, (CUkernel)function) == CUDA_SUCCESS)
    return library;
  if (gb_real.cuFuncGetModule != NULL && gb_real.cuFuncGetModule(&module, function) == CUDA_SUCCESS) return module;
  return NULL;
}

static const struct gb_code *ask(CUfunction function) {
  const struct gb_code *code = NULL;
  pthread_mutex_lock(&code_lock);
  struct handle *entry = find(function);
  if (entry == NULL) {
    void *from = source_of(function);
    struct handle *source = from != NULL ? find(from) : NULL;
    if (enter(function, source != NULL ? source->load : &nowhere)) entry = find(function);
  }
  if (entry != NULL && atomic_load_explicit(&entry->state, memory_order_relaxed) == NOT_ASKED) {
    code = entry->load != &nowhere ? learn(function, entry->load) : NULL;
    atomic_store_explicit(&entry->code, code, memory_order_relaxed);
    atomic_store_explicit(&entry->state, ASKED, memory_order_release);
  } else if (entry != NULL) {
    code = atomic_load_explicit(&entry->code, memory_order_relaxed);
  }
  pthread_mutex_unlock(&code_lock);
  return code;
}

const struct gb_code *gb_code_of(CUfunction function) {
  if (!gb_code_wanted() || function == NULL) return NULL;
  struct handle *entry = find(function);
  if (entry == NULL || atomic_load_explicit(&entry->state, memory_order_acquire) != ASKED) return ask(function);
  return atomic_load_explicit(&entry->code, memory_order_acquire);
}

/* ---- attributes ---- */

/* More than can be kept: the function runs here only. */
static bool set(struct gb_code_function_kept *kept, int attribute, int value) {
  for (uint32_t i = 0; i < kept->attribute_count; i++) {
    if (kept->attributes[i].attribute != attribute) continue;
    if (kept->attributes[i].value == value) return true;
    kept->attributes[i].value = value;
    atomic_fetch_add_explicit(&kept->is.attributes_version, 1, memory_order_release);
    return true;
  }
  if (kept->attribute_count == GB_CODE_ATTRIBUTES_MAX) return false;
  kept->attributes[kept->attribute_count++] = (struct gb_code_attribute){attribute, value};
  atomic_fetch_add_explicit(&kept->is.attributes_version, 1, memory_order_release);
  return true;
}

void gb_code_set_attribute(void *function, int attribute, int value) {
  const struct gb_code *code = gb_code_of(function);
  if (code == NULL) return;
  pthread_mutex_lock(&code_lock);
  if (!set((struct gb_code_function_kept *)code, attribute, value)) {
    struct handle *entry = find(function);
    if (entry != NULL) atomic_store_explicit(&entry->code, NULL, memory_order_release);
  }
  pthread_mutex_unlock(&code_lock);
}

uint32_t gb_code_attributes(const struct gb_code *code, struct gb_code_attribute list[GB_CODE_ATTRIBUTES_MAX],
                            uint32_t *version) {
  const struct gb_code_function_kept *kept = (const struct gb_code_function_kept *)code;
  pthread_mutex_lock(&code_lock);
  uint32_t count = kept->attribute_count;
  memcpy(list, kept->attributes, count * sizeof *list);
  *version = atomic_load_explicit(&kept->is.attributes_version, memory_order_relaxed);
  pthread_mutex_unlock(&code_lock);
  return count;
}

/* ---- variables ---- */

/* pre: code_lock. returns: NULL without memory. */
static const struct gb_code_variable_kept *variable_of(struct gb_code_image *image, const char *name) {
  for (struct gb_code_variable_kept *kept = image->variables; kept != NULL; kept = kept->next) {
    if (strcmp(kept->name, name) == 0) return kept;
  }
  struct gb_code_variable_kept *kept = calloc(1, sizeof *kept);
  if (kept == NULL) return NULL;
  kept->name = strdup(name);
  if (kept->name == NULL) {
    free(kept);
    return NULL;
  }
  kept->next = image->variables;
  image->variables = kept;
  return kept;
}

/* The first place that ends behind the address. pre: code_lock. */
static uint32_t place_after(uint64_t address, uint32_t count) {
  uint32_t low = 0;
  for (uint32_t high = count; low < high;) {
    uint32_t middle = (low + high) / 2;
    if (places[middle].address + places[middle].bytes > address)
      high = middle;
    else
      low = middle + 1;
  }
  return low;
}

/* pre: code_lock. returns: false when there is no room, or the range is known as another one. */
static bool enter_place(const struct place *place) {
  uint32_t count = atomic_load_explicit(&place_count, memory_order_relaxed);
  uint32_t at = place_after(place->address, count);
  if (at < count && places[at].address < place->address + place->bytes)
    return places[at].address == place->address && places[at].bytes == place->bytes && places[at].load == place->load;
  if (count == VARIABLES_MAX) return false;
  memmove(&places[at + 1], &places[at], (count - at) * sizeof *places);
  places[at] = *place;
  atomic_store_explicit(&place_count, count + 1, memory_order_release);
  return true;
}

void gb_code_variable(uint64_t address, uint64_t bytes, void *from, const char *name, uint32_t group) {
  if (!gb_code_wanted() || bytes == 0 || name == NULL) return;
  bool known = false;
  pthread_mutex_lock(&code_lock);
  struct handle *source = find(from);
  struct gb_code_image *image = source != NULL ? image_of(source->load) : NULL;
  if (image != NULL && strnlen(name, GB_RUN_NAME_BYTES_MAX) < GB_RUN_NAME_BYTES_MAX) {
    struct place place = {address, bytes, source->load, variable_of(image, name), group};
    known = place.variable != NULL && enter_place(&place);
  }
  pthread_mutex_unlock(&code_lock);
  /* What the host writes to it would not get there. */
  if (image != NULL && !known) gb_code_bound_here(from);
}

void gb_code_group_gone(uint32_t group) {
  pthread_mutex_lock(&code_lock);
  uint32_t kept = 0;
  uint32_t count = atomic_load_explicit(&place_count, memory_order_relaxed);
  for (uint32_t i = 0; i < count; i++) {
    if (places[i].group != group) places[kept++] = places[i];
  }
  atomic_store_explicit(&place_count, kept, memory_order_release);
  pthread_mutex_unlock(&code_lock);
}

bool gb_code_symbol_at(uint64_t address, struct gb_code_symbol *symbol) {
  if (atomic_load_explicit(&place_count, memory_order_acquire) == 0) return false;
  pthread_mutex_lock(&code_lock);
  uint32_t count = atomic_load_explicit(&place_count, memory_order_relaxed);
  uint32_t at = place_after(address, count);
  bool found = at < count && places[at].address <= address;
  if (found)
    *symbol = (struct gb_code_symbol){&places[at].load->image->is, places[at].variable->name,
                                      address - places[at].address, places[at].group};
  pthread_mutex_unlock(&code_lock);
  return found;
}
