/* store_pcapng_test.c - the interfaces of a pcapng answer: each is described once, before its first
 * packet, and each packet names its own.
 */
#include <string.h>

#include "check.h"
#include "store/pcapng.h"

enum { ROOM = 1 << 20, BLOCK_INTERFACE = 1, BLOCK_PACKET = 6, NAMES = 9, ROUNDS = 3 };

static uint8_t bytes[ROOM];

static uint32_t u32_at(uint32_t at) {
  uint32_t value;
  memcpy(&value, bytes + at, sizeof value);
  return value;
}

/* Writes packets of the interfaces in turn, forwards and backwards. */
static void each_interface_is_described_once(void) {
  struct sonde_pcapng pcapng = {0};
  const uint8_t data[60] = {1, 2, 3};
  uint32_t length = sonde_pcapng_begin(&pcapng, bytes, ROOM), described = 0, packets = 0;
  uint32_t expected[NAMES * ROUNDS * 2], order = 0;
  CHECK_EQ(length, 28);
  CHECK_EQ(sonde_pcapng_begin(&pcapng, bytes + length, ROOM - length), 0);
  for (uint32_t i = 0; i < NAMES * ROUNDS * 2; i++) {
    uint32_t which = i % NAMES;
    if (i >= NAMES * ROUNDS)
      which = NAMES - 1 - which;
    struct sonde_packet packet = {.data = data,
                                  .time_ns = i,
                                  .caplen = 60,
                                  .wirelen = 61,
                                  .linktype = SONDE_LINKTYPE_ETHERNET};
    if (which == 3)
      packet.linktype = SONDE_LINKTYPE_RAW;
    const char name[] = {'e', which == 3 ? '2' : (char)('0' + which), '\0'};
    uint32_t needed = sonde_pcapng_bytes(&pcapng, &packet, name);
    CHECK_EQ(sonde_pcapng_packet(&pcapng, &packet, name, bytes + length, needed - 1), 0);
    CHECK_EQ(sonde_pcapng_packet(&pcapng, &packet, name, bytes + length, needed), needed);
    length += needed;
    expected[i] = which;
  }
  for (uint32_t at = 28; at < length; at += u32_at(at + 4)) {
    CHECK_EQ(u32_at(at + u32_at(at + 4) - 4), u32_at(at + 4));
    if (u32_at(at) == BLOCK_INTERFACE) {
      CHECK_EQ(u32_at(at + 8) & 0xffff,
               described == 3 ? SONDE_LINKTYPE_RAW : SONDE_LINKTYPE_ETHERNET);
      CHECK_EQ(bytes[at + 21], described == 3 ? '2' : '0' + described);
      described++;
      continue;
    }
    CHECK_EQ(u32_at(at), BLOCK_PACKET);
    CHECK_EQ(u32_at(at + 8), expected[packets]);
    CHECK(u32_at(at + 8) < described);
    CHECK_EQ(u32_at(at + 16), packets);
    packets++;
    order += u32_at(at + 8);
  }
  CHECK_EQ(described, NAMES);
  CHECK_EQ(packets, NAMES * ROUNDS * 2);
  CHECK_EQ(order, NAMES * (NAMES - 1) / 2 * ROUNDS * 2);
  sonde_pcapng_release(&pcapng);
}

int main(void) {
  each_interface_is_described_once();
  return check_report();
}
