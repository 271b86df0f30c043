/* columns_test.c - reads data records into columns. */
#include <string.h>

#include "check.h"
#include "netsonde.h"

enum { ROWS = 3, RECORD = 40, HEAD = 20, TABLE_ROWS = 8 };

/* One message with one set: ROWS records of RECORD bytes. */
static uint8_t message[HEAD + ROWS * RECORD] = {0,        10, 0, sizeof message,
                                                [16] = 1, 0,  0, sizeof message - 16};

static uint32_t read_column(struct sonde_column *column) {
  return sonde_ipfix_columns(message, sizeof message, 256, RECORD, column, 1, 0, UINT32_MAX);
}

static uint64_t read_row(const void *values, int kind, uint32_t row) {
  switch (kind) {
  case SONDE_COLUMN_U8:
    return ((const uint8_t *)values)[row];
  case SONDE_COLUMN_U16:
    return ((const uint16_t *)values)[row];
  case SONDE_COLUMN_U32:
    return ((const uint32_t *)values)[row];
  default:
    return ((const uint64_t *)values)[row];
  }
}

static void check_numbers(void) {
  static const uint64_t masks[] = {UINT8_MAX, UINT16_MAX, UINT32_MAX, UINT64_MAX};
  for (uint32_t row = 0; row < ROWS; row++)
    for (uint8_t i = 0; i < 8; i++)
      message[HEAD + row * RECORD + 7 + i] = (uint8_t)(0xf0 - 0x10 * row + i);
  for (uint32_t width = 1; width <= 8; width++) {
    uint64_t values[ROWS], sum = 1, expected = 1;
    for (int kind = SONDE_COLUMN_U8; kind <= SONDE_COLUMN_U64; kind++) {
      struct sonde_column column = {.offset = 7, .width = width, .kind = kind, .values = values};
      CHECK_EQ(read_column(&column), ROWS);
      for (uint32_t row = 0; row < ROWS; row++) {
        uint64_t number = 0;
        for (uint32_t i = 0; i < width; i++)
          number = number << 8 | (uint64_t)(0xf0 - 0x10 * row + i);
        CHECK(read_row(values, kind, row) == (number & masks[kind - SONDE_COLUMN_U8]));
        expected += kind == SONDE_COLUMN_U64 ? number : 0;
      }
    }
    struct sonde_column adding = {
        .offset = 7, .width = width, .kind = SONDE_COLUMN_SUM, .values = &sum};
    CHECK_EQ(read_column(&adding), ROWS);
    CHECK(sum == expected);
  }
}

static void check_texts(const void *first, const void *second, const void *third, uint32_t width,
                        int kind, const char *expected) {
  const void *given[ROWS] = {first, second, third};
  char text[(ROWS + 1) * SONDE_COLUMN_TEXT_MAX];
  int32_t ends[ROWS + 1] = {0};
  for (uint32_t row = 0; row < ROWS; row++)
    memcpy(message + HEAD + row * RECORD + 3, given[row], width);
  struct sonde_column column = {
      .offset = 3, .width = width, .kind = kind, .values = text, .ends = ends};
  CHECK_EQ(read_column(&column), ROWS);
  CHECK_EQ(ends[ROWS], strlen(expected) - 2); /* a comma between two rows */
  for (uint32_t row = 0; row < ROWS; row++) {
    int32_t length = ends[row + 1] - ends[row];
    CHECK(memcmp(text + ends[row], expected, (size_t)length) == 0);
    expected += length + 1;
  }
}

/* Two messages: a template and two sets of records, alternately, then a set with a false length. */
static const uint8_t messages[] = {
    0, 10, 0, 44, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, /* */
    0, 2,  0, 8,  1, 0, 0, 1,                         /* templates */
    1, 0,  0, 10, 1, 2, 3, 4, 5, 6,                   /* three records of two bytes */
    1, 1,  0, 10, 7, 7, 7, 7, 7, 7,                   /* records of another template */
    0, 10, 0, 35, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, /* */
    1, 0,  0, 7,  7, 8, 9,                            /* one record and padding */
    0, 3,  0, 4,                                      /* options, which are skipped */
    1, 0,  0, 99, 1, 2, 3, 4,                         /* longer than its message */
};

static void check_sets(void) {
  struct sonde_set sets[4];
  CHECK_EQ(sonde_ipfix_sets(messages, sizeof messages, sets, 4), 3);
  CHECK_EQ(sets[0].id, 2);
  CHECK_EQ(sets[0].offset, 20);
  CHECK_EQ(sets[1].id, 256);
  CHECK_EQ(sets[1].bytes, 6);
  CHECK_EQ(sets[1].bytes_all, 9);
  CHECK_EQ(sets[2].id, 257);
  CHECK_EQ(sonde_ipfix_sets(messages, sizeof messages, sets, 2), 2);
  for (uint32_t cut = 0; cut < sizeof messages; cut++) /* the sanitizers check the reads */
    CHECK(sonde_ipfix_sets(messages, cut, sets, 4) <= 3);
}

/* The caller's array is output only. */
static void check_stale_sets(void) {
  struct sonde_set sets[4] = {{.id = 256}, {.id = 257}, {.id = 2}, {.id = 256}};
  struct sonde_set fresh[4] = {0};
  uint32_t count = sonde_ipfix_sets(messages, sizeof messages, fresh, 4);
  CHECK(count > 1);
  CHECK_EQ(sonde_ipfix_sets(messages, sizeof messages, sets, 4), count);
  CHECK(memcmp(sets, fresh, count * sizeof *sets) == 0);
}

/* After a set with a false length the rest of its message is skipped, and the next message is read.
 */
static void check_message_after_a_false_length(void) {
  static const uint8_t two[] = {
      0, 10, 0, 30, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, /* */
      1, 0,  0, 3,  1, 2, 3, 4,                         /* shorter than its head */
      1, 0,  0, 6,  5, 6,                               /* skipped */
      0, 10, 0, 22, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, /* */
      1, 0,  0, 6,  7, 8,                               /* one record */
  };
  uint16_t value = 0;
  struct sonde_column column = {.width = 2, .kind = SONDE_COLUMN_U16, .values = &value};
  CHECK_EQ(sonde_ipfix_columns(two, sizeof two, 256, 2, &column, 1, 0, 1), 1);
  CHECK_EQ(value, 0x708);
  CHECK_EQ(sonde_ipfix_columns(two, sizeof two, 256, 2, NULL, 0, 0, UINT32_MAX), 1);
}

/* Rows of all sets with one template id are appended to the existing rows. */
static void check_rows(void) {
  uint8_t left[TABLE_ROWS] = {[0] = 99};
  int32_t ends[TABLE_ROWS] = {[1] = 1};
  char text[TABLE_ROWS * SONDE_COLUMN_TEXT_MAX] = "-";
  uint16_t both[TABLE_ROWS];
  struct sonde_column columns[] = {
      {.offset = 0, .width = 1, .kind = SONDE_COLUMN_U8, .values = left},
      {.offset = 0, .width = 2, .kind = SONDE_COLUMN_U16, .values = both},
  };
  CHECK_EQ(sonde_ipfix_columns(messages, sizeof messages, 256, 2, NULL, 0, 0, UINT32_MAX), 4);
  CHECK_EQ(sonde_ipfix_columns(messages, sizeof messages, 256, 2, columns, 2, 1, 4), 4);
  CHECK(memcmp(left, "\143\1\3\5\7\0", 6) == 0);
  CHECK_EQ(both[4], 0x708);
  CHECK_EQ(sonde_ipfix_columns(messages, sizeof messages, 256, 2, columns, 2, 5, 2), 2);
  CHECK(memcmp(left + 5, "\1\3\0", 3) == 0);
  CHECK_EQ(sonde_ipfix_columns(messages, sizeof messages, 256, 7, NULL, 0, 0, UINT32_MAX), 0);
  struct sonde_column address = {
      .offset = 0, .width = 4, .kind = SONDE_COLUMN_IPV4, .values = text, .ends = ends};
  CHECK_EQ(sonde_ipfix_columns(messages, sizeof messages, 257, 4, &address, 1, 1, 9), 1);
  CHECK(memcmp(text, "-7.7.7.7", 8) == 0);
  CHECK_EQ(ends[2], 8);
}

int main(void) {
  check_stale_sets();
  check_sets();
  check_message_after_a_false_length();
  check_rows();
  check_numbers();
  check_texts("\x0a\0\0\x01", "\xff\xff\xff\xff", "\0\0\0\0", 4, SONDE_COLUMN_IPV4,
              "10.0.0.1,255.255.255.255,0.0.0.0");
  static const uint8_t one[16] = {[15] = 1}, none[16];
  static const uint8_t long_one[16] = {0xab, 0xcd, 0xab, 0xcd, 0xab, 0xcd, 0xab, 0xcd,
                                       0xab, 0xcd, 0xab, 0xcd, 0xab, 0xcd, 0xab, 0xcd};
  check_texts(one, long_one, none, 16, SONDE_COLUMN_IPV6,
              "::1,abcd:abcd:abcd:abcd:abcd:abcd:abcd:abcd,::");
  check_texts("\x02\0\0\0\0\x01", "\xff\xff\xff\xff\xff\xff", "\0\0\0\0\0\0", 6, SONDE_COLUMN_MAC,
              "02:00:00:00:00:01,ff:ff:ff:ff:ff:ff,00:00:00:00:00:00");
  check_texts("\0\0\0\0\0\0\0\x01", "\xff\xee\xdd\xcc\xbb\xaa\x99\x88", "\0\0\0\0\0\0\0\0", 8,
              SONDE_COLUMN_HEX, "0000000000000001,ffeeddccbbaa9988,0000000000000000");
  return check_report();
}
