/* dns.c - the question and the addresses of a DNS message; see parsers.h. */
#include <string.h>

#include "label/parsers.h"

enum {
  HEADER_BYTES = 12,
  JUMPS_MAX = 32, /* compression pointers in a name; each leads backwards */
  LABEL_MAX = 63,
  RECORDS_MAX = 64,
  TYPE_A = 1,
  TYPE_AAAA = 28,
  CLASS_IN = 1,
  CLASS_ANY = 255,
  CLASS_MASK = 0x7fff, /* the top bit has another meaning in mDNS, RFC 6762 §5.4 */
  FLAG_RESPONSE = 0x8000,
  OPCODE_MASK = 0x7800,
};

static uint32_t load_two(const uint8_t *data) {
  return (uint32_t)data[0] << 8 | data[1];
}

/* Reads the name at *at and moves *at behind it. text NULL: only moves. Returns NOT if it is
 * malformed or its text is too long, MORE if it is cut. */
static enum sonde_parse_result read_name(const uint8_t *data, uint32_t bytes, uint32_t *at,
                                         char *text) {
  uint32_t position = *at, lowest = *at, used = 0, jumps = 0;
  for (;;) {
    if (position >= bytes)
      return SONDE_PARSE_MORE;
    uint32_t length = data[position];
    if (length > LABEL_MAX) { /* RFC 1035 §4.1.4 */
      if (length < 0xc0 || jumps++ == JUMPS_MAX)
        return SONDE_PARSE_NOT;
      if (position + 2 > bytes)
        return SONDE_PARSE_MORE;
      uint32_t target = load_two(data + position) & 0x3fff;
      if (jumps == 1)
        *at = position + 2;
      if (target >= lowest)
        return SONDE_PARSE_NOT;
      position = lowest = target;
      continue;
    }
    if (position + 1 + length > bytes)
      return SONDE_PARSE_MORE;
    if (length == 0)
      break;
    if (text && used > 0 && !sonde_name_append(text, &used, (const uint8_t *)".", 1, false))
      return SONDE_PARSE_NOT;
    if (text && !sonde_name_append(text, &used, data + position + 1, length, true))
      return SONDE_PARSE_NOT;
    position += 1 + length;
  }
  if (jumps == 0)
    *at = position + 1;
  if (text && used == 0)
    sonde_name_append(text, &used, (const uint8_t *)".", 1, false);
  return SONDE_PARSE_DONE;
}

static void add_answer(struct sonde_dns_message *message, uint32_t type, uint32_t ttl_sec,
                       const uint8_t *address, uint32_t address_bytes) {
  if (message->answers == SONDE_DNS_ANSWERS_MAX ||
      !((type == TYPE_A && address_bytes == 4) || (type == TYPE_AAAA && address_bytes == 16)))
    return;
  struct sonde_dns_answer *answer = &message->answer[message->answers++];
  *answer = (struct sonde_dns_answer){.ip_version = type == TYPE_A ? 4 : 6, .ttl_sec = ttl_sec};
  memcpy(answer->address, address, address_bytes);
}

static void read_answers(const uint8_t *data, uint32_t bytes, uint32_t at, uint32_t count,
                         struct sonde_dns_message *message) {
  for (uint32_t i = 0; i < count && i < RECORDS_MAX; i++) {
    if (read_name(data, bytes, &at, NULL) != SONDE_PARSE_DONE)
      return;
    struct sonde_reader reader = {data + at, bytes - at, false};
    uint32_t type = reader_number(&reader, 2);
    uint32_t class = reader_number(&reader, 2) & CLASS_MASK;
    uint32_t ttl_sec = reader_number(&reader, 4);
    struct sonde_reader value = reader_part(&reader, 2);
    if (reader.failed)
      return;
    if (class == CLASS_IN)
      add_answer(message, type, ttl_sec, value.data, value.bytes);
    at = bytes - reader.bytes;
  }
}

enum sonde_parse_result sonde_dns_parse(const uint8_t *data, uint32_t bytes,
                                        struct sonde_dns_message *message,
                                        struct sonde_app_label *label) {
  *message = (struct sonde_dns_message){0};
  if (bytes < HEADER_BYTES)
    return SONDE_PARSE_MORE;
  uint32_t flags = load_two(data + 2), questions = load_two(data + 4), at = HEADER_BYTES;
  if ((flags & OPCODE_MASK) != 0 || questions == 0)
    return SONDE_PARSE_NOT;
  message->id = (uint16_t)load_two(data);
  message->response = flags & FLAG_RESPONSE;
  message->rcode = flags & 15;
  char name[SONDE_LABEL_NAME_MAX + 1] = "";
  enum sonde_parse_result result = read_name(data, bytes, &at, name);
  if (result != SONDE_PARSE_DONE)
    return result;
  if (at + 4 > bytes)
    return SONDE_PARSE_MORE;
  uint32_t class = load_two(data + at + 2) & CLASS_MASK;
  if (class == 0 || (class > 4 && class != CLASS_ANY && class != 254))
    return SONDE_PARSE_NOT;
  message->qtype = (uint16_t)load_two(data + at);
  memcpy(label->name, name, sizeof name);
  label->name_source = SONDE_NAME_QNAME;
  if (message->response && message->rcode == 0 && questions == 1)
    read_answers(data, bytes, at + 4, load_two(data + 6), message);
  return SONDE_PARSE_DONE;
}
