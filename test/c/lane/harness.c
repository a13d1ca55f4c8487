/* SPDX-License-Identifier: Apache-2.0 */
/*
 * harness.c: see harness.h.
 */
#include "harness.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* ---- small things ---- */

uint64_t now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

void sleep_ms(uint32_t milliseconds) {
  struct timespec pause = {.tv_sec = milliseconds / 1000, .tv_nsec = milliseconds % 1000 * 1000000l};
  while (nanosleep(&pause, &pause) != 0) continue;
}

uint64_t random_next(uint64_t *state) {
  uint64_t x = *state += 0x9E3779B97F4A7C15ull;
  x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ x >> 27) * 0x94D049BB133111EBull;
  return x ^ x >> 31;
}

uint8_t pattern(uint64_t seed, uint64_t offset) {
  uint64_t x = (seed + 1) * 0x9E3779B97F4A7C15ull ^ offset * 0xD6E8FEB86659FD93ull;
  return (uint8_t)(x >> 56 ^ x >> 23);
}

void fill_pattern(uint8_t *memory, uint64_t seed, uint64_t offset, size_t bytes) {
  for (size_t i = 0; i < bytes; i++) memory[i] = pattern(seed, offset + i);
}

bool is_pattern(const uint8_t *memory, uint64_t seed, uint64_t offset, size_t bytes) {
  for (size_t i = 0; i < bytes; i++) {
    if (memory[i] != pattern(seed, offset + i)) return false;
  }
  return true;
}

/* With "." and "..". */
static int entries(const char *path) {
  DIR *folder = opendir(path);
  int count = 0;
  while (folder != NULL && readdir(folder) != NULL) count++;
  if (folder != NULL) closedir(folder);
  return count;
}

int open_descriptors(void) {
  return entries("/proc/self/fd");
}

int threads(void) {
#if defined(__SANITIZE_THREAD__)
  return 1; /* it has threads of its own, and reports those that leak */
#endif
  int count = 0;
  for (int i = 0; i < 100; i++) { /* a thread that was joined is listed for a moment more */
    count = entries("/proc/self/task") - 2;
    if (count == 1) break;
    sleep_ms(10);
  }
  return count;
}

static void fatal(const char *what) {
  fprintf(stderr, "harness: %s (%s)\n", what, strerror(errno));
  exit(3);
}

bool send_whole(int fd, const void *bytes, size_t count) {
  const uint8_t *at = bytes;
  while (count > 0) {
    ssize_t sent = send(fd, at, count, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) return false;
    at += sent;
    count -= (size_t)sent;
  }
  return true;
}

size_t receive_whole(int fd, void *bytes, size_t count) {
  size_t have = 0;
  uint64_t until = now_ms() + 2000;
  while (have < count && now_ms() < until) {
    struct pollfd polled = {.fd = fd, .events = POLLIN};
    if (poll(&polled, 1, 100) <= 0) continue;
    ssize_t got = recv(fd, (uint8_t *)bytes + have, count - have, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    have += (size_t)got;
  }
  return have;
}

int dial(uint16_t port) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return -1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0) return fd;
  close(fd);
  return -1;
}

/* ---- the server's process ---- */

enum order {
  GRANT,
  EXPORT,
  EXPORT_BACKED,
  EXPORT_OFFERING,
  UNEXPORT,
  REVOKE,
  WINDOW,
  RATE,
  COUNTERS,
  SERVER_COUNTERS,
  EVENT,
  BACKING,
};

struct call {
  enum order order;
  struct gb_lane_grant grant;
  uint8_t ticket[GB_LANE_TICKET_ID_BYTES];
  uint32_t region, rights, window, delay_us, fail_from;
  uint64_t offset, bytes, block_bytes;
};

struct reply {
  int status;
  union {
    struct gb_lane_counters counters;
    struct gb_lane_server_counters server;
    struct gb_lane_event event;
    struct backing_calls backing;
  } is;
};

static struct {
  uint8_t *_Atomic memory;
  _Atomic uint32_t delay_us, fail_from;
  _Atomic uint32_t prepared, acquired, released, committed, held;
} backing;

static void backing_prepare(void *context, uint64_t offset, uint64_t bytes) {
  (void)context, (void)offset, (void)bytes;
  backing.prepared++;
}

static void *backing_acquire(void *context, uint64_t offset, uint64_t bytes, int for_write, uint64_t *token) {
  (void)context;
  uint32_t number = ++backing.acquired;
  if (backing.delay_us > 0) usleep(backing.delay_us);
  if (backing.fail_from != 0 && number >= backing.fail_from) {
    backing.released++;
    return NULL;
  }
  uint8_t *bounce = malloc(bytes);
  if (bounce != NULL && !for_write) memcpy(bounce, backing.memory + offset, bytes);
  *token = offset;
  return bounce;
}

static int backing_release(void *context, uint64_t token, void *memory, uint64_t offset, uint64_t bytes,
                           int commit) {
  (void)context;
  if (token != offset) abort();
  if (commit) memcpy(backing.memory + offset, memory, bytes);
  if (commit) backing.committed++;
  backing.released++;
  free(memory);
  return 0;
}

static const struct gb_lane_backing backing_calls = {
    .prepare = backing_prepare, .acquire = backing_acquire, .release = backing_release};

/* What a content cache would be: blocks that lie behind the region. */
static struct {
  uint8_t *region, *blocks;
  uint32_t count, delay_us;
  uint64_t block_bytes;
  uint8_t digests[256][GB_LANE_DIGEST_BYTES];
} known;

static void known_offer(void *context, uint64_t offset, uint64_t block_bytes, const uint8_t *digests, uint32_t count,
                        uint8_t *have) {
  (void)context;
  if (count == 0 || count > GB_LANE_OFFER_BLOCKS_AT_ONCE) abort();
  if (known.delay_us > 0) usleep(known.delay_us);
  for (uint32_t i = 0; i < count; i++) {
    for (uint32_t k = 0; k < known.count && block_bytes == known.block_bytes; k++) {
      if (memcmp(known.digests[k], digests + i * GB_LANE_DIGEST_BYTES, GB_LANE_DIGEST_BYTES) != 0) continue;
      memcpy(known.region + offset + i * block_bytes, known.blocks + k * block_bytes, block_bytes);
      have[i / 8] |= (uint8_t)(1 << i % 8);
    }
  }
}

static const struct gb_lane_backing known_calls = {.offer = known_offer};

static void learn(const struct host *host, const struct call *call) {
  known.region = host->memory;
  known.blocks = host->memory + call->bytes;
  known.block_bytes = call->block_bytes;
  known.delay_us = call->delay_us;
  known.count = (uint32_t)((host->bytes - call->bytes) / call->block_bytes);
  if (known.count > 256) known.count = 256;
  gb_lane_digests(known.blocks, known.block_bytes, known.count, known.digests[0], 1);
}

static int export(gb_lane_server *server, const struct host *host, const struct call *call) {
  struct gb_lane_region region = {.size = sizeof region,
                                  .id = call->region,
                                  .rights = call->rights,
                                  .bytes = call->bytes,
                                  .base = host->memory + call->offset};
  if (call->order == EXPORT_BACKED) {
    backing.memory = host->memory;
    backing.delay_us = call->delay_us;
    backing.fail_from = call->fail_from;
    region.base = NULL;
    region.backing = &backing_calls;
  }
  if (call->order == EXPORT_OFFERING) {
    learn(host, call);
    region.backing = &known_calls;
  }
  return gb_lane_export(server, call->ticket, &region);
}

static void serve_call(gb_lane_server *server, const struct host *host, const struct call *call,
                       struct reply *reply) {
  switch (call->order) {
    case GRANT: reply->status = gb_lane_grant_add(server, &call->grant); break;
    case EXPORT:
    case EXPORT_OFFERING:
    case EXPORT_BACKED: reply->status = export(server, host, call); break;
    case UNEXPORT: reply->status = gb_lane_unexport(server, call->ticket, call->region); break;
    case REVOKE: reply->status = gb_lane_grant_revoke(server, call->ticket); break;
    case WINDOW: reply->status = gb_lane_grant_window(server, call->ticket, call->window); break;
    case RATE: reply->status = gb_lane_grant_rate(server, call->ticket, call->bytes); break;
    case COUNTERS: reply->status = gb_lane_grant_counters(server, call->ticket, &reply->is.counters); break;
    case SERVER_COUNTERS: reply->status = gb_lane_server_counters(server, &reply->is.server); break;
    case EVENT: reply->status = (int)gb_lane_server_events(server, &reply->is.event, 1); break;
    case BACKING:
      reply->is.backing = (struct backing_calls){backing.prepared, backing.acquired, backing.released,
                                                 backing.committed};
      backing.prepared = backing.acquired = backing.released = backing.committed = 0;
  }
}

/* Lives until its control socket closes. Its exit status says whether anything was left behind. */
static void serve(struct host *host, int control, const char *address, int adopt_fd,
                  const struct gb_lane_tuning *tuning) {
  struct gb_lane_server_options options = {
      .size = sizeof options, .fd = -1, .address = address, .adopt_fd = adopt_fd};
  struct call call;
  gb_lane_server *server;
  if (tuning != NULL) options.tuning = *tuning;
  int descriptors = open_descriptors() - (adopt_fd > 0);
  if (gb_lane_server_open(&options, &server) != GB_LANE_OK) _exit(4);
  uint16_t port = (uint16_t)gb_lane_server_port(server);
  send_whole(control, &port, sizeof port);
  while (recv(control, &call, sizeof call, MSG_WAITALL) == (ssize_t)sizeof call) {
    struct reply reply = {0};
    serve_call(server, host, &call, &reply);
    send_whole(control, &reply, sizeof reply);
  }
  gb_lane_server_close(server);
  if (open_descriptors() != descriptors) _exit(5);
  if (threads() != 1) _exit(6);
  exit(0); /* the leak checker looks */
}

/* What a server inherits of this process would keep other servers' sockets open. */
static void close_all_but(int first, int second) {
  int low = first < second ? first : second, high = first < second ? second : first;
  if (low > 3) close_range(3, (unsigned)low - 1, 0);
  if (high > low + 1) close_range((unsigned)(low < 3 ? 3 : low + 1), (unsigned)high - 1, 0);
  close_range((unsigned)high + 1, ~0u, 0);
}

static struct host start(const char *address, int adopt_fd, size_t bytes, const struct gb_lane_tuning *tuning) {
  int pair[2];
  struct host host = {.bytes = bytes};
  if (!lane_crypt_ready()) fatal("libcrypto.so.3"); /* before anybody counts descriptors */
  host.memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (host.memory == MAP_FAILED || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) fatal("memory");
  fflush(NULL);
  host.pid = fork();
  if (host.pid < 0) fatal("fork");
  if (host.pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    close_all_but(pair[1], adopt_fd);
    serve(&host, pair[1], address, adopt_fd, tuning);
  }
  close(pair[1]);
  if (adopt_fd > 0) close(adopt_fd);
  host.control = pair[0];
  if (recv(host.control, &host.port, sizeof host.port, MSG_WAITALL) != (ssize_t)sizeof host.port)
    fatal("server");
  return host;
}

struct host host_start(const char *address, size_t bytes, const struct gb_lane_tuning *tuning) {
  return start(address, 0, bytes, tuning);
}

struct host host_start_behind(int adopt_fd, size_t bytes, const struct gb_lane_tuning *tuning) {
  return start(NULL, adopt_fd, bytes, tuning);
}

int host_end(struct host *host) {
  int status = 0;
  close(host->control);
  if (host->pid > 0 && waitpid(host->pid, &status, 0) != host->pid) status = -1;
  munmap(host->memory, host->bytes);
  return status;
}

void host_signal(struct host *host, int signal) {
  kill(host->pid, signal);
  if (signal != SIGKILL) return;
  waitpid(host->pid, NULL, 0);
  host->pid = 0;
}

static struct reply ask(struct host *host, struct call *call, const struct gb_lane_ticket *ticket) {
  struct reply reply = {.status = -1};
  if (ticket != NULL) memcpy(call->ticket, ticket->id, sizeof call->ticket);
  if (!send_whole(host->control, call, sizeof *call) ||
      recv(host->control, &reply, sizeof reply, MSG_WAITALL) != (ssize_t)sizeof reply)
    fatal("the server does not answer");
  return reply;
}

struct gb_lane_ticket host_grant(struct host *host, uint32_t connections, uint32_t ttl_ms, uint32_t window,
                                 uint32_t rights) {
  struct call call = {.order = GRANT};
  call.grant = (struct gb_lane_grant){.size = sizeof call.grant,
                                      .connections = connections,
                                      .ttl_ms = ttl_ms,
                                      .window = window,
                                      .tag = 42};
  lane_random(&call.grant.ticket, sizeof call.grant.ticket);
  if (ask(host, &call, NULL).status != GB_LANE_OK) fatal("grant");
  if (rights != 0 && host_export(host, &call.grant.ticket, REGION, 0, host->bytes, rights) != GB_LANE_OK)
    fatal("export");
  return call.grant.ticket;
}

int host_export(struct host *host, const struct gb_lane_ticket *ticket, uint32_t region, uint64_t offset,
                uint64_t bytes, uint32_t rights) {
  struct call call = {.order = EXPORT, .region = region, .offset = offset, .bytes = bytes, .rights = rights};
  return ask(host, &call, ticket).status;
}

int host_export_backed(struct host *host, const struct gb_lane_ticket *ticket, uint32_t region,
                       uint32_t delay_us, uint32_t fail_from) {
  struct call call = {.order = EXPORT_BACKED,
                      .region = region,
                      .bytes = host->bytes,
                      .rights = GB_LANE_MAY_READ | GB_LANE_MAY_WRITE,
                      .delay_us = delay_us,
                      .fail_from = fail_from};
  return ask(host, &call, ticket).status;
}

int host_export_offering(struct host *host, const struct gb_lane_ticket *ticket, uint32_t region, uint64_t bytes,
                         uint64_t block_bytes, uint32_t delay_us) {
  struct call call = {.order = EXPORT_OFFERING,
                      .region = region,
                      .bytes = bytes,
                      .block_bytes = block_bytes,
                      .rights = GB_LANE_MAY_READ | GB_LANE_MAY_WRITE,
                      .delay_us = delay_us};
  return ask(host, &call, ticket).status;
}

int host_unexport(struct host *host, const struct gb_lane_ticket *ticket, uint32_t region) {
  struct call call = {.order = UNEXPORT, .region = region};
  return ask(host, &call, ticket).status;
}

int host_revoke(struct host *host, const struct gb_lane_ticket *ticket) {
  struct call call = {.order = REVOKE};
  return ask(host, &call, ticket).status;
}

int host_window(struct host *host, const struct gb_lane_ticket *ticket, uint32_t window) {
  struct call call = {.order = WINDOW, .window = window};
  return ask(host, &call, ticket).status;
}

int host_rate(struct host *host, const struct gb_lane_ticket *ticket, uint64_t bytes_per_second) {
  struct call call = {.order = RATE, .bytes = bytes_per_second};
  return ask(host, &call, ticket).status;
}

struct gb_lane_counters host_counters(struct host *host, const struct gb_lane_ticket *ticket) {
  struct call call = {.order = COUNTERS};
  return ask(host, &call, ticket).is.counters;
}

struct gb_lane_server_counters host_server_counters(struct host *host) {
  struct call call = {.order = SERVER_COUNTERS};
  return ask(host, &call, NULL).is.server;
}

struct backing_calls host_backing(struct host *host) {
  struct call call = {.order = BACKING};
  return ask(host, &call, NULL).is.backing;
}

int host_ended(struct host *host, const struct gb_lane_ticket *ticket) {
  for (uint64_t until = now_ms() + 4000; now_ms() < until;) {
    struct call call = {.order = EVENT};
    struct reply reply = ask(host, &call, NULL);
    if (reply.status == 0) sleep_ms(5);
    if (reply.status == 1 && reply.is.event.kind == GB_LANE_EVENT_CLOSED &&
        memcmp(reply.is.event.ticket, ticket->id, sizeof ticket->id) == 0) {
      if (reply.is.event.tag != 42) fatal("an event without its tag");
      return (int)reply.is.event.status;
    }
  }
  return -1;
}

gb_lane *lane_to(const struct host *host, const struct gb_lane_ticket *ticket, uint32_t connections,
                 const struct gb_lane_tuning *tuning) {
  struct gb_lane_options options = {.size = sizeof options, .connections = connections};
  gb_lane *lane = NULL;
  if (tuning != NULL) options.tuning = *tuning;
  int status = gb_lane_open("127.0.0.1", host->port, ticket, &options, &lane);
  if (status != GB_LANE_OK) fatal(gb_lane_status_name(status));
  return lane;
}

/* ---- the relay ---- */

#define RELAYED_MAX 12
struct relayed {
  int from[2]; /* the client's, the server's */
  uint64_t passed[2];
};

struct relay {
  int listener, stop[2];
  uint16_t to_port;
  relay_edit edit;
  void *context;
  pthread_t thread;
  _Atomic bool frozen;
  struct relayed relayed[RELAYED_MAX];
  int count;
};

static void relay_end(struct relayed *relayed) {
  for (int i = 0; i < 2; i++) {
    if (relayed->from[i] >= 0) close(relayed->from[i]);
    relayed->from[i] = -1;
  }
}

static void relay_pass(struct relay *relay, int connection, int side) {
  static uint8_t bytes[65536]; /* one relay at a time */
  struct relayed *relayed = &relay->relayed[connection];
  ssize_t got = recv(relayed->from[side], bytes, sizeof bytes, MSG_DONTWAIT);
  if (got < 0 && errno == EAGAIN) return;
  size_t pass = 0;
  if (got > 0)
    pass = relay->edit(relay->context, connection, side == 0, relayed->passed[side], bytes, (size_t)got);
  relayed->passed[side] += pass;
  bool sent = pass == 0 || send_whole(relayed->from[1 - side], bytes, pass);
  if (got <= 0 || pass < (size_t)got || !sent) relay_end(relayed);
}

static void relay_welcome(struct relay *relay) {
  int fd = accept4(relay->listener, NULL, NULL, SOCK_CLOEXEC);
  if (fd < 0 || relay->count == RELAYED_MAX) return;
  struct relayed *relayed = &relay->relayed[relay->count++];
  *relayed = (struct relayed){.from = {fd, dial(relay->to_port)}};
  if (relayed->from[1] < 0) relay_end(relayed);
}

static void *relay_life(void *argument) {
  struct relay *relay = argument;
  for (;;) {
    struct pollfd polled[2 + 2 * RELAYED_MAX] = {{.fd = relay->stop[0], .events = POLLIN},
                                                 {.fd = relay->listener, .events = POLLIN}};
    int count = relay->count;
    for (int i = 0; i < 2 * count && !relay->frozen; i++)
      polled[2 + i] = (struct pollfd){.fd = relay->relayed[i / 2].from[i % 2], .events = POLLIN};
    poll(polled, (nfds_t)(relay->frozen ? 1 : 2 + 2 * count), relay->frozen ? 20 : 100);
    if (polled[0].revents != 0) return NULL;
    if (relay->frozen) continue;
    for (int i = 0; i < 2 * count; i++) {
      if (polled[2 + i].revents != 0 && relay->relayed[i / 2].from[i % 2] >= 0) relay_pass(relay, i / 2, i % 2);
    }
    if (polled[1].revents != 0) relay_welcome(relay);
  }
}

struct relay *relay_start(uint16_t to_port, relay_edit edit, void *context, uint16_t *port) {
  struct relay *relay = calloc(1, sizeof *relay);
  struct sockaddr_in address = {.sin_family = AF_INET};
  socklen_t length = sizeof address;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  relay->to_port = to_port;
  relay->edit = edit;
  relay->context = context;
  relay->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (relay->listener < 0 || bind(relay->listener, (struct sockaddr *)&address, length) != 0 ||
      listen(relay->listener, 16) != 0 || pipe(relay->stop) != 0 ||
      getsockname(relay->listener, (struct sockaddr *)&address, &length) != 0 ||
      pthread_create(&relay->thread, NULL, relay_life, relay) != 0)
    fatal("relay");
  *port = ntohs(address.sin_port);
  return relay;
}

void relay_freeze(struct relay *relay) {
  relay->frozen = true;
}

void relay_stop(struct relay *relay) {
  close(relay->stop[1]);
  pthread_join(relay->thread, NULL);
  close(relay->stop[0]);
  close(relay->listener);
  for (int i = 0; i < relay->count; i++) relay_end(&relay->relayed[i]);
  free(relay);
}

/* ---- a peer by hand ---- */

bool peer_open(struct peer *peer, uint16_t port, const struct gb_lane_ticket *ticket, uint8_t index) {
  return peer_open_with(peer, port, ticket, index, 0);
}

bool peer_open_with(struct peer *peer, uint16_t port, const struct gb_lane_ticket *ticket, uint8_t index,
                    uint32_t features) {
  struct lane_opening opening = {.major = GB_LANE_VERSION_MAJOR,
                                 .features = features,
                                 .index = index,
                                 .ciphers = 1u << GB_LANE_CIPHER_AES_256_GCM,
                                 .record_bytes = GB_LANE_RECORD_BYTES,
                                 .heartbeat_ms = 500};
  struct lane_answer answer;
  uint8_t frame[LANE_OPENING_BYTES], reply[LANE_OPENING_BYTES];
  memcpy(opening.ticket, ticket->id, sizeof opening.ticket);
  lane_random(opening.random, sizeof opening.random);
  *peer = (struct peer){.fd = dial(port)};
  if (!lane_opening_write(frame, &opening, ticket->secret) || !send_whole(peer->fd, frame, sizeof frame) ||
      receive_whole(peer->fd, reply, sizeof reply) != sizeof reply ||
      lane_answer_read(reply, &answer, frame, ticket->secret) != GB_LANE_OK) {
    close(peer->fd);
    return false;
  }
  peer->record_bytes = answer.record_bytes;
  peer->window = answer.window;
  const struct lane_aead *aead = lane_crypt_find(GB_LANE_CIPHER_AES_256_GCM, GB_LANE_PROVIDER_OPENSSL);
  return lane_key_first(&peer->seal, aead, true, true, ticket->secret, frame, reply) &&
         lane_key_first(&peer->open, aead, false, false, ticket->secret, frame, reply);
}

void peer_close(struct peer *peer) {
  close(peer->fd);
  lane_key_end(&peer->seal);
  lane_key_end(&peer->open);
}

bool peer_say(struct peer *peer, const struct lane_head *head, const void *body) {
  uint8_t sealed[LANE_SEALED_HEAD_BYTES];
  if (!lane_head_seal(&peer->seal, head, sealed) || !send_whole(peer->fd, sealed, sizeof sealed)) return false;
  if (body == NULL) return true;
  uint8_t *bytes = malloc(head->body_bytes + LANE_TAG_BYTES);
  bool right = bytes != NULL && lane_key_begin(&peer->seal, head->body_bytes) &&
               peer->seal.aead->update(peer->seal.context, body, bytes, head->body_bytes) &&
               peer->seal.aead->tag(peer->seal.context, bytes + head->body_bytes) &&
               send_whole(peer->fd, bytes, head->body_bytes + LANE_TAG_BYTES);
  free(bytes);
  return right;
}

static bool hear_body(struct peer *peer, uint32_t count, void *body) {
  uint8_t *bytes = malloc(count + LANE_TAG_BYTES);
  bool right = bytes != NULL && receive_whole(peer->fd, bytes, count + LANE_TAG_BYTES) == count + LANE_TAG_BYTES &&
               lane_key_begin(&peer->open, count) &&
               peer->open.aead->update(peer->open.context, bytes, body, count) &&
               peer->open.aead->verify(peer->open.context, bytes + count);
  free(bytes);
  return right;
}

bool peer_hear(struct peer *peer, struct lane_head *head, void *body) {
  uint8_t sealed[LANE_SEALED_HEAD_BYTES];
  do {
    if (receive_whole(peer->fd, sealed, sizeof sealed) != sizeof sealed) return false;
    if (lane_head_open(&peer->open, sealed, head, peer->record_bytes, false) != GB_LANE_OK) return false;
  } while (head->type == LANE_PING || head->type == LANE_CREDIT);
  return head->body_bytes == 0 || hear_body(peer, head->body_bytes, body);
}
