/* segment_export.c - converts a segment file to pcapng, for `netsonde decrypt`. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "failure.h"
#include "netsonde.h"
#include "pcapng.h"
#include "segment.h"

struct sonde_segment {
  struct sonde_segment_reader reader;
  struct sonde_pcapng pcapng;
  uint8_t *clear; /* one frame's plaintext, secret */
  uint32_t bytes;
  uint32_t name_bytes; /* names at the frame's end */
  uint32_t offset;
  char interface[SONDE_NAME_BYTES]; /* for packets without a name */
};

int sonde_encryption_key_id(const uint8_t *key, uint8_t *id) {
  return sonde_sealkey_id(key, id);
}

int sonde_segment_open(int fd, const uint8_t *key, const char *interface,
                       struct sonde_segment **segment, struct sonde_error *error) {
  struct sonde_segment *made = calloc(1, sizeof *made);
  if (!made)
    return sonde_fail(error, SONDE_NO_MEMORY, ENOMEM, "no memory for a segment");
  strncpy(made->interface, interface ? interface : "", sizeof made->interface - 1);
  made->clear = sonde_secret_map(SONDE_FRAME_PAYLOAD_MAX, 0);
  int status = made->clear ? sonde_segment_reader_open(&made->reader, fd, key) : SONDE_NO_MEMORY;
  if (status < 0) {
    int system_errno = status == SONDE_SYSTEM ? errno : 0;
    sonde_segment_close(made);
    return sonde_fail(error, status, system_errno, "%s", sonde_status_text(status));
  }
  *segment = made;
  return SONDE_OK;
}

void sonde_segment_close(struct sonde_segment *segment) {
  if (!segment)
    return;
  sonde_segment_reader_close(&segment->reader);
  sonde_secret_unmap(segment->clear, SONDE_FRAME_PAYLOAD_MAX);
  sonde_pcapng_release(&segment->pcapng);
  free(segment);
}

static int load(struct sonde_segment *segment) {
  struct sonde_segment_frame frame;
  segment->bytes = segment->offset = 0;
  int status = sonde_segment_reader_next(&segment->reader, &frame);
  if (status == SONDE_OK)
    status = sonde_segment_reader_load(&segment->reader, &frame, segment->clear);
  if (status == SONDE_OK)
    segment->bytes = frame.payload_bytes - frame.name_bytes;
  segment->name_bytes = status == SONDE_OK ? frame.name_bytes : 0;
  return status;
}

/* Writes the loaded frame's next packets, as many as fit. */
static uint32_t write_packets(struct sonde_segment *segment, uint8_t *buffer, uint32_t capacity) {
  uint32_t written = 0;
  uint32_t offset = segment->offset;
  struct sonde_packet packet;
  while (sonde_packet_layout_next(segment->clear, segment->bytes, &offset, &packet)) {
    char name[SONDE_NAME_BYTES];
    sonde_names_find(segment->clear + segment->bytes, segment->name_bytes, packet.source, name);
    uint32_t bytes =
        sonde_pcapng_packet(&segment->pcapng, &packet, name[0] ? name : segment->interface,
                            buffer + written, capacity - written);
    if (bytes == 0)
      break;
    written += bytes;
    segment->offset = offset;
  }
  return written;
}

int sonde_segment_read(struct sonde_segment *segment, uint8_t *buffer, uint32_t capacity,
                       struct sonde_error *error) {
  if (capacity < SONDE_PACKETS_READ_MIN)
    return sonde_fail(error, SONDE_TOO_SMALL, 0, "buffer too small: at least %d bytes",
                      SONDE_PACKETS_READ_MIN);
  uint32_t written = sonde_pcapng_begin(&segment->pcapng, buffer, capacity);
  int status = segment->offset < segment->bytes ? SONDE_OK : load(segment);
  if (status == SONDE_OK) {
    uint32_t more = write_packets(segment, buffer + written, capacity - written);
    /* DAMAGED: the tag is valid but the payload is malformed. */
    status = more || segment->bytes == 0 ? SONDE_OK : SONDE_DAMAGED;
    written += more;
  }
  if (status < 0 && written == 0)
    return sonde_fail(error, status, status == SONDE_SYSTEM ? errno : 0, "frame %llu: %s",
                      (unsigned long long)segment->reader.counter, sonde_status_text(status));
  return (int)written;
}
