/* community_id.c - Community ID v1; the definition is in community_id.h.
 *
 * libcrypto's SHA-1 costs about 0.2 µs a record, most of it the EVP layer: so the digest is
 * fetched and the context made once a batch. A record is never lost for want of its id.
 */
#include "community_id.h"

#include <endian.h>
#include <stddef.h>
#include <string.h>

#include "protocol.h"

enum { MESSAGE_BYTES_MAX = 2 + 16 + 16 + 2 + 4, SHA1_BYTES = 20, NO_PAIR = 0xffff };

void sonde_community_hash_open(struct sonde_community_hash *hash) {
  hash->digest = EVP_MD_fetch(NULL, "SHA1", NULL);
  hash->context = hash->digest == NULL ? NULL : EVP_MD_CTX_new();
}

void sonde_community_hash_close(struct sonde_community_hash *hash) {
  EVP_MD_CTX_free(hash->context);
  EVP_MD_free(hash->digest);
  hash->context = NULL;
  hash->digest = NULL;
}

/* The type that answers this one, or NO_PAIR for types that go one way. Which types pair
 * is the specification's choice, not the RFCs'. */
static uint16_t answering_icmp_type(uint16_t type) {
  switch (type) {
  case 8: /* echo, RFC 792 */
    return 0;
  case 0:
    return 8;
  case 9: /* router advertisement and solicitation, RFC 1256 */
    return 10;
  case 10:
    return 9;
  case 13: /* timestamp */
  case 15: /* information */
  case 17: /* address mask, RFC 950 */
    return type + 1;
  case 14:
  case 16:
  case 18:
    return type - 1;
  default:
    return NO_PAIR;
  }
}

static uint16_t answering_icmpv6_type(uint16_t type) {
  switch (type) {
  case 128: /* echo, RFC 4443 */
  case 130: /* listener query and report, RFC 2710 */
  case 133: /* router solicitation, RFC 4861 */
  case 135: /* neighbor solicitation */
    return type + 1;
  case 129:
  case 131:
  case 134:
  case 136:
    return type - 1;
  case 139: /* node information, RFC 4620 */
  case 144: /* home agent address discovery, RFC 6275 */
    return type + 1;
  case 140:
  case 145:
    return type - 1;
  default:
    return NO_PAIR;
  }
}

/* Ports 0 and 0 are those of fragments whose type nobody saw, which make one flow of both
 * directions; but in ICMPv6 they are type 0 and code 0 as well, which nothing answers. */
static int is_one_way(const struct sonde_record *record) {
  if (record->source_port == 0 && record->dest_port == 0)
    return record->protocol == SONDE_IP_PROTOCOL_ICMPV6 && record->fragment_offset == 0;
  switch (record->protocol) {
  case SONDE_IP_PROTOCOL_ICMP:
    return answering_icmp_type(record->source_port) != record->dest_port;
  case SONDE_IP_PROTOCOL_ICMPV6:
    return answering_icmpv6_type(record->source_port) != record->dest_port;
  default:
    return 0;
  }
}

static int hashes_ports(uint8_t protocol) {
  return protocol == SONDE_IP_PROTOCOL_TCP || protocol == SONDE_IP_PROTOCOL_UDP ||
         protocol == SONDE_IP_PROTOCOL_ICMP || protocol == SONDE_IP_PROTOCOL_ICMPV6 ||
         protocol == SONDE_IP_PROTOCOL_SCTP;
}

/* Both are zero behind an IPv4 address, so all 16 octets order either kind. */
static int compare_addresses(const uint8_t left[16], const uint8_t right[16]) {
  uint64_t words[4];
  memcpy(words, left, 16);
  memcpy(words + 2, right, 16);
  uint64_t l = be64toh(words[0]), r = be64toh(words[2]);
  if (l == r) {
    l = be64toh(words[1]);
    r = be64toh(words[3]);
  }
  return (l > r) - (l < r);
}

static uint8_t *put_addresses(uint8_t *p, uint8_t ip_version, const uint8_t first[16],
                              const uint8_t second[16]) {
  if (ip_version == 6) {
    memcpy(p, first, 16);
    memcpy(p + 16, second, 16);
    return p + 32;
  }
  memcpy(p, first, 4);
  memcpy(p + 4, second, 4);
  return p + 8;
}

/* seed (2) · address · address · protocol · 0 · port (2) · port (2), big-endian.
 * Returns its length. */
static size_t write_message(const struct sonde_record *record, uint8_t *message) {
  uint16_t ports[2] = {record->source_port, record->dest_port};
  int order = compare_addresses(record->source_ip, record->dest_ip);
  int swap = (order > 0 || (order == 0 && ports[0] > ports[1])) && !is_one_way(record);
  uint8_t *p = message;
  *p++ = 0;
  *p++ = 0;
  p = put_addresses(p, record->ip_version, swap ? record->dest_ip : record->source_ip,
                    swap ? record->source_ip : record->dest_ip);
  *p++ = record->protocol;
  *p++ = 0;
  if (hashes_ports(record->protocol)) {
    uint16_t first = ports[swap], second = ports[!swap];
    *p++ = (uint8_t)(first >> 8);
    *p++ = (uint8_t)first;
    *p++ = (uint8_t)(second >> 8);
    *p++ = (uint8_t)second;
  }
  return (size_t)(p - message);
}

static void put_base64(char *p, const uint8_t octets[SHA1_BYTES]) {
  static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  for (uint32_t i = 0; i < 18; i += 3, p += 4) {
    uint32_t word = (uint32_t)octets[i] << 16 | (uint32_t)octets[i + 1] << 8 | octets[i + 2];
    p[0] = alphabet[word >> 18];
    p[1] = alphabet[word >> 12 & 63];
    p[2] = alphabet[word >> 6 & 63];
    p[3] = alphabet[word & 63];
  }
  uint32_t word = (uint32_t)octets[18] << 16 | (uint32_t)octets[19] << 8;
  p[0] = alphabet[word >> 18];
  p[1] = alphabet[word >> 12 & 63];
  p[2] = alphabet[word >> 6 & 63];
  p[3] = '=';
}

int sonde_community_id_put(struct sonde_community_hash *hash, const struct sonde_record *record,
                           char *p) {
  uint8_t message[MESSAGE_BYTES_MAX], sha1[SHA1_BYTES];
  size_t length = write_message(record, message);
  if (hash->context == NULL || EVP_DigestInit_ex(hash->context, hash->digest, NULL) != 1 ||
      EVP_DigestUpdate(hash->context, message, length) != 1 ||
      EVP_DigestFinal_ex(hash->context, sha1, NULL) != 1) {
    return -1;
  }
  p[0] = '1';
  p[1] = ':';
  put_base64(p + 2, sha1);
  return 0;
}
