/* stored_packets.h - makes packets for a store and parses pcapng answers.
 *
 * Packet n of a worker is a function of n: its length, host, port and bytes. So a test knows the
 * expected answer of a query without keeping the appended packets.
 */
#ifndef SONDE_TESTS_STORED_PACKETS_H
#define SONDE_TESTS_STORED_PACKETS_H

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "check.h"
#include "packet.h"
#include "parse/decode.h"
#include "store/appender.h"
#include "store/query.h"
#include "store/segment_file.h"
#include "store/state.h"
#include "store/store.h"

#define MARKER "MaRkEr-0f-cLeAr-tExT"

enum { MADE_BYTES_MAX = 2048 };
static const uint64_t made_start_ns = 1700000000000000000;
static const uint64_t made_step_ns = 1000;

struct made {
  uint8_t data[MADE_BYTES_MAX];
  struct sonde_packet packet;
};

/* UDP from 10.w.h.h to 192.168.0.1:53, occasionally ARP. */
static inline void make_packet(struct made *made, uint32_t worker, uint64_t number) {
  uint32_t host = (uint32_t)(number / 7 % 1000);
  uint32_t caplen = 80 + (uint32_t)(number * 2654435761u >> 7) % 1200;
  static const uint8_t head[] = {2,  0,    0, 0, 0,   2,   2, 0, 0, 0,  0,  1, 8,
                                 0,  0x45, 0, 0, 0,   0,   0, 0, 0, 64, 17, 0, 0,
                                 10, 0,    0, 0, 192, 168, 0, 1, 0, 0,  0,  53};
  memset(made->data, (int)number, caplen);
  memcpy(made->data, head, sizeof head);
  made->data[16] = (uint8_t)((caplen - 14) >> 8);
  made->data[17] = (uint8_t)(caplen - 14);
  made->data[27] = (uint8_t)worker;
  made->data[28] = (uint8_t)(host >> 8);
  made->data[29] = (uint8_t)host;
  made->data[34] = (uint8_t)((1024 + host) >> 8);
  made->data[35] = (uint8_t)(1024 + host);
  memcpy(made->data + 42, MARKER, sizeof MARKER - 1);
  memcpy(made->data + 70, &number, sizeof number);
  if (number % 101 == 0)
    made->data[13] = 6; /* 0x0806 */
  made->packet = (struct sonde_packet){
      .data = made->data,
      .time_ns = made_start_ns + number * made_step_ns,
      .caplen = caplen,
      .wirelen = caplen + (uint32_t)(number % 3),
      .linktype = SONDE_LINKTYPE_ETHERNET,
      .direction = (uint8_t)(number % 3),
  };
}

static inline void append_made(struct sonde_appender *appender, struct sonde_decoder *decoder,
                               uint64_t number) {
  struct made made;
  struct sonde_decoded decoded;
  make_packet(&made, appender->worker, number);
  int cause = sonde_decode(decoder, &made.packet, &decoded);
  sonde_appender_add(appender, &made.packet, cause < 0 ? &decoded : NULL, made.packet.time_ns);
  if (number % 64 == 63)
    sonde_appender_turn(appender);
}

/* One pcapng answer, read from its start. */
struct answer {
  uint8_t *bytes;
  size_t length;
  size_t at;
  int status; /* status that ended the reading */
};

static inline struct answer read_answer(struct sonde_query *query) {
  struct answer answer = {.status = 0};
  size_t room = 0;
  do {
    if (room - answer.length < SONDE_PACKETS_READ_MIN) {
      room = room * 2 + SONDE_PACKETS_READ_MIN;
      answer.bytes = realloc(answer.bytes, room);
    }
    answer.status =
        sonde_query_read(query, answer.bytes + answer.length, (uint32_t)(room - answer.length));
    answer.length += answer.status > 0 ? (size_t)answer.status : 0;
  } while (answer.status >= 0);
  return answer;
}

static inline uint32_t answer_u32(const struct answer *answer, size_t at) {
  uint32_t value;
  memcpy(&value, answer->bytes + at, sizeof value);
  return value;
}

/* Reads the next enhanced packet block. Its link type is ignored. */
static inline bool next_answer(struct answer *answer, struct sonde_packet *packet) {
  while (answer->at + 12 <= answer->length) {
    size_t at = answer->at;
    uint32_t bytes = answer_u32(answer, at + 4);
    CHECK(bytes % 4 == 0 && bytes >= 12 && at + bytes <= answer->length);
    CHECK_EQ(answer_u32(answer, at + bytes - 4), bytes);
    answer->at += bytes;
    if (answer_u32(answer, at) != 6)
      continue;
    *packet = (struct sonde_packet){
        .data = answer->bytes + at + 28,
        .time_ns = (uint64_t)answer_u32(answer, at + 12) << 32 | answer_u32(answer, at + 16),
        .caplen = answer_u32(answer, at + 20),
        .wirelen = answer_u32(answer, at + 24),
        .direction = (uint8_t)answer_u32(answer, at + bytes - 12),
    };
    return true;
  }
  return false;
}

static inline void check_packet(const struct sonde_packet *packet, uint32_t worker,
                                uint64_t number) {
  struct made made;
  make_packet(&made, worker, number);
  CHECK_EQ(packet->time_ns, made.packet.time_ns);
  CHECK_EQ(packet->caplen, made.packet.caplen);
  CHECK_EQ(packet->wirelen, made.packet.wirelen);
  CHECK_EQ(packet->direction, made.packet.direction);
  CHECK(packet->caplen == made.packet.caplen &&
        memcmp(packet->data, made.data, packet->caplen) == 0);
}

/* Receives a store's events in place of its session. */
struct store_events {
  _Atomic uint32_t seal_failed, spill_failed, spill_resumed;
};

static inline void note_event(void *context, enum sonde_store_event event, int64_t value,
                              const char *detail) {
  struct store_events *store_events = context;
  (void)value;
  (void)detail;
  store_events->seal_failed += event == SONDE_STORE_SEAL_FAILED;
  store_events->spill_failed += event == SONDE_STORE_SPILL_FAILED;
  store_events->spill_resumed += event == SONDE_STORE_SPILL_RESUMED;
}

/* Waits until every closed chunk is sealed and on disk. */
static inline void wait_until_idle(struct sonde_store *store) {
  for (int turn = 0; turn < 20000; turn++) {
    pthread_mutex_lock(&store->lock);
    bool idle = store->to_seal.count == 0;
    for (uint32_t i = 0; i < store->fresh; i++)
      idle &= sonde_store_chunk(store, i)->pins == 0;
    pthread_mutex_unlock(&store->lock);
    if (idle)
      return;
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
  }
  CHECK(!"the store still has work after the timeout");
}

#endif
