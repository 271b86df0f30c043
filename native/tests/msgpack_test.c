/* msgpack_test.c - the MessagePack encoding, decoded and compared with the JSON reference.
 *
 * The decoder below turns MessagePack into JSON text and rejects types that the encoder must not
 * write. Times stay numbers. Integers must be in their shortest form.
 */
#include <stdlib.h>

#include "check.h"
#include "json_reference.h"
#include "netsonde.h"
#include "random_record.h"

enum { ROUNDS = 20000 };

struct cursor {
  const uint8_t *p, *end;
  int broken;
};

static uint64_t take(struct cursor *in, uint32_t bytes) {
  if ((size_t)(in->end - in->p) < bytes) {
    in->broken = 1;
    return 0;
  }
  uint64_t value = 0;
  for (uint32_t i = 0; i < bytes; i++)
    value = value << 8 | *in->p++;
  return value;
}

static void decode_string(struct cursor *in, uint32_t bytes, struct reference *out) {
  if ((size_t)(in->end - in->p) < bytes) {
    in->broken = 1;
    return;
  }
  add(out, "\"%.*s\"", (int)bytes, (const char *)in->p);
  in->p += bytes;
}

static void decode_integer(struct cursor *in, uint32_t bytes, uint64_t smallest,
                           struct reference *out) {
  uint64_t value = take(in, bytes);
  CHECK(value >= smallest);
  add(out, "%" PRIu64, value);
}

static void decode_value(struct cursor *in, struct reference *out, int depth);

static void decode_items(struct cursor *in, uint64_t count, int is_map, struct reference *out,
                         int depth) {
  add(out, is_map ? "{" : "[");
  for (uint64_t i = 0; i < count && !in->broken; i++) {
    add(out, i ? "," : "");
    decode_value(in, out, depth + 1);
    if (is_map) {
      add(out, ":");
      decode_value(in, out, depth + 1);
    }
  }
  add(out, is_map ? "}" : "]");
}

static void decode_value(struct cursor *in, struct reference *out, int depth) {
  uint8_t head = (uint8_t)take(in, 1);
  if (in->broken || depth > 4)
    in->broken = 1;
  else if (head < 0x80)
    add(out, "%u", head);
  else if (head < 0x90)
    decode_items(in, head & 15, 1, out, depth);
  else if (head < 0xa0)
    decode_items(in, head & 15, 0, out, depth);
  else if (head < 0xc0)
    decode_string(in, head & 31, out);
  else if (head == 0xc0)
    add(out, "null");
  else if (head == 0xc2 || head == 0xc3)
    add(out, head == 0xc3 ? "true" : "false");
  else if (head == 0xcc)
    decode_integer(in, 1, 0x80, out);
  else if (head == 0xcd)
    decode_integer(in, 2, 0x100, out);
  else if (head == 0xce)
    decode_integer(in, 4, 0x10000, out);
  else if (head == 0xcf)
    decode_integer(in, 8, 0x100000000, out);
  else if (head == 0xd9)
    decode_string(in, (uint32_t)take(in, 1), out);
  else if (head == 0xdd)
    decode_items(in, take(in, 4), 0, out, depth);
  else if (head == 0xde)
    decode_items(in, take(in, 2), 1, out, depth);
  else
    in->broken = 1;
}

static void check_decoded(const uint8_t *buffer, uint32_t bytes, const char *expected) {
  struct cursor in = {.p = buffer, .end = buffer + bytes};
  struct reference out = {.length = 0};
  decode_value(&in, &out, 0);
  CHECK(!in.broken);
  CHECK(in.p == in.end);
  if (strcmp(out.text, expected) != 0)
    fprintf(stderr, "%s\nshould be\n%s\n", out.text, expected);
  CHECK(strcmp(out.text, expected) == 0);
}

static int has_ipv6(const struct sonde_record *record) {
  return record->ip_version == 6 || record->tunnel_ip_version == 6;
}

static void check_random(struct sonde_community_hash *hash) {
  for (int round = 0; round < ROUNDS; round++) {
    struct sonde_record records[2];
    struct reference expected = {.text = "[", .length = 1};
    uint32_t count = (uint32_t)(next_random() % 3);
    for (uint32_t i = 0; i < count; i++) {
      do {
        randomize_record(&records[i]); /* IPv6 text is covered by address_test.c */
      } while (has_ipv6(&records[i]));
      add(&expected, "%s", i ? "," : "");
      write_reference(&expected, &records[i], "eth0", 1, hash);
    }
    add(&expected, "]");
    uint8_t buffer[3 * SONDE_RENDERED_RECORD_MAX];
    struct sonde_batch batch;
    CHECK_EQ(sonde_records_render(records, count, SONDE_ENCODING_MSGPACK, "eth0", buffer,
                                  sizeof buffer, &batch),
             SONDE_OK);
    CHECK_EQ(batch.records, count);
    check_decoded(buffer, batch.bytes, expected.text);
  }
}

/* The first bytes of a batch, written by hand from the MessagePack specification. */
static void check_head(void) {
  struct sonde_record record = {.flow_id = 0xfedcba9876543210, .ip_version = 4};
  uint8_t buffer[2 * SONDE_RENDERED_RECORD_MAX];
  struct sonde_batch batch;
  CHECK_EQ(sonde_records_render(&record, 1, SONDE_ENCODING_MSGPACK, "eth0", buffer, sizeof buffer,
                                &batch),
           SONDE_OK);
  static const char head[] = "\xdd\x00\x00\x00\x01" /* array 32 of one */
                             "\xde\x00\x35"         /* map 16 of 53 */
                             "\xa7"
                             "flow_id"
                             "\xb0"
                             "fedcba9876543210"
                             "\xac"
                             "community_id"
                             "\xbe"
                             "1:";
  CHECK(memcmp(buffer, head, sizeof head - 1) == 0);
}

int main(void) {
  struct sonde_community_hash hash;
  sonde_community_hash_open(&hash);
  check_head();
  check_random(&hash);
  sonde_community_hash_close(&hash);
  return check_report();
}
