/* pcapng.c - see pcapng.h. */
#include "pcapng.h"

#include <stdlib.h>
#include <string.h>

enum {
  BLOCK_SECTION = 0x0a0d0d0a,
  BLOCK_INTERFACE = 1,
  BLOCK_PACKET = 6,
  BYTE_ORDER_MAGIC = 0x1a2b3c4d,
  SECTION_BYTES = 28,
  PACKET_BYTES = 32 + 12, /* fixed part, flags and end of options */
  OPTION_NAME = 2,
  OPTION_FLAGS = 2,
  OPTION_RESOLUTION = 9,
  RESOLUTION_NS = 9,
};

static uint8_t *put_u32(uint8_t *at, uint32_t value) {
  memcpy(at, &value, sizeof value);
  return at + sizeof value;
}

static uint8_t *put_u16s(uint8_t *at, uint16_t first, uint16_t second) {
  memcpy(at, &first, sizeof first);
  memcpy(at + 2, &second, sizeof second);
  return at + 4;
}

static uint32_t pad(uint32_t bytes) {
  return (bytes + 3) & ~3u;
}

static uint8_t *put_padded(uint8_t *at, const void *bytes, uint32_t length) {
  memcpy(at, bytes, length);
  memset(at + length, 0, pad(length) - length);
  return at + pad(length);
}

void sonde_pcapng_release(struct sonde_pcapng *pcapng) {
  free(pcapng->interfaces);
  *pcapng = (struct sonde_pcapng){0};
}

uint32_t sonde_pcapng_begin(struct sonde_pcapng *pcapng, uint8_t *buffer, uint32_t capacity) {
  if (pcapng->begun || capacity < SECTION_BYTES)
    return 0;
  uint8_t *at = put_u32(buffer, BLOCK_SECTION);
  at = put_u32(at, SECTION_BYTES);
  at = put_u32(at, BYTE_ORDER_MAGIC);
  at = put_u16s(at, 1, 0);
  at = put_u32(at, UINT32_MAX); /* the section's length is not known */
  at = put_u32(at, UINT32_MAX);
  put_u32(at, SECTION_BYTES);
  pcapng->begun = true;
  return SECTION_BYTES;
}

static uint32_t interface_bytes(const char *name) {
  uint32_t length = (uint32_t)strlen(name);
  return 16 + (length ? 4 + pad(length) : 0) + 8 + 4 + 4;
}

static uint32_t put_interface(const struct sonde_pcapng_interface *interface, uint8_t *buffer) {
  uint32_t bytes = interface_bytes(interface->name);
  uint32_t length = (uint32_t)strlen(interface->name);
  uint8_t *at = put_u32(buffer, BLOCK_INTERFACE);
  at = put_u32(at, bytes);
  at = put_u16s(at, interface->linktype, 0);
  at = put_u32(at, 262144);
  if (length) {
    at = put_u16s(at, OPTION_NAME, (uint16_t)length);
    at = put_padded(at, interface->name, length);
  }
  at = put_u16s(at, OPTION_RESOLUTION, 1);
  at = put_padded(at, &(uint8_t){RESOLUTION_NS}, 1);
  at = put_u32(at, 0);
  put_u32(at, bytes);
  return bytes;
}

/* Returns the interface's number, or `count` if it is new. */
static uint32_t find_interface(struct sonde_pcapng *pcapng, uint16_t linktype, const char *name) {
  for (uint32_t i = 0, at = pcapng->last; i < pcapng->count; i++, at++) {
    at = at < pcapng->count ? at : 0;
    const struct sonde_pcapng_interface *interface = &pcapng->interfaces[at];
    if (interface->linktype == linktype && strcmp(interface->name, name) == 0)
      return pcapng->last = at;
  }
  return pcapng->count;
}

/* Makes room for one more interface. */
static bool has_room(struct sonde_pcapng *pcapng) {
  if (pcapng->count < pcapng->room)
    return true;
  if (pcapng->count == SONDE_PCAPNG_INTERFACES_MAX)
    return false;
  uint32_t room = pcapng->room ? 2 * pcapng->room : 4;
  void *grown = realloc(pcapng->interfaces, room * sizeof *pcapng->interfaces);
  if (!grown)
    return false;
  pcapng->interfaces = grown;
  pcapng->room = room;
  return true;
}

uint32_t sonde_pcapng_bytes(struct sonde_pcapng *pcapng, const struct sonde_packet *packet,
                            const char *name) {
  uint32_t bytes = PACKET_BYTES + pad(packet->caplen);
  if (find_interface(pcapng, packet->linktype, name) < pcapng->count)
    return bytes;
  return has_room(pcapng) ? bytes + interface_bytes(name) : 0;
}

uint32_t sonde_pcapng_packet(struct sonde_pcapng *pcapng, const struct sonde_packet *packet,
                             const char *name, uint8_t *buffer, uint32_t capacity) {
  uint32_t bytes = sonde_pcapng_bytes(pcapng, packet, name);
  if (bytes == 0 || bytes > capacity)
    return 0;
  uint32_t number = find_interface(pcapng, packet->linktype, name);
  uint8_t *at = buffer;
  if (number == pcapng->count) {
    struct sonde_pcapng_interface *interface = &pcapng->interfaces[pcapng->count++];
    *interface = (struct sonde_pcapng_interface){.linktype = packet->linktype};
    strncpy(interface->name, name, sizeof interface->name - 1);
    at += put_interface(interface, at);
  }
  uint32_t block = PACKET_BYTES + pad(packet->caplen);
  at = put_u32(at, BLOCK_PACKET);
  at = put_u32(at, block);
  at = put_u32(at, number);
  at = put_u32(at, (uint32_t)(packet->time_ns >> 32));
  at = put_u32(at, (uint32_t)packet->time_ns);
  at = put_u32(at, packet->caplen);
  at = put_u32(at, packet->wirelen);
  at = put_padded(at, packet->data, packet->caplen);
  at = put_u16s(at, OPTION_FLAGS, 4);
  at = put_u32(at, packet->direction); /* 1 inbound, 2 outbound, as in enum sonde_direction */
  at = put_u32(at, 0);
  put_u32(at, block);
  return bytes;
}
