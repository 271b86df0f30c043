/* generator.c - sends UDP frames out of an interface at rates that no socket reaches.
 *
 *   generator OBJECT INTERFACE BYTES|imix FRAMES_PER_SEC SECONDS FLOWS
 *
 * BYTES counts the frame's checksum, as in "64-byte packets". FLOWS is a power of two. A rate of
 * 0 is unlimited. Prints {"frames": …, "seconds": …}. Pin it to a core.
 *
 * A single call into the kernel sends all frames. A timer's signal ends the call, because such a
 * call waits for tens of milliseconds before its first frame and after its last.
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <net/if.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

#include "generator.h"

enum { FCS_BYTES = 4, BATCH_FRAMES = 64 };

static void put16(uint8_t *at, uint32_t value) {
  at[0] = (uint8_t)(value >> 8);
  at[1] = (uint8_t)value;
}

static uint16_t header_checksum(const uint8_t *ip) {
  uint32_t sum = 0;
  uint16_t folded;
  for (int i = 0; i < 20; i += 2)
    sum += (uint32_t)ip[i] << 8 | ip[i + 1];
  while (sum >> 16)
    sum = (sum & 0xffff) + (sum >> 16);
  put16((uint8_t *)&folded, ~sum);
  return folded;
}

/* 10.1.x → 10.2.y with x + y constant, UDP to port 5000. */
static void build(uint8_t frame[GENERATOR_LARGE], uint32_t bytes) {
  static const uint8_t head[] = {2, 0, 0, 0, 0, 2,  2,  0, 0, 0,  0, 1, 8, 0,  0x45, 0,    0,
                                 0, 0, 0, 0, 0, 64, 17, 0, 0, 10, 1, 0, 0, 10, 2,    0xff, 0xff};
  memset(frame, 0, GENERATOR_LARGE);
  memcpy(frame, head, sizeof head);
  put16(frame + 16, bytes - 14);
  put16(frame + 36, 5000);
}

static uint16_t checksum_for(uint32_t bytes) {
  uint8_t frame[GENERATOR_LARGE];
  build(frame, bytes);
  return header_checksum(frame + 14);
}

static struct bpf_object *load(char **words, uint32_t bytes) {
  struct bpf_object *object = bpf_object__open(words[1]);
  struct bpf_map *map;
  double rate = atof(words[4]);
  struct generator_settings settings = {
      .gap_256th_ns = rate > 0 ? (uint64_t)(256e9 / rate) : 0,
      .ifindex = if_nametoindex(words[2]),
      .flow_mask = (uint32_t)atoi(words[6]) - 1,
      .mixed = strcmp(words[3], "imix") == 0,
      .checksum = {checksum_for(bytes), checksum_for(GENERATOR_SMALL),
                   checksum_for(GENERATOR_MEDIUM), checksum_for(GENERATOR_LARGE)},
  };
  if (!object || settings.ifindex == 0)
    return NULL;
  bpf_object__for_each_map(map, object) {
    if (strstr(bpf_map__name(map), ".rodata"))
      bpf_map__set_initial_value(map, &settings, sizeof settings);
  }
  return bpf_object__load(object) ? NULL : object;
}

static void end(int signal) {
  (void)signal;
}

/* Sends until the timer's signal, which is not an error. */
static int generate(struct bpf_object *object, struct bpf_test_run_opts *run, double seconds) {
  struct sigaction ended = {.sa_handler = end};
  struct itimerval timer = {.it_value = {.tv_sec = (time_t)seconds}};
  timer.it_value.tv_usec = (suseconds_t)((seconds - (double)timer.it_value.tv_sec) * 1e6);
  sigaction(SIGALRM, &ended, NULL);
  setitimer(ITIMER_REAL, &timer, NULL);
  int status = bpf_prog_test_run_opts(bpf_program__fd(bpf_object__next_program(object, NULL)), run);
  return status == -EINTR ? 0 : status;
}

static int report(struct bpf_object *object) {
  struct generator_state state;
  struct bpf_map *map;
  uint32_t first = 0;
  bpf_object__for_each_map(map, object) {
    if (strstr(bpf_map__name(map), ".bss") && bpf_map__value_size(map) == sizeof state &&
        bpf_map_lookup_elem(bpf_map__fd(map), &first, &state) == 0) {
      printf("{\"frames\": %llu, \"seconds\": %.6f}\n", (unsigned long long)state.frames,
             (double)(state.ended_ns - state.begun_ns) / 1e9);
      return 0;
    }
  }
  return 1;
}

int main(int count, char **words) {
  if (count != 7) {
    fprintf(stderr, "usage: generator OBJECT INTERFACE BYTES|imix RATE SECONDS FLOWS\n");
    return 2;
  }
  uint8_t frame[GENERATOR_LARGE];
  uint32_t bytes = strcmp(words[3], "imix") == 0 ? (uint32_t)GENERATOR_LARGE
                                                 : (uint32_t)atoi(words[3]) - FCS_BYTES;
  struct bpf_object *object = load(words, bytes);
  if (!object)
    return 1;
  build(frame, bytes);
  LIBBPF_OPTS(bpf_test_run_opts, run, .data_in = frame, .data_size_in = bytes,
              .flags = BPF_F_TEST_XDP_LIVE_FRAMES, .batch_size = BATCH_FRAMES, .repeat = INT32_MAX);
  int failed = generate(object, &run, atof(words[5])) || report(object);
  bpf_object__close(object);
  return failed;
}
