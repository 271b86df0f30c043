/* columns.c - one field of many data records, as a column.
 *
 * A collector has records by the million and wants them by field. Which field lies where is the
 * caller's to know; here are only the loops that a scripting language is too slow for: over
 * sets, of which there is a new one wherever IPv4 and IPv6 alternate, and over records.
 */
#include <assert.h>
#include <stdbool.h>
#include <string.h>

#include "address.h"
#include "netsonde.h"
#include "text.h"

enum { MESSAGE_HEAD = 16, SET_HEAD = 4, VERSION = 10, TEMPLATES = 2, DATA_MIN = 256 };

struct walk {
  const uint8_t *data;
  uint32_t end;         /* of the data */
  uint32_t message_end; /* of the message that it is in */
  uint32_t at;          /* where the next set, or message, begins */
};

static uint32_t read_16(const uint8_t *p) {
  return (uint32_t)p[0] << 8 | p[1];
}

static bool enter_message(struct walk *walk) {
  const uint8_t *head = walk->data + walk->at;
  if (walk->end - walk->at < MESSAGE_HEAD || read_16(head) != VERSION)
    return false;
  uint32_t length = read_16(head + 2);
  if (length < MESSAGE_HEAD || length > walk->end - walk->at)
    return false;
  walk->message_end = walk->at + length;
  walk->at += MESSAGE_HEAD;
  return true;
}

/* The next set with a sound length; what follows an unsound one in its message is left out. */
static bool next_set(struct walk *walk, struct sonde_set *set) {
  for (;;) {
    if (walk->message_end - walk->at >= SET_HEAD) {
      const uint8_t *head = walk->data + walk->at;
      uint32_t length = read_16(head + 2);
      if (length >= SET_HEAD && length <= walk->message_end - walk->at) {
        *set = (struct sonde_set){.id = (uint16_t)read_16(head),
                                  .offset = walk->at + SET_HEAD,
                                  .bytes = length - SET_HEAD};
        walk->at += length;
        return true;
      }
    }
    walk->at = walk->message_end;
    if (!enter_message(walk))
      return false;
  }
}

static struct sonde_set *find(struct sonde_set *sets, uint32_t count, uint16_t id) {
  for (uint32_t i = 0; i < count; i++)
    if (sets[i].id == id)
      return &sets[i];
  return NULL;
}

uint32_t sonde_ipfix_sets(const uint8_t *data, uint32_t bytes, struct sonde_set *sets,
                          uint32_t max) {
  struct walk walk = {.data = data, .end = bytes};
  struct sonde_set set;
  uint32_t count = 0;
  while (next_set(&walk, &set)) {
    struct sonde_set *known = set.id >= DATA_MIN ? find(sets, count, set.id) : NULL;
    if (known != NULL) {
      known->bytes_all += set.bytes;
    } else if (count < max && (set.id >= DATA_MIN || set.id == TEMPLATES)) {
      set.bytes_all = set.bytes;
      sets[count++] = set;
    }
  }
  return count;
}

uint32_t sonde_ipfix_records(const uint8_t *data, uint32_t bytes, uint16_t id,
                             uint32_t record_bytes, uint8_t *records) {
  struct walk walk = {.data = data, .end = bytes};
  struct sonde_set set;
  uint32_t written = 0;
  assert(record_bytes > 0);
  while (next_set(&walk, &set)) {
    if (set.id != id)
      continue;
    uint32_t whole = set.bytes - set.bytes % record_bytes; /* less the padding */
    memcpy(records + written, data + set.offset, whole);
    written += whole;
  }
  return written;
}

static inline uint64_t read_number(const uint8_t *field, uint32_t width) {
  uint64_t number = 0;
  for (uint32_t i = 0; i < width; i++)
    number = number << 8 | field[i];
  return number;
}

void sonde_column_numbers(const uint8_t *field, uint32_t stride, uint32_t width, uint32_t rows,
                          uint64_t *numbers) {
  assert(width >= 1 && width <= 8);
  for (uint32_t row = 0; row < rows; row++, field += stride)
    numbers[row] = read_number(field, width);
}

uint64_t sonde_column_sum(const uint8_t *field, uint32_t stride, uint32_t width, uint32_t rows) {
  uint64_t sum = 0;
  assert(width >= 1 && width <= 8);
  for (uint32_t row = 0; row < rows; row++, field += stride)
    sum += read_number(field, width);
  return sum;
}

static char *put_text(char *p, const uint8_t *field, int kind) {
  uint8_t address[16] = {0};
  switch (kind) {
  case SONDE_COLUMN_IPV4:
    memcpy(address, field, 4);
    return sonde_address_put(p, 4, address);
  case SONDE_COLUMN_IPV6:
    memcpy(address, field, 16);
    return sonde_address_put(p, 6, address);
  case SONDE_COLUMN_MAC:
    return put_mac(p, field);
  default:
    return put_hex(p, field, 8);
  }
}

uint32_t sonde_column_texts(const uint8_t *field, uint32_t stride, int kind, uint32_t rows,
                            char *text, int32_t *ends) {
  assert(rows < INT32_MAX / SONDE_COLUMN_TEXT_MAX);
  char *p = text;
  ends[0] = 0;
  for (uint32_t row = 0; row < rows; row++, field += stride) {
    p = put_text(p, field, kind);
    ends[row + 1] = (int32_t)(p - text);
  }
  return (uint32_t)(p - text);
}
