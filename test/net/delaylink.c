/* SPDX-License-Identifier: Apache-2.0 */
/*
 * delaylink: a line between two network namespaces, as slow, far and bad as asked for.
 *
 *   delaylink --a PID --b PID [--name gbd0] [--mtu 1500] [--seed 1] [SETTING VALUE ...]
 *
 * makes a TUN device of that name in the network namespace of each of two processes and moves packets between them
 * until its input ends. It prints `ready`, reads commands from its input, one a line, and answers each with one line:
 *
 *   set [a|b] SETTING VALUE ...   for what a (b) sends; both without a letter
 *   cut [a|b]    join [a|b]       nothing that a (b) sends arrives, nor what is under way; it does again
 *   stats                         one JSON object of counters for each direction
 *
 * Settings: rate (1Gbit, 10Mbit, 0: no bound), delay (0.5ms, 85us; one way), jitter (up to so much more), reorder (1:
 * jitter may change the order of packets), loss (0.05, or 5%), queue (bytes that may wait for the line, 0: 10 ms of it
 * and at least 256 KiB), spin (sleeps shorter than this are not slept: exact, and a busy core).
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "link.h"

#define WORDS_MAX 32
#define LINE_BYTES 512

static struct direction directions[2] = {{.name = "a"}, {.name = "b"}};

void fatal(const char *what) {
  fprintf(stderr, "delaylink: %s (%s)\n", what, strerror(errno));
  exit(1);
}

struct unit {
  const char *name;
  double factor;
};

static bool number_with(const char *text, const struct unit *units, double *value) {
  char *end = NULL;
  const double number = strtod(text, &end);
  if (end == text || !(number >= 0)) return false;
  for (; units->name != NULL; units++) {
    if (strcmp(end, units->name) != 0) continue;
    *value = number * units->factor;
    return *value < 0x1p53;
  }
  return false;
}

static bool setting_read(struct settings *settings, const char *name, const char *text) {
  static const struct unit rates[] = {{"", 1}, {"Kbit", 1e3}, {"Mbit", 1e6}, {"Gbit", 1e9}, {NULL, 0}};
  static const struct unit times[] = {{"s", 1e9}, {"ms", 1e6}, {"us", 1e3}, {"", 1e9}, {NULL, 0}};
  static const struct unit parts[] = {{"", 1}, {"%", 0.01}, {NULL, 0}};
  static const struct unit sizes[] = {{"", 1}, {"KiB", 1024}, {"MiB", 1048576}, {NULL, 0}};
  const bool rate = strcmp(name, "rate") == 0, loss = strcmp(name, "loss") == 0, queue = strcmp(name, "queue") == 0;
  const bool reorder = strcmp(name, "reorder") == 0;
  double value;
  if (!number_with(text, rate ? rates : loss || reorder ? parts : queue ? sizes : times, &value)) return false;
  if (rate) settings->rate = (uint64_t)value;
  else if (loss && value <= 1) settings->loss = value;
  else if (queue) settings->queue = (uint64_t)value;
  else if (reorder) settings->reorder = value != 0;
  else if (strcmp(name, "delay") == 0) settings->delay = (uint64_t)value;
  else if (strcmp(name, "jitter") == 0) settings->jitter = (uint64_t)value;
  else if (strcmp(name, "spin") == 0) settings->spin = (uint64_t)value;
  else return false;
  return true;
}

/* ---- commands ---- */

static const char *command_set(struct settings *settings, char **words, int count) {
  if (count == 0 || count % 2 != 0) return "settings come in pairs: NAME VALUE";
  for (int i = 0; i < count; i += 2)
    if (!setting_read(settings, words[i], words[i + 1])) return words[i];
  return NULL;
}

/* Does a command for one direction. returns: NULL, or what is wrong with it. */
static const char *command_for(struct direction *direction, const char *verb, char **words, int count) {
  struct settings settings = direction->wanted;
  const char *wrong = NULL;
  if (strcmp(verb, "set") == 0) wrong = command_set(&settings, words, count);
  else if (strcmp(verb, "cut") == 0 && count == 0) settings.cut = true;
  else if (strcmp(verb, "join") == 0 && count == 0) settings.cut = false;
  else wrong = "unknown command";
  if (wrong == NULL) direction_set(direction, &settings);
  return wrong;
}

static void print_stats(void) {
  for (int i = 0; i < 2; i++) {
    struct counters *counters = &directions[i].counters;
    printf("%s\"%s\":{\"packets\":%llu,\"bytes\":%llu,\"lost\":%llu,\"queueDropped\":%llu,\"cutDropped\":%llu,"
           "\"overflowed\":%llu,\"writeFailed\":%llu,\"queuePeakBytes\":%llu}",
           i == 0 ? "{" : ",", directions[i].name, atomic_load(&counters->packets), atomic_load(&counters->bytes),
           atomic_load(&counters->lost), atomic_load(&counters->queue_dropped), atomic_load(&counters->cut_dropped),
           atomic_load(&counters->overflowed), atomic_load(&counters->write_failed),
           atomic_load(&counters->queue_peak));
  }
  printf("}\n");
}

static void command(char *line) {
  char *words[WORDS_MAX], *kept = NULL;
  int count = 0;
  const char *between = " \t\r\n";
  for (char *word = strtok_r(line, between, &kept); word != NULL && count < WORDS_MAX;
       word = strtok_r(NULL, between, &kept))
    words[count++] = word;
  if (count == 0) return;
  if (strcmp(words[0], "stats") == 0) {
    print_stats();
    return;
  }
  const char *wrong = NULL;
  const bool one = count > 1 && words[1][1] == '\0' && (words[1][0] == 'a' || words[1][0] == 'b');
  for (int i = 0; i < 2 && wrong == NULL; i++) {
    if (one && words[1][0] != directions[i].name[0]) continue;
    wrong = command_for(&directions[i], words[0], words + 1 + one, count - 1 - one);
  }
  if (wrong == NULL) printf("ok\n");
  else printf("error: %s\n", wrong);
}

/* ---- start ---- */

struct arguments {
  pid_t a, b;
  const char *name;
  unsigned mtu;
  uint64_t seed;
  struct settings settings;
};

static struct arguments arguments_read(int argc, char **argv) {
  struct arguments arguments = {.name = "gbd0", .mtu = 1500, .seed = 1};
  for (int i = 1; i < argc; i += 2) {
    const char *value = i + 1 < argc ? argv[i + 1] : "";
    if (strcmp(argv[i], "--a") == 0) arguments.a = atoi(value);
    else if (strcmp(argv[i], "--b") == 0) arguments.b = atoi(value);
    else if (strcmp(argv[i], "--name") == 0) arguments.name = value;
    else if (strcmp(argv[i], "--mtu") == 0) arguments.mtu = (unsigned)atoi(value);
    else if (strcmp(argv[i], "--seed") == 0) arguments.seed = strtoull(value, NULL, 10);
    else if (!setting_read(&arguments.settings, argv[i], value)) {
      fprintf(stderr, "delaylink: %s %s is no option or setting\n", argv[i], value);
      exit(2);
    }
  }
  if (arguments.a <= 0 || arguments.b <= 0) {
    fprintf(stderr, "delaylink --a PID --b PID [--name gbd0] [--mtu 1500] [--seed 1] [SETTING VALUE ...]\n");
    exit(2);
  }
  return arguments;
}

int main(int argc, char **argv) {
  const struct arguments arguments = arguments_read(argc, argv);
  const int a = tun_open(arguments.a, arguments.name, arguments.mtu);
  const int b = tun_open(arguments.b, arguments.name, arguments.mtu);
  signal(SIGPIPE, SIG_DFL);
  setvbuf(stdout, NULL, _IOLBF, 0);
  for (int i = 0; i < 2; i++) {
    directions[i].from = i == 0 ? a : b;
    directions[i].to = i == 0 ? b : a;
    directions[i].seed = arguments.seed * 2 + (uint64_t)i;
    directions[i].wanted = arguments.settings;
    direction_start(&directions[i]);
  }
  printf("ready\n");
  char line[LINE_BYTES];
  while (fgets(line, sizeof line, stdin) != NULL) command(line);
  return 0;
}
