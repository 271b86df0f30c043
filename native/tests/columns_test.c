/* columns_test.c - fields of records, taken out column by column. */
#include <string.h>

#include "check.h"
#include "netsonde.h"

enum { ROWS = 3, STRIDE = 40 };

static uint8_t records[ROWS * STRIDE];

static void check_numbers(void) {
  static const uint64_t expected[9][ROWS] = {
      [1] = {0xf0, 0xe0, 0xd0},
      [2] = {0xf0f1, 0xe0e1, 0xd0d1},
      [4] = {0xf0f1f2f3, 0xe0e1e2e3, 0xd0d1d2d3},
      [8] = {0xf0f1f2f3f4f5f6f7, 0xe0e1e2e3e4e5e6e7, 0xd0d1d2d3d4d5d6d7}};
  for (uint32_t row = 0; row < ROWS; row++)
    for (uint8_t i = 0; i < 8; i++)
      records[row * STRIDE + 7 + i] = (uint8_t)(0xf0 - 0x10 * row + i);
  for (uint32_t width = 1; width <= 8; width *= 2) {
    uint64_t numbers[ROWS];
    sonde_column_numbers(records + 7, STRIDE, width, ROWS, numbers);
    uint64_t sum = 0;
    for (uint32_t row = 0; row < ROWS; row++) {
      CHECK(numbers[row] == expected[width][row]);
      sum += numbers[row];
    }
    CHECK(sonde_column_sum(records + 7, STRIDE, width, ROWS) == sum);
  }
}

static void check_texts(const void *first, const void *second, const void *third, uint32_t width,
                        int kind, const char *expected) {
  const void *given[ROWS] = {first, second, third};
  char text[(ROWS + 1) * SONDE_COLUMN_TEXT_MAX];
  int32_t ends[ROWS + 1];
  for (uint32_t row = 0; row < ROWS; row++)
    memcpy(records + row * STRIDE + 3, given[row], width);
  uint32_t bytes = sonde_column_texts(records + 3, STRIDE, kind, ROWS, text, ends);
  CHECK_EQ(bytes, strlen(expected) - 2); /* a comma between two rows */
  for (uint32_t row = 0; row < ROWS; row++) {
    int32_t length = ends[row + 1] - ends[row];
    CHECK(memcmp(text + ends[row], expected, (size_t)length) == 0);
    expected += length + 1;
  }
  CHECK_EQ(ends[ROWS], bytes);
}

/* Two messages: a template and two sets of records in turn, then a set that lies. */
static const uint8_t messages[] = {
    0, 10, 0, 44, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, /* */
    0, 2,  0, 8,  1, 0, 0, 1,                         /* templates */
    1, 0,  0, 10, 1, 2, 3, 4, 5, 6,                   /* three records of two bytes */
    1, 1,  0, 10, 7, 7, 7, 7, 7, 7,                   /* of another kind */
    0, 10, 0, 35, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, /* */
    1, 0,  0, 7,  7, 8, 9,                            /* one, and padding */
    0, 3,  0, 4,                                      /* options: not asked for */
    1, 0,  0, 99, 1, 2, 3, 4,                         /* beyond its message */
};

static void check_sets(void) {
  struct sonde_set sets[4];
  uint8_t found[9];
  CHECK_EQ(sonde_ipfix_sets(messages, sizeof messages, sets, 4), 3);
  CHECK_EQ(sets[0].id, 2);
  CHECK_EQ(sets[0].offset, 20);
  CHECK_EQ(sets[1].id, 256);
  CHECK_EQ(sets[1].bytes, 6);
  CHECK_EQ(sets[1].bytes_all, 9);
  CHECK_EQ(sets[2].id, 257);
  CHECK_EQ(sonde_ipfix_sets(messages, sizeof messages, sets, 2), 2);
  CHECK_EQ(sonde_ipfix_records(messages, sizeof messages, 256, 2, found), 8);
  CHECK(memcmp(found, "\1\2\3\4\5\6\7\x8", 8) == 0);
  CHECK_EQ(sonde_ipfix_records(messages, sizeof messages, 256, 7, found), 0);
  for (uint32_t cut = 0; cut < sizeof messages; cut++) /* the sanitizers watch */
    CHECK(sonde_ipfix_sets(messages, cut, sets, 4) <= 3);
}

int main(void) {
  check_sets();
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
