/* capture_file.h - builds capture files in memory, packet by packet or block by block, in either
 * byte order, and reads them with the file backend.
 */
#ifndef SONDE_TESTS_CAPTURE_FILE_H
#define SONDE_TESTS_CAPTURE_FILE_H

#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "core/registry.h"
#include "packet.h"

enum { BATCH = 64, IMAGE_MAX = 4 << 20 };

static const struct sonde_backend_ops *ops; /* the file backend's */

/* A capture file under construction. */
static struct image {
  uint8_t *bytes;
  size_t length;
  bool swapped;
} image;

static inline void put(const void *bytes, size_t length) {
  if (image.length + length > IMAGE_MAX)
    abort();
  memcpy(image.bytes + image.length, bytes, length);
  image.length += length;
}

static inline void put16(uint32_t value) {
  uint16_t word = image.swapped ? __builtin_bswap16((uint16_t)value) : (uint16_t)value;
  put(&word, sizeof word);
}

static inline void put32(uint32_t value) {
  uint32_t word = image.swapped ? __builtin_bswap32(value) : value;
  put(&word, sizeof word);
}

static inline void image_begin(bool swapped) {
  image.length = 0;
  image.swapped = swapped;
}

static inline void put_pcap_head(uint32_t magic, uint32_t link) {
  put32(magic);
  put16(2);
  put16(4);
  put32(0);
  put32(0);
  put32(262144);
  put32(link);
}

static inline void put_pcap_packet(uint32_t sec, uint32_t fraction, uint32_t caplen,
                                   uint32_t wirelen) {
  put32(sec);
  put32(fraction);
  put32(caplen);
  put32(wirelen);
  for (uint32_t i = 0; i < caplen; i++)
    put(&(uint8_t){(uint8_t)(i + sec)}, 1);
}

static inline size_t block_begin(uint32_t type) {
  put32(type);
  put32(0);
  return image.length - 8;
}

static inline void block_end(size_t at) {
  while (image.length % 4)
    put("", 1);
  size_t end = image.length + 4;
  uint32_t length = (uint32_t)(end - at);
  put32(length);
  image.length = at + 4;
  put32(length);
  image.length = end;
}

static inline void put_section(void) {
  size_t at = block_begin(0x0a0d0d0a);
  put32(0x1a2b3c4d);
  put16(1);
  put16(0);
  put32(0xffffffff);
  put32(0xffffffff);
  block_end(at);
}

static inline void put_option(uint32_t code, const void *value, uint32_t length) {
  put16(code);
  put16(length);
  put(value, length);
  while (image.length % 4)
    put("", 1);
}

/* resolution < 0: the option is absent */
static inline void put_interface(uint32_t linktype, uint32_t snaplen, int resolution,
                                 int64_t offset) {
  size_t at = block_begin(1);
  put16(linktype);
  put16(0);
  put32(snaplen);
  put_option(2, "eth0", 5);
  if (resolution >= 0)
    put_option(9, &(uint8_t){(uint8_t)resolution}, 1);
  if (offset) {
    uint64_t raw = image.swapped ? __builtin_bswap64((uint64_t)offset) : (uint64_t)offset;
    put_option(14, &raw, sizeof raw);
  }
  put_option(0, "", 0);
  block_end(at);
}

/* flags < 0: no options */
static inline void put_enhanced(uint32_t id, uint64_t ticks, uint32_t caplen, uint32_t wirelen,
                                int64_t flags) {
  size_t at = block_begin(6);
  put32(id);
  put32((uint32_t)(ticks >> 32));
  put32((uint32_t)ticks);
  put32(caplen);
  put32(wirelen);
  for (uint32_t i = 0; i < caplen; i++)
    put(&(uint8_t){(uint8_t)i}, 1);
  while (image.length % 4)
    put("", 1);
  if (flags >= 0) {
    put_option(1, "a remark", 8);
    put16(2);
    put16(4);
    put32((uint32_t)flags);
    put_option(0, "", 0);
  }
  block_end(at);
}

static inline int memory_file(size_t length) {
  int fd = memfd_create("capture", MFD_CLOEXEC);
  if (fd < 0 || write(fd, image.bytes, length) != (ssize_t)length)
    abort();
  return fd;
}

static inline int open_fd(int fd, double speed, struct sonde_backend **backend,
                          struct sonde_error *error) {
  struct sonde_backend_config config = {.interface = "test.pcap",
                                        .file_fd = fd,
                                        .queues = 1,
                                        .snaplen = 262144,
                                        .replay_speed = speed};
  memset(error, 0, sizeof *error);
  return ops->open(&config, backend, error);
}

struct outcome {
  int status; /* result of open, then of the last receive */
  uint32_t count;
  struct sonde_packet packets[BATCH]; /* the first ones; data is no longer valid */
  uint8_t sums[BATCH];                /* sums of their bytes, to touch each byte */
  char detail[SONDE_ERROR_DETAIL_MAX];
};

static inline struct outcome read_all_fd(int fd) {
  static struct outcome outcome;
  struct sonde_packet packets[BATCH];
  struct sonde_backend *backend = NULL;
  struct sonde_error error;
  memset(&outcome, 0, sizeof outcome);
  outcome.status = open_fd(fd, 0, &backend, &error);
  while (outcome.status >= 0) {
    error.detail[0] = 0;
    outcome.status = ops->receive(backend, 0, packets, BATCH, 0, &error);
    for (int i = 0; i < outcome.status; i++, outcome.count++) {
      uint8_t sum = 0;
      for (uint32_t j = 0; j < packets[i].caplen; j++)
        sum = (uint8_t)(sum + packets[i].data[j]);
      if (outcome.count < BATCH) {
        outcome.packets[outcome.count] = packets[i];
        outcome.sums[outcome.count] = sum;
      }
    }
  }
  memcpy(outcome.detail, error.detail, sizeof outcome.detail);
  ops->close(backend);
  CHECK(fcntl(fd, F_GETFD) == -1); /* the backend owns it, even if open failed */
  return outcome;
}

static inline struct outcome read_all(void) {
  return read_all_fd(memory_file(image.length));
}

/* Must be called first. Returns false and prints why if it fails. */
static inline bool capture_file_begin(void) {
  struct sonde_error error = {0};
  image.bytes = calloc(1, IMAGE_MAX);
  if (image.bytes && sonde_registry_load(SONDE_PLUGIN_DIR, "file", &ops, &error) == 0)
    return true;
  fprintf(stderr, "%s\n", error.detail);
  return false;
}

#endif
