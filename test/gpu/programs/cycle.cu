// SPDX-License-Identifier: Apache-2.0
// Threads that each go through their own buffers round after round, in the same order or a random one. A kernel adds to
// the even buffers (every fourth launch reaches its buffer through a pointer table in device memory) and checks every
// word of the odd ones; in the end every word of all is checked. With --sync each round also waits for the host: a
// stream memory operation whose word is written late, or a host callback.
//
// Prints one JSON line. Exit status 0: every word was right, every time.
#include <atomic>
#include <chrono>
#include <cstring>
#include <cuda.h>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "program.cuh"

static struct {
  uint64_t bytes = 256ull << 20, buffer_bytes = 16ull << 20, seed = 1;
  int threads = 1, rounds = 20;
  double seconds = 0;  // at least this long, whatever the rounds
  bool random = false, one_buffer = false;
  std::string sync = "none";
} options;

using clock_type = std::chrono::steady_clock;
static double now() { return std::chrono::duration<double>(clock_type::now().time_since_epoch()).count(); }

#define EACH(i, words) \
  for (uint64_t i = blockIdx.x * (uint64_t)blockDim.x + threadIdx.x; i < (words); i += (uint64_t)gridDim.x * blockDim.x)

// A word after `adds` rounds is mix(seed + i) + adds * (i | 1).
__global__ void add(uint64_t *buffer, uint64_t words) {
  EACH(i, words) buffer[i] += i | 1;
}

__global__ void add_hidden(uint64_t *const *table, int index, uint64_t words) {
  uint64_t *buffer = table[index];
  EACH(i, words) buffer[i] += i | 1;
}

__global__ void verify(const uint64_t *buffer, uint64_t words, uint64_t seed, uint64_t adds,
                       unsigned long long *wrong) {
  unsigned long long found = 0;
  EACH(i, words) found += buffer[i] != mix(seed + i) + adds * (i | 1);
  if (found) atomicAdd(wrong, found);
}

struct Callbacks {
  std::atomic<uint64_t> seen{0};
  std::atomic<uint64_t> out_of_order{0};
};

struct Call {
  Callbacks *all;
  uint64_t number;
};

static void called(void *data) {
  Call *call = static_cast<Call *>(data);
  if (call->all->seen.fetch_add(1) != call->number) call->all->out_of_order++;
  delete call;
}

class Worker {
 public:
  explicit Worker(int index) : index_(index), random_(options.seed * 1000003 + index) {}

  void run() {
    setup();
    const double until = now() + options.seconds;
    do {
      round();
    } while (++rounds_ < options.rounds || now() < until);
    for (size_t b = 0; b < buffers_.size(); b++) check(b);
    CHECK(cudaStreamSynchronize(stream_));
    CHECK(cudaMemcpy(&wrong, wrong_on_device_, sizeof wrong, cudaMemcpyDeviceToHost));
    teardown();
  }

  unsigned long long wrong = 0;
  Callbacks callbacks;
  int rounds() const { return rounds_; }
  size_t buffers() const { return buffers_.size(); }

 private:
  int index_, rounds_ = 0;
  uint64_t random_, words_ = 0, launches_ = 0, waits_ = 0;
  cudaStream_t stream_ = nullptr;
  std::vector<uint64_t *> buffers_;
  std::vector<uint64_t> adds_;
  uint64_t **table_ = nullptr, *whole_ = nullptr;
  unsigned long long *wrong_on_device_ = nullptr;
  volatile uint32_t *word_ = nullptr;
  CUresult (*wait_value_)(CUstream, CUdeviceptr, cuuint32_t, unsigned) = nullptr;

  uint64_t random() { return mix(random_ += 0x9e3779b97f4a7c15ull); }
  uint64_t seed(size_t b) const { return options.seed + mix(index_ * 65537 + b); }

  void setup() {
    CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    words_ = options.buffer_bytes / 8;
    const size_t count = options.bytes / options.buffer_bytes;
    if (options.one_buffer) CHECK(cudaMalloc(&whole_, count * options.buffer_bytes));
    for (size_t b = 0; b < count; b++) {
      uint64_t *buffer = whole_ + b * words_;
      if (!options.one_buffer) CHECK(cudaMalloc(&buffer, options.buffer_bytes));
      buffers_.push_back(buffer);
      adds_.push_back(0);
      fill<<<264, 256, 0, stream_>>>(buffer, words_, seed(b));
    }
    CHECK(cudaMalloc(&table_, count * sizeof *table_));
    CHECK(cudaMemcpyAsync(table_, buffers_.data(), count * sizeof *table_, cudaMemcpyHostToDevice, stream_));
    CHECK(cudaMalloc(&wrong_on_device_, sizeof *wrong_on_device_));
    CHECK(cudaMemsetAsync(wrong_on_device_, 0, sizeof *wrong_on_device_, stream_));
    if (options.sync != "wait") return;
    CHECK(cudaHostAlloc((void **)&word_, sizeof *word_, cudaHostAllocMapped));
    *word_ = 0;
    cudaDriverEntryPointQueryResult found;
    CHECK(cudaGetDriverEntryPointByVersion("cuStreamWaitValue32", (void **)&wait_value_, 12000, cudaEnableDefault,
                                           &found));
  }

  void teardown() {
    if (options.one_buffer) CHECK(cudaFree(whole_));
    for (size_t b = 0; b < buffers_.size() && !options.one_buffer; b++) CHECK(cudaFree(buffers_[b]));
    CHECK(cudaFree(table_));
    CHECK(cudaFree(wrong_on_device_));
    if (word_ != nullptr) CHECK(cudaFreeHost((void *)word_));
    CHECK(cudaStreamDestroy(stream_));
  }

  void check(size_t b) { verify<<<264, 256, 0, stream_>>>(buffers_[b], words_, seed(b), adds_[b], wrong_on_device_); }

  void step(size_t b) {
    if (b % 2) {
      check(b);
    } else {
      if (++launches_ % 4 == 0)
        add_hidden<<<264, 256, 0, stream_>>>(table_, (int)b, words_);
      else
        add<<<264, 256, 0, stream_>>>(buffers_[b], words_);
      adds_[b]++;
    }
    CHECK(cudaGetLastError());
  }

  // The second half of the round is behind a wait which only the host ends.
  void synchronise() {
    if (options.sync == "callback") CHECK(cudaLaunchHostFunc(stream_, called, new Call{&callbacks, waits_++}));
    if (options.sync != "wait") return;
    if (wait_value_(stream_, (CUdeviceptr)word_, (uint32_t)++waits_, CU_STREAM_WAIT_VALUE_GEQ) != CUDA_SUCCESS) {
      fprintf(stderr, "cuStreamWaitValue32 failed\n");
      exit(1);
    }
  }

  void release() {
    if (options.sync != "wait") return;
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 3000));
    *word_ = (uint32_t)waits_;
  }

  void round() {
    std::vector<size_t> order(buffers_.size());
    std::iota(order.begin(), order.end(), 0);
    for (size_t i = order.size(); options.random && i > 1; i--) std::swap(order[i - 1], order[random() % i]);
    for (size_t i = 0; i < order.size(); i++) {
      if (i == order.size() / 2) synchronise();
      step(order[i]);
    }
    release();
    CHECK(cudaStreamSynchronize(stream_));
  }
};

static bool parse(int argc, char **argv) {
  for (int i = 1; i < argc; i++) {
    const std::string name = argv[i];
    if (name == "--random") options.random = true;
    else if (name == "--one-buffer") options.one_buffer = true;
    else if (i + 1 == argc) return false;
    else if (name == "--bytes") options.bytes = strtoull(argv[++i], nullptr, 10);
    else if (name == "--buffer-bytes") options.buffer_bytes = strtoull(argv[++i], nullptr, 10) / 512 * 512;
    else if (name == "--seed") options.seed = strtoull(argv[++i], nullptr, 10);
    else if (name == "--threads") options.threads = atoi(argv[++i]);
    else if (name == "--rounds") options.rounds = atoi(argv[++i]);
    else if (name == "--seconds") options.seconds = atof(argv[++i]);
    else if (name == "--sync") options.sync = argv[++i];
    else return false;
  }
  const bool sync = options.sync == "none" || options.sync == "wait" || options.sync == "callback";
  return sync && options.buffer_bytes != 0 && options.bytes >= options.buffer_bytes && options.threads > 0;
}

int main(int argc, char **argv) {
  if (!parse(argc, argv)) {
    fprintf(stderr, "usage: cycle [--bytes PER_THREAD] [--buffer-bytes N] [--threads N] [--rounds N] [--seconds S]\n"
                    "             [--seed N] [--random] [--one-buffer] [--sync none|wait|callback]\n");
    return 2;
  }
  std::vector<Worker *> workers;
  std::vector<std::thread> threads;
  CHECK(cudaFree(nullptr));
  const double start = now();
  for (int i = 0; i < options.threads; i++) workers.push_back(new Worker(i));
  for (Worker *worker : workers) threads.emplace_back([worker] { worker->run(); });
  for (auto &thread : threads) thread.join();
  const double seconds = now() - start;
  unsigned long long wrong = 0, rounds = 0, callbacks = 0, out_of_order = 0;
  for (Worker *worker : workers) {
    wrong += worker->wrong;
    rounds += (unsigned long long)worker->rounds();
    callbacks += worker->callbacks.seen;
    out_of_order += worker->callbacks.out_of_order;
  }
  printf("{\"wrongWords\":%llu,\"rounds\":%llu,\"bytesPerRound\":%llu,\"seconds\":%.3f,\"callbacks\":%llu,"
         "\"callbacksOutOfOrder\":%llu}\n",
         wrong, rounds, (unsigned long long)(workers[0]->buffers() * options.buffer_bytes), seconds, callbacks,
         out_of_order);
  return wrong != 0 || out_of_order != 0;
}
