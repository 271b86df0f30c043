/* columns.c - reads the data records of IPFIX messages into columns, one per field.
 *
 * A collector reads millions of records. The caller knows the place of each field in a record.
 * Only the loops over sets and records are here, because Python is too slow for them. A message
 * has a new set wherever IPv4 and IPv6 alternate. All fields of a set are read in one pass,
 * while the set is in the processor's cache.
 */
#include <assert.h>
#include <stdbool.h>
#include <string.h>

#include "address.h"
#include "netsonde.h"
#include "text.h"

enum { MESSAGE_HEAD = 16, SET_HEAD = 4, VERSION = 10, TEMPLATES = 2, DATA_MIN = 256 };
enum { LINE = 64, AHEAD = 2048 };

struct walk {
  const uint8_t *data;
  uint32_t end;         /* end of the data */
  uint32_t message_end; /* end of the current message */
  uint32_t at;          /* start of the next set or message */
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

/* A set's length gives the place of the next set. Without prefetching, each set would have to
 * arrive from memory before the next could be requested. */
static void fetch_ahead(const struct walk *walk, uint32_t bytes) {
  for (uint32_t i = AHEAD; i < AHEAD + bytes && i < walk->end - walk->at; i += LINE)
    __builtin_prefetch(walk->data + walk->at + i);
}

/* Finds the next set with a valid length. Skips the rest of a message after an invalid length. */
static bool next_set(struct walk *walk, struct sonde_set *set) {
  for (;;) {
    if (walk->message_end - walk->at >= SET_HEAD) {
      const uint8_t *head = walk->data + walk->at;
      uint32_t length = read_16(head + 2);
      if (length >= SET_HEAD && length <= walk->message_end - walk->at) {
        *set = (struct sonde_set){.id = (uint16_t)read_16(head),
                                  .offset = walk->at + SET_HEAD,
                                  .bytes = length - SET_HEAD};
        fetch_ahead(walk, length);
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

static inline uint64_t read_number(const uint8_t *field, uint32_t width) {
  uint64_t number = 0;
  for (uint32_t i = 0; i < width; i++)
    number = number << 8 | field[i];
  return number;
}

/* With a constant width, the compiler emits a single load. */
static inline uint64_t read_any(const uint8_t *field, uint32_t width) {
  switch (width) {
  case 1:
    return read_number(field, 1);
  case 2:
    return read_number(field, 2);
  case 4:
    return read_number(field, 4);
  case 8:
    return read_number(field, 8);
  default:
    return read_number(field, width);
  }
}

struct span { /* consecutive data records */
  const uint8_t *first;
  uint32_t record_bytes;
  uint32_t rows;
  uint32_t row; /* column row for the first record */
};

static void put_numbers(const struct sonde_column *column, const struct span *span) {
  const uint8_t *from = span->first + column->offset;
  for (uint32_t i = 0; i < span->rows; i++, from += span->record_bytes) {
    uint64_t number = read_any(from, column->width);
    switch (column->kind) {
    case SONDE_COLUMN_U8:
      ((uint8_t *)column->values)[span->row + i] = (uint8_t)number;
      break;
    case SONDE_COLUMN_U16:
      ((uint16_t *)column->values)[span->row + i] = (uint16_t)number;
      break;
    case SONDE_COLUMN_U32:
      ((uint32_t *)column->values)[span->row + i] = (uint32_t)number;
      break;
    default:
      ((uint64_t *)column->values)[span->row + i] = number;
    }
  }
}

static void add_numbers(const struct sonde_column *column, const struct span *span) {
  const uint8_t *from = span->first + column->offset;
  uint64_t sum = 0;
  for (uint32_t i = 0; i < span->rows; i++, from += span->record_bytes)
    sum += read_any(from, column->width);
  *(uint64_t *)column->values += sum;
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

static void put_texts(const struct sonde_column *column, const struct span *span) {
  const uint8_t *from = span->first + column->offset;
  char *text = column->values, *p = text + column->ends[span->row];
  for (uint32_t i = 0; i < span->rows; i++, from += span->record_bytes) {
    p = put_text(p, from, column->kind);
    column->ends[span->row + i + 1] = (int32_t)(p - text);
  }
}

static void put_column(const struct sonde_column *column, const struct span *span) {
  if (column->kind == SONDE_COLUMN_SUM)
    add_numbers(column, span);
  else if (column->kind >= SONDE_COLUMN_U8)
    put_numbers(column, span);
  else
    put_texts(column, span);
}

uint32_t sonde_ipfix_columns(const uint8_t *data, uint32_t bytes, uint16_t id,
                             uint32_t record_bytes, const struct sonde_column *columns,
                             uint32_t count, uint32_t row, uint32_t rows_max) {
  struct walk walk = {.data = data, .end = bytes};
  struct sonde_set set;
  struct span span = {.record_bytes = record_bytes, .row = row};
  assert(record_bytes > 0);
  while (next_set(&walk, &set)) {
    if (set.id != id)
      continue;
    span.first = data + set.offset;
    uint32_t whole = set.bytes / record_bytes; /* without padding */
    uint32_t left = rows_max - (span.row - row);
    span.rows = whole < left ? whole : left;
    for (uint32_t i = 0; i < count; i++)
      put_column(&columns[i], &span);
    span.row += span.rows;
  }
  return span.row - row;
}
