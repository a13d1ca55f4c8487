/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gb_layers: a decode loop shaped like a Llama's, in exact integers: the same bits wherever its kernels run.
 *
 *   token -> row of the table -> each layer: norm, matrix, attention over its KV buffer, sum, norm, matrix, sum
 *         -> head -> reduction -> read back, the best column of each row is its next token
 *
 * A layer has two matrices and a KV buffer, each an allocation of its own; norms, activations and what goes in and out
 * are small allocations; a workspace lies between. Options choose other ways to write the same program: how arguments
 * are passed, streams, a graph, host callbacks, fills and copies. Afterwards the CPU repeats all of it
 * (layers_reference.h) and compares tokens, logits and, with --verify, every weight. Exit 0 only when all are equal.
 */
#include <unistd.h>

#include "layers_kernels.h"
#include "layers_reference.h"

#define TOKENS_MAX (1u << 20)
#define TOKENS_SHOWN 1024u
#define COPY_WORDS (256u << 10)
#define BLOCK 128u
#define ARGUMENTS_MAX 8u
#define CALLBACKS_AHEAD 8u
#define BALLAST_BYTES (4ull << 20)
#define BALLAST_MAX 256u

static struct {
  uint64_t layer_bytes, kv_bytes, workspace_bytes, ballast, seed, width;
  unsigned layers, tokens, rows;
  bool one_buffer, extra, ex, by_struct, table, symbol, streams, graph, hostfunc, fill, verify, trust;
  double token_ms;
  const char *until_file;
} options = {.layer_bytes = 4ull << 20,
             .kv_bytes = 2ull << 20,
             .workspace_bytes = 2ull << 20,
             .seed = 1,
             .width = 512,
             .layers = 6,
             .tokens = 8,
             .rows = 2};

enum kernel { EMBED, NORM, MATMUL, ATTEND, ADD, REDUCE, KERNELS };

static struct shape shape;
static CUfunction functions[KERNELS];
static CUdeviceptr *weights; /* by number of the matrix: two for each layer, head, table */
static CUdeviceptr *norms, *kv, one_buffer, pointers, x, y, work[3], logits, key_address;
static CUdeviceptr io; /* position, a token for each row; then what the reduction gives, two words for each row */
static CUstream streams[2], stream; /* stream: where the next call goes; 0 unless a variant wants more */
static CUevent hops;
static uint64_t *io_host, *tokens, *sums; /* pinned; what each step gave */
static unsigned position;
static uint64_t launches, weight_launches, host_copies, mismatches;

static bool asynchronous(void) { return options.streams || options.graph || options.hostfunc; }
static uint64_t io_words(void) { return 1 + 3ull * options.rows; }

/* ---- calls ---- */

/* Every argument has 8 bytes. */
static void launch(enum kernel kernel, uint64_t words, const uint64_t *arguments, unsigned count) {
  uint64_t copy[ARGUMENTS_MAX];
  void *params[ARGUMENTS_MAX];
  size_t bytes = count * sizeof *copy;
  memcpy(copy, arguments, bytes);
  for (unsigned i = 0; i < count; i++) params[i] = &copy[i];
  void *extra[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, copy, CU_LAUNCH_PARAM_BUFFER_SIZE, &bytes, CU_LAUNCH_PARAM_END};
  void **by_list = options.extra ? NULL : params, **by_buffer = options.extra ? extra : NULL;
  const unsigned grid = (unsigned)((words + BLOCK - 1) / BLOCK);
  launches++;
  weight_launches += kernel == MATMUL || kernel == ATTEND;
  if (options.ex) {
    const CUlaunchConfig config = {
        .gridDimX = grid, .gridDimY = 1, .gridDimZ = 1, .blockDimX = BLOCK, .blockDimY = 1, .blockDimZ = 1,
        .hStream = stream};
    CU(cuLaunchKernelEx(&config, functions[kernel], by_list, by_buffer));
  } else {
    CU(cuLaunchKernel(functions[kernel], grid, 1, 1, BLOCK, 1, 1, 0, stream, by_list, by_buffer));
  }
}
#define LAUNCH(kernel, words, ...) \
  launch(kernel, words, (const uint64_t[]){__VA_ARGS__}, sizeof((const uint64_t[]){__VA_ARGS__}) / sizeof(uint64_t))

static void matmul(CUdeviceptr out, uint64_t matrix, uint64_t depth, CUdeviceptr in) {
  if (options.table) LAUNCH(MATMUL, shape.n, out, shape.n, shape.width, pointers, matrix, depth, in);
  else LAUNCH(MATMUL, shape.n, out, shape.n, shape.width, weights[matrix], depth, in);
}

/* What follows goes to the other stream, after all so far. */
static void hop(unsigned to) {
  if (!options.streams) return;
  CU(cuEventRecord(hops, stream));
  stream = streams[to];
  CU(cuStreamWaitEvent(stream, hops, 0));
}

static void layer_run(unsigned layer) {
  const uint64_t n = shape.n, width = shape.width;
  hop(0);
  LAUNCH(NORM, n, work[0], n, width, x, norms[layer * 2]);
  matmul(work[1], matrix_of(layer, 0), shape.depth, work[0]);
  LAUNCH(ATTEND, n, work[2], n, kv[layer], shape.capacity, io, work[1]);
  LAUNCH(ADD, n, y, n, x, work[2]);
  hop(1);
  LAUNCH(NORM, n, work[0], n, width, y, norms[layer * 2 + 1]);
  matmul(work[1], matrix_of(layer, 1), shape.depth, work[0]);
  LAUNCH(ADD, n, x, n, y, work[1]);
}

static void fill_run(void) {
  const struct strips strips = strips_of(&shape, position);
  const size_t bytes = STRIP_WORDS * 8;
  for (unsigned layer = 0; layer < shape.layers; layer++) {
    const CUdeviceptr first = weights[matrix_of(layer, 0)], second = weights[matrix_of(layer, 1)];
    const CUdeviceptr next = weights[matrix_of((layer + 1) % shape.layers, 0)];
    CU(cuMemsetD32Async(first + strips.set * 8, strips.value, STRIP_WORDS * 2, stream));
    CU(cuMemcpyDtoDAsync(second + strips.to * 8, first + strips.set * 8, bytes, stream));
    CU(cuMemcpyDtoDAsync(next + strips.to * 8, second + strips.from * 8, bytes, stream));
  }
}

/* One step, from what io_host holds to what the reduction gives in it. Captured, it may run many times. */
static void step_run(void) {
  const uint64_t bytes = io_words() * 8, result = 1ull + options.rows;
  if (asynchronous()) CU(cuMemcpyHtoDAsync(io, io_host, bytes, stream));
  else CU(cuMemcpyHtoD(io, io_host, bytes));
  if (options.fill) fill_run();
  if (options.symbol) {
    const uint64_t key = key_of(position);
    CU(cuMemcpyHtoD(key_address, &key, sizeof key));
  }
  LAUNCH(EMBED, shape.n, x, shape.n, shape.width, weights[table_of(&shape)], io);
  for (unsigned layer = 0; layer < shape.layers; layer++) layer_run(layer);
  hop(0);
  matmul(logits, head_of(&shape), shape.width, x);
  LAUNCH(REDUCE, shape.n, logits, shape.n, shape.width, io + result * 8);
  void *to = io_host + result;
  if (asynchronous()) CU(cuMemcpyDtoHAsync(to, io + result * 8, 16ull * options.rows, stream));
  else CU(cuMemcpyDtoH(to, io + result * 8, 16ull * options.rows));
  host_copies += 2;
}

/* From what the reduction gave to what the next step is fed with. */
static void sample(void *unused) {
  (void)unused;
  const uint64_t at = io_host[0];
  uint64_t *fed = io_host + 1, *result = io_host + 1 + options.rows;
  for (unsigned row = 0; row < options.rows; row++) {
    fed[row] = tokens[at * options.rows + row] = result[row * 2] & 0xFFFF;
    sums[at] += result[row * 2 + 1];
  }
  memset(result, 0, 16ull * options.rows);
  io_host[0] = at + 1;
}

/* ---- memory ---- */

static void upload(CUdeviceptr to, uint64_t matrix, uint64_t words) {
  static uint64_t block[COPY_WORDS];
  for (uint64_t from = 0; from < words; from += COPY_WORDS) {
    const uint64_t count = words - from < COPY_WORDS ? words - from : COPY_WORDS;
    random_words(&shape, matrix, from, count, block);
    CU(cuMemcpyHtoD(to + from * 8, block, count * 8));
  }
}

static uint64_t matrix_words(uint64_t matrix) {
  return (matrix < head_of(&shape) ? shape.depth : shape.width) * shape.width;
}

static void weights_load(void) {
  const uint64_t count = table_of(&shape) + 1;
  uint64_t all = 0;
  for (uint64_t m = 0; m < count; m++) all += matrix_words(m) * 8;
  if (options.one_buffer) CU(cuMemAlloc(&one_buffer, all));
  CUdeviceptr at = one_buffer;
  for (uint64_t i = 0; i < count; i++) {
    const uint64_t m = (i + table_of(&shape)) % count; /* in the order of use: the table comes first */
    if (options.one_buffer) weights[m] = at;
    else CU(cuMemAlloc(&weights[m], matrix_words(m) * 8));
    at += matrix_words(m) * 8;
    upload(weights[m], m, matrix_words(m));
    if (m >= head_of(&shape) || m % 2 == 0) continue;
    const unsigned layer = (unsigned)(m / 2);
    CU(cuMemAlloc(&kv[layer], shape.capacity * shape.n * 8));
    CU(cuMemsetD8(kv[layer], 0, shape.capacity * shape.n * 8));
  }
}

static void small_load(void) {
  for (unsigned i = 0; i < shape.layers * 2; i++) {
    CU(cuMemAlloc(&norms[i], shape.width * 8));
    upload(norms[i], norm_of(&shape, i / 2, i % 2), shape.width);
  }
  CU(cuMemAlloc(&x, shape.n * 8));
  CU(cuMemAlloc(&y, shape.n * 8));
  CU(cuMemAlloc(&logits, shape.n * 8));
  CU(cuMemAlloc(&io, io_words() * 8));
  CU(cuMemAlloc(&work[0], options.workspace_bytes));
  for (unsigned i = 1; i < 3; i++) work[i] = work[i - 1] + options.workspace_bytes / 3 / 256 * 256;
}

/* pre: all weights are there. */
static void pointers_load(void) {
  const uint64_t bytes = (table_of(&shape) + 1) * sizeof *weights;
  CU(cuMemAlloc(&pointers, bytes));
  CU(cuMemcpyHtoD(pointers, weights, bytes));
}

static void kernels_load(void) {
  const char *names[KERNELS] = {"gb_layer_embed", "gb_layer_norm", "gb_layer_matmul",
                                "gb_layer_attend", "gb_layer_add", "gb_layer_reduce"};
  if (options.by_struct) names[MATMUL] = "gb_layer_matmul_struct";
  if (options.table) names[MATMUL] = "gb_layer_matmul_table";
  if (options.symbol) names[NORM] = "gb_layer_norm_symbol";
  CUmodule module;
  CU(cuModuleLoadData(&module, layers_kernels));
  for (unsigned k = 0; k < KERNELS; k++) functions[k] = load_kernel(module, names[k]);
  if (options.symbol) CU(cuModuleGetGlobal(&key_address, NULL, module, "gb_layer_key"));
}

static void open_all(void) {
  open_context(0);
  kernels_load();
  weights = calloc(table_of(&shape) + 1, sizeof *weights);
  norms = calloc(shape.layers * 2u, sizeof *norms);
  kv = calloc(shape.layers, sizeof *kv);
  tokens = calloc((size_t)options.tokens * options.rows, sizeof *tokens);
  sums = calloc(options.tokens, sizeof *sums);
  if (weights == NULL || norms == NULL || kv == NULL || tokens == NULL || sums == NULL) exit(EXIT_DRIVER);
  CU(cuMemHostAlloc((void **)&io_host, io_words() * 8, 0));
  memset(io_host, 0, io_words() * 8);
  for (unsigned row = 0; row < options.rows; row++) io_host[1 + row] = first_token(&shape, row);
  if (asynchronous())
    for (unsigned i = 0; i < (options.streams ? 2 : 1); i++)
      CU(cuStreamCreate(&streams[i], CU_STREAM_NON_BLOCKING));
  CU(cuEventCreate(&hops, CU_EVENT_DISABLE_TIMING));
  stream = streams[0];
  CUdeviceptr ballast[BALLAST_MAX];
  const unsigned pieces = (unsigned)(options.ballast / BALLAST_BYTES);
  for (unsigned i = 0; i < pieces; i++) {
    CU(cuMemAlloc(&ballast[i], BALLAST_BYTES));
    CU(cuMemsetD8(ballast[i], 1, BALLAST_BYTES));
  }
  small_load();
  weights_load();
  if (options.table) pointers_load();
  for (unsigned i = 0; i < pieces; i++) CU(cuMemFree(ballast[i]));
  CU(cuCtxSynchronize());
}

static void close_all(void) {
  CU(cuCtxSynchronize());
  if (options.one_buffer) CU(cuMemFree(one_buffer));
  for (uint64_t m = 0; m <= table_of(&shape) && !options.one_buffer; m++) CU(cuMemFree(weights[m]));
  for (unsigned i = 0; i < shape.layers * 2; i++) CU(cuMemFree(norms[i]));
  for (unsigned i = 0; i < shape.layers; i++) CU(cuMemFree(kv[i]));
  if (options.table) CU(cuMemFree(pointers));
  const CUdeviceptr others[] = {x, y, logits, io, work[0]};
  for (unsigned i = 0; i < sizeof others / sizeof others[0]; i++) CU(cuMemFree(others[i]));
  CU(cuEventDestroy(hops));
  CU(cuMemFreeHost(io_host));
}

/* ---- decoding ---- */

static int by_value(const void *a, const void *b) {
  const double difference = *(const double *)a - *(const double *)b;
  return difference < 0 ? -1 : difference > 0;
}

struct timing {
  double load_ms, decode_ms, token_ms; /* token_ms: the median */
  double launch_us;                    /* CPU time of this thread for each launch, with what belongs to it */
};

static double thread_cpu_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

static CUgraphExec captured(void) {
  CUgraph graph;
  CUgraphExec exec;
  CU(cuStreamBeginCapture(streams[0], CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
  step_run();
  CU(cuStreamEndCapture(streams[0], &graph));
  CU(cuGraphInstantiate(&exec, graph, 0));
  CU(cuGraphDestroy(graph));
  return exec;
}

static void token_run(CUgraphExec exec) {
  if (exec != NULL) CU(cuGraphLaunch(exec, streams[0]));
  else step_run();
  if (options.hostfunc) CU(cuLaunchHostFunc(stream, sample, NULL));
  if (asynchronous() && (!options.hostfunc || position % CALLBACKS_AHEAD == CALLBACKS_AHEAD - 1))
    CU(cuStreamSynchronize(stream));
  if (!options.hostfunc) sample(NULL);
}

static void decode(struct timing *timing) {
  double *each = calloc(options.tokens, sizeof *each);
  if (each == NULL) exit(EXIT_DRIVER);
  CUgraphExec exec = options.graph ? captured() : NULL;
  const double start = now_ms(), cpu = thread_cpu_ms();
  for (; position < options.tokens; position++) {
    if (options.until_file != NULL && access(options.until_file, F_OK) == 0) break;
    const double from = now_ms();
    token_run(exec);
    each[position] = now_ms() - from;
    fprintf(stderr, "token %u\n", position);
    if (options.token_ms > each[position]) sleep_ms(options.token_ms - each[position]);
  }
  CU(cuCtxSynchronize());
  timing->decode_ms = now_ms() - start;
  timing->launch_us = (thread_cpu_ms() - cpu) * 1e3 / (double)(launches == 0 ? 1 : launches);
  if (exec != NULL) CU(cuGraphExecDestroy(exec));
  qsort(each, position, sizeof *each, by_value);
  timing->token_ms = position == 0 ? 0 : each[position / 2];
  free(each);
}

/* ---- comparison ---- */

static void wrong(const char *what, uint64_t at, uint64_t got, uint64_t want) {
  if (got == want || mismatches++ >= 5) return;
  fprintf(stderr, "%s %llu: %016llx instead of %016llx\n", what, (unsigned long long)at, (unsigned long long)got,
          (unsigned long long)want);
}

/* returns: a sum of what device memory holds; compares it where `want` is not NULL. */
static uint64_t read_back(const char *what, CUdeviceptr from, uint64_t words, const uint64_t *want) {
  static uint64_t block[COPY_WORDS];
  uint64_t sum = 0;
  for (uint64_t at = 0; at < words; at += COPY_WORDS) {
    const uint64_t count = words - at < COPY_WORDS ? words - at : COPY_WORDS;
    CU(cuMemcpyDtoH(block, from + at * 8, count * 8));
    for (uint64_t i = 0; i < count; i++) {
      sum += mix64(block[i] + at + i);
      if (want != NULL) wrong(what, at + i, block[i], want[at + i]);
    }
  }
  return sum;
}

static void compare(struct reference *reference) {
  reference_open(reference, &shape);
  for (unsigned t = 0; t < position; t++) {
    reference_step(reference, options.fill, options.symbol);
    wrong("sum of logits", t, sums[t], reference->sums);
    for (unsigned row = 0; row < options.rows; row++)
      wrong("token", t, tokens[t * options.rows + row], reference->tokens[row]);
  }
}

static uint64_t verify(const struct reference *reference) {
  uint64_t sum = 0;
  for (uint64_t m = 0; m <= table_of(&shape); m++)
    sum += (m + 1) * read_back("weight", weights[m], matrix_words(m), options.trust ? NULL : reference->matrices[m]);
  for (unsigned layer = 0; layer < shape.layers; layer++)
    sum += read_back("kv", kv[layer], shape.capacity * shape.n, options.trust ? NULL : reference->kv[layer]);
  return sum;
}

/* ---- the outside ---- */

static void usage(void) {
  printf("gb_layers [--layers 6] [--layer-bytes 4MiB] [--tokens 8] [--batch-rows 2] [--width 512] [--kv-bytes 2MiB]\n"
         "          [--workspace-bytes 2MiB] [--ballast 0] [--seed 1] [--token-ms 0] [--until-file PATH] [--verify]\n"
         "          [--no-reference] [--one-buffer] [--extra | --ex] [--struct | --table] [--symbol]\n"
         "          [--streams] [--graph] [--hostfunc] [--fill]\n"
         "A token takes at least its milliseconds; no other begins once the file is there. The ballast is allocated\n"
         "before everything else and freed before the first token.\n");
}

static bool flag_read(const char *name) {
  const struct {
    const char *name;
    bool *value;
  } flags[] = {{"--one-buffer", &options.one_buffer},
               {"--extra", &options.extra},
               {"--ex", &options.ex},
               {"--struct", &options.by_struct},
               {"--table", &options.table},
               {"--symbol", &options.symbol},
               {"--streams", &options.streams},
               {"--graph", &options.graph},
               {"--hostfunc", &options.hostfunc},
               {"--fill", &options.fill},
               {"--verify", &options.verify},
               {"--no-reference", &options.trust}};
  for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++)
    if (strcmp(name, flags[i].name) == 0) return *flags[i].value = true;
  return false;
}

static bool value_read(int argc, char **argv, int *i) {
  const char *name = argv[*i];
  const struct {
    const char *name;
    uint64_t *bytes;
    unsigned *count;
  } values[] = {{"--layer-bytes", &options.layer_bytes, NULL}, {"--kv-bytes", &options.kv_bytes, NULL},
                {"--width", &options.width, NULL},             {"--workspace-bytes", &options.workspace_bytes, NULL},
                {"--seed", &options.seed, NULL},               {"--ballast", &options.ballast, NULL},
                {"--layers", NULL, &options.layers},           {"--tokens", NULL, &options.tokens},
                {"--batch-rows", NULL, &options.rows}};
  for (size_t v = 0; v < sizeof values / sizeof values[0]; v++) {
    if (strcmp(name, values[v].name) != 0) continue;
    if (values[v].bytes != NULL) *values[v].bytes = parse_bytes(option_value(argc, argv, i));
    else *values[v].count = (unsigned)atoi(option_value(argc, argv, i));
    return true;
  }
  if (strcmp(name, "--token-ms") == 0) options.token_ms = atof(option_value(argc, argv, i));
  else if (strcmp(name, "--until-file") == 0) options.until_file = option_value(argc, argv, i);
  else return false;
  return true;
}

static void refuse(const char *why) {
  fprintf(stderr, "%s\n", why);
  exit(EXIT_USAGE);
}

static void options_read(int argc, char **argv) {
  for (int i = 1; i < argc; i++) {
    if (flag_read(argv[i]) || value_read(argc, argv, &i)) continue;
    usage();
    exit(strcmp(argv[i], "--help") == 0 ? 0 : EXIT_USAGE);
  }
  if (options.layers < 1 || options.layers > 1024 || options.tokens < 1 || options.tokens > TOKENS_MAX ||
      options.rows < 1 || options.rows > 64)
    refuse("1 to 1024 layers, 1 to 1048576 tokens, 1 to 64 rows");
  if (options.width < 16 || options.width > 65536) refuse("a row has 16 to 65536 words");
  if ((options.extra && options.ex) || (options.by_struct && options.table)) refuse("one of them");
  if (options.graph && (options.fill || options.symbol)) refuse("what changes with the token is no part of a graph");
  if (options.hostfunc && options.symbol) refuse("a variable that is written at once needs the step before to be over");
  shape = (struct shape){.layers = options.layers,
                         .rows = options.rows,
                         .width = options.width,
                         .n = options.rows * options.width,
                         .seed = options.seed};
  shape.depth = options.layer_bytes / MATRICES_OF_LAYER / 8 / shape.width;
  shape.capacity = options.kv_bytes / 8 / shape.n;
  if (shape.depth * shape.width < STRIP_WORDS || shape.capacity < 1) refuse("layers or KV buffers are too small");
  if (options.ballast > BALLAST_BYTES * BALLAST_MAX) refuse("1 GiB of ballast is enough");
  if (options.workspace_bytes / 3 / 256 * 256 < shape.n * 8) refuse("the workspace is too small");
}

static void print(const struct timing *timing, uint64_t logits_sum, uint64_t weights_sum) {
  uint64_t sum = 0;
  for (uint64_t t = 0; t < (uint64_t)position * options.rows; t++) sum = mix64(sum + tokens[t] + 1);
  printf("{\"program\":\"gb_layers\",\"ok\":%s,\"layers\":%u,\"layer_bytes\":%llu,\"rows\":%u,"
         "\"activation_bytes\":%llu,\"steps\":%u,\"tokens\":[",
         mismatches == 0 ? "true" : "false", shape.layers,
         (unsigned long long)(shape.depth * shape.width * 8 * MATRICES_OF_LAYER), shape.rows,
         (unsigned long long)(shape.n * 8), position);
  for (uint64_t t = 0; t < (uint64_t)position * options.rows && t < TOKENS_SHOWN; t++)
    printf("%s%llu", t == 0 ? "" : ",", (unsigned long long)tokens[t]);
  printf("],\"tokens_sum\":\"%016llx\",\"logits\":\"%016llx\",\"weights\":\"%016llx\",\"launches\":%llu,"
         "\"weight_launches\":%llu,\"host_copies\":%llu,\"compared\":%s,\"mismatches\":%llu,"
         "\"load_milliseconds\":%.1f,\"milliseconds\":%.1f,\"token_milliseconds\":%.3f,\"launch_cpu_us\":%.3f}\n",
         (unsigned long long)sum, (unsigned long long)logits_sum, (unsigned long long)weights_sum,
         (unsigned long long)launches, (unsigned long long)weight_launches, (unsigned long long)host_copies,
         options.trust ? "false" : "true", (unsigned long long)mismatches, timing->load_ms, timing->decode_ms,
         timing->token_ms, timing->launch_us);
  fflush(stdout);
}

int main(int argc, char **argv) {
  struct timing timing;
  struct reference reference = {0};
  options_read(argc, argv);
  const double start = now_ms();
  open_all();
  timing.load_ms = now_ms() - start;
  fprintf(stderr, "loaded\n");
  decode(&timing);
  fprintf(stderr, "decoded\n");
  if (!options.trust) compare(&reference);
  const uint64_t logits_sum = read_back("logit", logits, shape.n, options.trust ? NULL : reference.logits);
  const uint64_t weights_sum = options.verify ? verify(&reference) : 0;
  close_all();
  print(&timing, logits_sum, weights_sum);
  return mismatches == 0 ? 0 : EXIT_WRONG;
}
