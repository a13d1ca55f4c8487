/* SPDX-License-Identifier: Apache-2.0 */
/* trouble.c: damaged handles, strangers at the socket, killed and forked processes, captures, and
 * memory that is not to be had. */
#include <sys/un.h>

#include "pair.h"

#define BYTES (4 * MIB)
#define WORDS (BYTES / 8)
#define FLAGS CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS

/* ---- handles that are not whole, or not ours ---- */

static void damaged_exporter(int link) {
  const CUdeviceptr pointer = alloc(BYTES);
  fill(pointer, WORDS, 1);
  say_handle(link, pointer);
  meet(link);
  expect(pointer, WORDS, 1);
  OK(cuMemFree(pointer));
}

/* A checksum protects from accidents only: what a forger would send is in strangers below. */
static void damaged_peer(int link) {
  CUipcMemHandle handle, foreign;
  hear(link, &handle, sizeof handle);
  memset(&foreign, 7, sizeof foreign);
  const CUresult drivers = try_open(&foreign); /* the driver's word on a handle it does not know */
  CHECK(drivers != CUDA_SUCCESS, "the driver opened noise");
  for (size_t i = 0; i < sizeof handle * 8; i++) {
    CUipcMemHandle broken = handle;
    ((unsigned char *)&broken)[i / 8] ^= (unsigned char)(1u << i % 8);
    const CUresult wanted = i < 64 ? drivers : CUDA_ERROR_INVALID_HANDLE; /* the mark itself */
    const CUresult result = try_open(&broken);
    CHECK(result == wanted, "bit %zu changed: %d", i, result);
  }
  OK(try_open(&handle));
  meet(link);
}

/* ---- strangers: what the thread is told by others than the shim ---- */

/* The exporter's socket, connected; its name is seen by everybody. */
static int reach(void) {
  char line[512];
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  FILE *list = fopen("/proc/net/unix", "r");
  size_t length = 0;
  while (list != NULL && fgets(line, sizeof line, list) != NULL) {
    const char *name = strstr(line, "@greenboost-ipc-");
    if (name == NULL || strstr(line, getenv("GB_TEST_NAME")) == NULL) continue;
    length = strcspn(name + 1, "\n");
    memcpy(address.sun_path + 1, name + 1, length);
  }
  if (list != NULL) fclose(list);
  const int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  const socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + length);
  CHECK(length != 0 && connect(fd, (struct sockaddr *)&address, size) == 0, "connect: %d", errno);
  return fd;
}

/* Sends anything; returns the length of the answer, and whether a descriptor came. */
static ssize_t told(const void *bytes, size_t length, unsigned char answer[64], bool *descriptor) {
  char control[256];
  struct iovec part = {answer, 64};
  struct msghdr message = {.msg_iov = &part,
                           .msg_iovlen = 1,
                           .msg_control = control,
                           .msg_controllen = sizeof control};
  const int fd = reach();
  CHECK(send(fd, bytes, length, MSG_NOSIGNAL) == (ssize_t)length, "send: %d", errno);
  const ssize_t got = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
  *descriptor = CMSG_FIRSTHDR(&message) != NULL && message.msg_controllen != 0;
  close(fd);
  return got;
}

static void strangers_exporter(int link) {
  const CUdeviceptr small = alloc(5000), pointer = alloc(BYTES);
  fill(pointer, WORDS, 1);
  say_handle(link, small);
  say_handle(link, pointer);
  meet(link);
  expect(pointer, WORDS, 1);
  OK(cuMemFree(pointer));
  OK(cuMemFree(small));
}

/* magic, export, allocation, offset, bytes: as in the handle, without its second word. */
static void question_of(const CUipcMemHandle *handle, uint64_t ask[5]) {
  uint64_t words[8];
  memcpy(words, handle, sizeof words);
  ask[0] = words[0];
  memcpy(ask + 1, words + 2, 32);
}

static void strangers_peer(int link) {
  CUipcMemHandle small, handle;
  uint64_t ask[5], wrong[5], random = 1;
  unsigned char answer[64], noise[2048];
  char name[32];
  bool descriptor;
  int held[24];
  hear(link, &small, sizeof small);
  hear(link, &handle, sizeof handle);
  memcpy(&ask[0], (char *)&handle + 8, 8);
  snprintf(name, sizeof name, "%016llx", (unsigned long long)ask[0]);
  setenv("GB_TEST_NAME", name, 1);
  question_of(&handle, ask);
  CHECK(told(ask, sizeof ask, answer, &descriptor) == 32 && descriptor, "the right question");
  for (size_t i = 0; i < 5; i++) { /* right but for one word */
    memcpy(wrong, ask, sizeof wrong);
    wrong[i] += i == 0 ? 1 : 512;
    const ssize_t got = told(wrong, sizeof wrong, answer, &descriptor);
    CHECK(!descriptor && got == (i == 0 ? 0 : 32), "word %zu wrong: %zd", i, got);
  }
  question_of(&small, wrong); /* the large one's id, the small one's numbers */
  wrong[1] = ask[1];
  told(wrong, sizeof wrong, answer, &descriptor);
  CHECK(!descriptor, "memory of another export was handed out");
  for (size_t length = 1; length < sizeof noise; length = length * 3 + 1) {
    for (size_t i = 0; i < length; i++) noise[i] = (unsigned char)check_random(&random);
    const ssize_t got = told(noise, length, answer, &descriptor);
    CHECK(got == 0 && !descriptor, "%zu bytes of noise", length);
  }
  for (int i = 0; i < 24; i++) held[i] = reach(); /* more than are served at once, and silent */
  const double before = soak_seconds();
  OK(try_open(&handle));
  CHECK(soak_seconds() - before < 8, "held up for %.1f s", soak_seconds() - before);
  for (int i = 0; i < 24; i++) close(held[i]);
  meet(link);
}

/* ---- kill -9 of either ---- */

static void killed_exporter(int link) {
  const CUdeviceptr pointer = alloc(BYTES);
  fill(pointer, WORDS, 1);
  say_handle(link, pointer);
  say_handle(link, alloc(100));
  meet(link);
  raise(SIGKILL);
}

static void killed_exporters_peer(int link) {
  CUipcMemHandle handle, small;
  CUdeviceptr pointer = 0;
  char mark;
  hear(link, &handle, sizeof handle);
  hear(link, &small, sizeof small);
  OK(cuIpcOpenMemHandle(&pointer, handle, FLAGS));
  meet(link);
  CHECK(!heard(link, &mark, 1), "it lives");
  expect(pointer, WORDS, 1); /* the pages are also ours */
  fill(pointer, WORDS, 2);
  expect(pointer, WORDS, 2);
  CHECK(try_open(&small) == CUDA_ERROR_INVALID_HANDLE, "memory of a dead process was opened");
  OK(cuIpcCloseMemHandle(pointer));
  CHECK(try_open(&handle) == CUDA_ERROR_INVALID_HANDLE, "memory of a dead process was opened");
}

static void killed_peers_exporter(int link) {
  const CUdeviceptr pointer = alloc(BYTES), other = alloc(BYTES);
  char mark;
  fill(pointer, WORDS, 1);
  fill(other, WORDS, 3);
  say_handle(link, pointer);
  meet(link);
  CHECK(!heard(link, &mark, 1), "it lives");
  expect(pointer, WORDS, 2);
  CUipcMemHandle handle;
  OK(cuIpcGetMemHandle(&handle, other)); /* and all goes on */
  expect(other, WORDS, 3);
  OK(cuMemFree(pointer));
  OK(cuMemFree(other));
}

static void killed_peer(int link) {
  const CUdeviceptr pointer = open_next(link);
  expect(pointer, WORDS, 1);
  fill(pointer, WORDS, 2);
  meet(link);
  raise(SIGKILL);
}

/* ---- fork ---- */

/* The child outlives its parent and must not stand for it. */
static void forked_exporter(int link) {
  const CUdeviceptr pointer = alloc(BYTES);
  fill(pointer, WORDS, 1);
  say_handle(link, pointer);
  meet(link);
  if (fork() == 0) {
    close(link); /* the parent's end is what the peer waits for */
    alarm(5);
    pause();
  }
}

static void forked_peer(int link) {
  CUipcMemHandle handle;
  char mark;
  hear(link, &handle, sizeof handle);
  OK(try_open(&handle));
  CUdeviceptr pointer = 0;
  OK(cuIpcOpenMemHandle(&pointer, handle, FLAGS));
  OK(cuIpcCloseMemHandle(pointer));
  OK(cuIpcCloseMemHandle(pointer));
  meet(link);
  CHECK(!heard(link, &mark, 1), "it lives");
  soak_sleep_us(100000); /* its end closes the link first, then the rest */
  const double before = soak_seconds();
  CHECK(try_open(&handle) == CUDA_ERROR_INVALID_HANDLE, "memory of a dead process was opened");
  CHECK(soak_seconds() - before < 1, "only after %.1f s", soak_seconds() - before);
}

/* ---- captures ---- */

static int capable(CUdeviceptr pointer) {
  int answer = 0;
  OK(cuPointerGetAttribute(&answer, CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE, pointer));
  return answer;
}

static void capture_exporter(int link) {
  const CUdeviceptr before = alloc(BYTES), during = alloc(BYTES);
  CUipcMemHandle handle;
  CUstream stream;
  CUgraph graph = NULL;
  fill(before, WORDS, 1);
  fill(during, WORDS, 2);
  OK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
  say_handle(link, before);
  CHECK(capable(before) && capable(during), "both can be shared");
  OK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
  CHECK(capable(before) && !capable(during), "only what is shared already");
  OK(cuIpcGetMemHandle(&handle, before));
  CHECK(cuIpcGetMemHandle(&handle, during) == CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "moved");
  OK(cuStreamEndCapture(stream, &graph));
  OK(cuGraphDestroy(graph));
  CHECK(capable(during), "again");
  say_handle(link, during);
  meet(link);
  OK(cuStreamDestroy(stream));
}

static void capture_peer(int link) {
  const CUdeviceptr first = open_next(link);
  CUdeviceptr base = 0;
  size_t bytes = 0;
  CUstream stream;
  CUgraph graph = NULL;
  OK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
  OK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
  OK(cuIpcCloseMemHandle(first)); /* not while a capture is live */
  OK(cuMemGetAddressRange(&base, &bytes, first));
  OK(cuStreamEndCapture(stream, &graph));
  OK(cuGraphDestroy(graph));
  const CUdeviceptr second = open_next(link); /* now it goes */
  const CUresult result = cuMemGetAddressRange(&base, &bytes, first);
  CHECK(result != CUDA_SUCCESS || base == second, "still there");
  expect(second, WORDS, 2);
  OK(cuIpcCloseMemHandle(second));
  meet(link);
  OK(cuStreamDestroy(stream));
}

/* ---- VRAM: a budget of 32 MiB ---- */

static void room_exporter(int link) {
  CUipcMemHandle handle;
  const bool staging = strcmp(getenv("GREENBOOST_STAGING"), "off") != 0;
  const CUdeviceptr tight = alloc(24 * MIB); /* in VRAM, which has no room for it twice */
  fill(tight, 24 * MIB / 8, 1);
  const double before = soak_seconds();
  const CUdeviceptr large = alloc(40 * MIB);
  for (int i = 0; i < 2; i++)
    CHECK(cuIpcGetMemHandle(&handle, large) == CUDA_ERROR_OUT_OF_MEMORY, "more than all VRAM");
  CHECK(soak_seconds() - before < 2, "refused after %.1f s only", soak_seconds() - before);
  OK(cuMemFree(large));
  if (staging) /* it goes to RAM first, to make room for itself */
    say_handle(link, tight);
  else
    CHECK(cuIpcGetMemHandle(&handle, tight) == CUDA_ERROR_OUT_OF_MEMORY, "there was room");
  meet(link);
  expect(tight, 24 * MIB / 8, staging ? 2 : 1);
  OK(cuMemFree(tight));
}

static void room_peer(int link) {
  if (strcmp(getenv("GREENBOOST_STAGING"), "off") != 0) {
    const CUdeviceptr pointer = open_next(link);
    expect(pointer, 24 * MIB / 8, 1);
    fill(pointer, 24 * MIB / 8, 2);
    OK(cuIpcCloseMemHandle(pointer));
  }
  meet(link);
}

/* ---- a driver that refuses (GBSIM_FAIL): all is as before, and the next try may work ---- */

static void refused_exporter(int link) {
  const CUdeviceptr pointer = alloc(BYTES);
  CUipcMemHandle handle;
  int refusals = 0;
  fill(pointer, WORDS, 1);
  for (; cuIpcGetMemHandle(&handle, pointer) != CUDA_SUCCESS && refusals < 20; refusals++)
    expect(pointer, WORDS, 1);
  /* Seven are planted; which tries meet two at once depends on the memory left over from the one before. */
  CHECK(refusals >= 4 && refusals <= 7, "%d refusals", refusals);
  say(link, &handle, sizeof handle);
  meet(link);
  expect(pointer, WORDS, 2);
  OK(cuMemFree(pointer));
}

static void refused_peer(int link) {
  CUipcMemHandle handle;
  CUdeviceptr pointer = 0;
  int refusals = 0;
  hear(link, &handle, sizeof handle);
  for (; cuIpcOpenMemHandle(&pointer, handle, FLAGS) != CUDA_SUCCESS && refusals < 20;) refusals++;
  CHECK(refusals == 4, "%d refusals", refusals);
  fill(pointer, WORDS, 2);
  OK(cuIpcCloseMemHandle(pointer));
  meet(link);
}

/* ---- memory that is away: VRAM and RAM hold less than there is ---- */

#define AWAY 12
#define AWAY_WORDS (8 * MIB / 8)

static void away_exporter(int link) {
  CUdeviceptr pointers[AWAY];
  for (uint64_t i = 0; i < AWAY; i++) {
    pointers[i] = alloc(AWAY_WORDS * 8);
    if (i > 0) fill(pointers[i], AWAY_WORDS, i); /* the first was never written */
  }
  say_handle(link, pointers[0]);
  say_handle(link, pointers[1]);
  for (uint64_t i = 2; i < AWAY; i++) expect(pointers[i], AWAY_WORDS, i);
  meet(link);
  for (uint64_t i = 0; i < AWAY; i++) expect(pointers[i], AWAY_WORDS, i < 2 ? 50 + i : i);
  for (uint64_t i = 0; i < AWAY; i++) OK(cuMemFree(pointers[i]));
}

static void away_peer(int link) {
  const CUdeviceptr unwritten = open_next(link), pointer = open_next(link);
  expect(pointer, AWAY_WORDS, 1);
  fill(unwritten, AWAY_WORDS, 50);
  fill(pointer, AWAY_WORDS, 51);
  OK(cuIpcCloseMemHandle(unwritten));
  OK(cuIpcCloseMemHandle(pointer));
  meet(link);
}

/* ---- a GPU that is busy for a while, and for ever ---- */

static void busy_exporter(int link) {
  static uint32_t word; /* the stream waits for it */
  const CUdeviceptr pointer = alloc(BYTES);
  CUipcMemHandle handle;
  CUstream stream;
  fill(pointer, WORDS, 1);
  OK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
  OK(cuMemHostRegister(&word, sizeof word, 0));
  OK(cuStreamWaitValue32(stream, (CUdeviceptr)(uintptr_t)&word, 1, CU_STREAM_WAIT_VALUE_GEQ));
  OK(cuMemsetD8Async(pointer, 0, 8, stream));
  const double before = soak_seconds();
  CHECK(cuIpcGetMemHandle(&handle, pointer) == CUDA_ERROR_MAP_FAILED, "moved while it was used");
  CHECK(soak_seconds() - before < 40, "given up after %.1f s only", soak_seconds() - before);
  __atomic_store_n(&word, 1, __ATOMIC_RELEASE);
  OK(cuStreamSynchronize(stream));
  say_handle(link, pointer);
  meet(link);
  OK(cuMemHostUnregister(&word));
  OK(cuStreamDestroy(stream));
  OK(cuMemFree(pointer));
}

static void busy_peer(int link) {
  uint64_t first = 1;
  const CUdeviceptr pointer = open_next(link);
  OK(cuMemcpyDtoH(&first, pointer, 8));
  CHECK(first == 0, "what waited did not run");
  OK(cuIpcCloseMemHandle(pointer));
  meet(link);
}

int main(int argc, char **argv) {
  static const struct pair_case cases[] = {
      {"damaged", damaged_exporter, damaged_peer, 0, 0},
      {"strangers", strangers_exporter, strangers_peer, 0, 0},
      {"killed-exporter", killed_exporter, killed_exporters_peer, SIGKILL, 0},
      {"killed-peer", killed_peers_exporter, killed_peer, 0, SIGKILL},
      {"forked", forked_exporter, forked_peer, 0, 0},
      {"capture", capture_exporter, capture_peer, 0, 0},
      {"room", room_exporter, room_peer, 0, 0},
      {"refused", refused_exporter, refused_peer, 0, 0},
      {"away", away_exporter, away_peer, 0, 0},
      {"busy", busy_exporter, busy_peer, 0, 0},
  };
  return pair_main(argc, argv, cases, sizeof cases / sizeof cases[0]);
}
