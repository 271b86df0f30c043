/* appender.h - writes a worker's packets into its open chunk, past the cache.
 *
 * Inline, because it is on the packet path: streaming stores of whole cache lines between
 * the decoding of packets, which hides most of the memory latency. Only the worker's thread
 * calls it. Queries see packets after publish.
 */
#ifndef SONDE_STORE_APPENDER_H
#define SONDE_STORE_APPENDER_H

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include <stdatomic.h>

#include "bloom.h"
#include "packet_layout.h"

struct sonde_store;
struct sonde_chunk;

enum { SONDE_APPENDER_RECENT = 256 };

struct sonde_appender {
  struct sonde_store *store;
  uint32_t worker;
  uint32_t offset; /* next packet's, in the open chunk's data */
  uint32_t end;    /* size of the chunk's data; 0: no chunk is open */
  uint32_t packets;
  const _Atomic uint16_t *number_of; /* the name's number by the packet's source */
  uint8_t *data;
  struct sonde_chunk *chunk;
  struct sonde_bloom *bloom;
  uint64_t first_ns;
  uint64_t last_ns;
  struct { /* the open extent */
    uint64_t first_ns;
    uint64_t last_ns;
    uint32_t packets_before;
    uint64_t since_ns; /* monotonic; 0: not set yet */
  } extent;
  uint64_t seed[3];
  uint64_t recent[SONDE_APPENDER_RECENT]; /* flows already in `bloom`, direct mapped */
};

/* Opens the next chunk. False if no chunk is free; counts the packet as unrecorded. */
bool sonde_appender_roll(struct sonde_appender *appender, uint64_t time_ns);
void sonde_appender_publish(struct sonde_appender *appender);
/* Ends the open extent if it is at least `age_ns` old. Call between batches. */
void sonde_appender_cut(struct sonde_appender *appender, uint64_t age_ns);
/* Zeroes old bytes behind the open chunk's packets: sealing would not cover them. */
void sonde_appender_wipe(struct sonde_appender *appender);
/* Once per worker loop: publishes, and cuts an old extent while sealing or spilling is on. */
void sonde_appender_turn(struct sonde_appender *appender);

/* index.c: Bloom filter entries for non-flow, tunneled and portless packets. */
void sonde_appender_note_non_flow(struct sonde_appender *appender,
                                  const struct sonde_packet *packet);
void sonde_appender_note_tunnel(struct sonde_appender *appender, const struct sonde_packet *packet,
                                const struct sonde_decoded *decoded);
void sonde_appender_note_portless(struct sonde_appender *appender,
                                  const struct sonde_packet *packet,
                                  const struct sonde_decoded *decoded);

static inline bool sonde_decoded_is_plain(const struct sonde_decoded *decoded) {
  return decoded && decoded->tunnel_type == SONDE_TUNNEL_NONE &&
         (decoded->key.lo_port | decoded->key.hi_port) != 0;
}

static inline void sonde_appender_note_flow(struct sonde_appender *appender,
                                            const struct sonde_key *key) {
  uint64_t lo = sonde_bloom_address(appender->seed, key->lo_ip);
  uint64_t hi = sonde_bloom_address(appender->seed, key->hi_ip);
  uint64_t ports = (uint64_t)key->lo_port << 16 | key->hi_port;
  uint64_t flow = (lo + (hi << 23 | hi >> 41)) ^ (ports * 0x9e3779b97f4a7c15ull);
  uint64_t *recent = &appender->recent[flow >> 56 & (SONDE_APPENDER_RECENT - 1)];
  if (*recent == flow)
    return;
  *recent = flow;
  sonde_bloom_add(appender->bloom, lo);
  sonde_bloom_add(appender->bloom, hi);
  sonde_bloom_add(appender->bloom, sonde_bloom_port(appender->seed, key->lo_port));
  sonde_bloom_add(appender->bloom, sonde_bloom_port(appender->seed, key->hi_port));
}

#ifdef __SSE2__
static inline void sonde_appender_write(uint8_t *into, const struct sonde_packet *packet,
                                        uint64_t time_ns, uint16_t name) {
  const uint8_t *data = packet->data;
  uint32_t left = packet->caplen;
  __m128i *line = (__m128i *)into;
  uint8_t tail[SONDE_PACKET_ALIGN] __attribute__((aligned(16))) = {0};
  uint64_t rest = (uint64_t)packet->linktype | (uint64_t)packet->gso_size << 16 |
                  (uint64_t)packet->direction << 32 | (uint64_t)name << 48;
  uint64_t word = 0;
  uint32_t taken = left < 8 ? left : 8;
  if (left >= 8)
    memcpy(&word, data, 8);
  else
    memcpy(&word, data, left);
  data += taken;
  left -= taken;
  _mm_stream_si128(line++,
                   _mm_set_epi64x((int64_t)((uint64_t)packet->wirelen << 32 | packet->caplen),
                                  (int64_t)time_ns));
  _mm_stream_si128(line++, _mm_set_epi64x((int64_t)word, (int64_t)rest));
  for (; left >= 16; left -= 16, data += 16)
    _mm_stream_si128(line++, _mm_loadu_si128((const __m128i *)data));
  memcpy(tail, data, left);
  for (const __m128i *end = (const __m128i *)(into + sonde_packet_layout_bytes(packet->caplen)),
                     *from = (const __m128i *)tail;
       line < end; line++, from++)
    _mm_stream_si128(line, _mm_load_si128(from));
}

static inline void sonde_appender_fence(void) {
  _mm_sfence(); /* orders the streaming stores */
}
#else
static inline void sonde_appender_write(uint8_t *into, const struct sonde_packet *packet,
                                        uint64_t time_ns, uint16_t name) {
  struct sonde_packet_layout head = {time_ns,
                                     packet->caplen,
                                     packet->wirelen,
                                     packet->linktype,
                                     packet->gso_size,
                                     packet->direction,
                                     0,
                                     name};
  uint32_t used = (uint32_t)sizeof head + packet->caplen;
  memcpy(into, &head, sizeof head);
  memcpy(into + sizeof head, packet->data, packet->caplen);
  memset(into + used, 0, sonde_packet_layout_bytes(packet->caplen) - used);
}

static inline void sonde_appender_fence(void) {
}
#endif

/* decoded: NULL for a packet without a flow. time_ns: since the epoch. */
static inline void sonde_appender_add(struct sonde_appender *appender,
                                      const struct sonde_packet *packet,
                                      const struct sonde_decoded *decoded, uint64_t time_ns) {
  uint32_t bytes = sonde_packet_layout_bytes(packet->caplen);
  if (__builtin_expect(bytes > appender->end - appender->offset, 0) &&
      !sonde_appender_roll(appender, time_ns))
    return;
  uint16_t name = atomic_load_explicit(&appender->number_of[packet->source], memory_order_relaxed);
  sonde_appender_write(appender->data + appender->offset, packet, time_ns, name);
  appender->offset += bytes;
  appender->packets++;
  if (time_ns < appender->extent.first_ns)
    appender->extent.first_ns = time_ns;
  if (time_ns > appender->extent.last_ns)
    appender->extent.last_ns = time_ns;
  if (decoded)
    sonde_appender_note_flow(appender, &decoded->key);
  if (__builtin_expect(!sonde_decoded_is_plain(decoded), 0)) {
    if (!decoded)
      sonde_appender_note_non_flow(appender, packet);
    else if (decoded->tunnel_type != SONDE_TUNNEL_NONE)
      sonde_appender_note_tunnel(appender, packet, decoded);
    else
      sonde_appender_note_portless(appender, packet, decoded);
  }
}

#endif
