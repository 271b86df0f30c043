/* community_id.c - Community ID v1; see community_id.h.
 *
 * libcrypto's SHA-1 takes about 0.2 µs per record, mostly in the EVP layer. So the digest and the
 * context are made once per batch. A record without an id is still exported.
 */
#include "community_id.h"

#include <endian.h>
#include <stddef.h>
#include <string.h>

#include "ip_protocol.h"

enum { MESSAGE_BYTES_MAX = 2 + 16 + 16 + 2 + 4, SHA1_BYTES = 20 };

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

/* Ports 0 and 0 belong to fragments with an unknown type, whose flow has both directions. In ICMPv6
 * they are also type 0 code 0, which has no counterpart. */
static int is_one_way(const struct sonde_record *record) {
  if (record->source_port == 0 && record->dest_port == 0)
    return record->protocol == SONDE_IP_ICMPV6 && record->fragment_offset == 0;
  return sonde_ip_is_icmp(record->protocol) &&
         (record->source_port > UINT8_MAX ||
          sonde_icmp_counterpart(record->protocol, (uint8_t)record->source_port) !=
              record->dest_port);
}

static int hashes_ports(uint8_t protocol) {
  return protocol == SONDE_IP_TCP || protocol == SONDE_IP_UDP || protocol == SONDE_IP_SCTP ||
         sonde_ip_is_icmp(protocol);
}

/* The octets after an IPv4 address are zero, so comparing 16 octets works for both versions. */
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
  size_t bytes = ip_version == 6 ? 16 : 4;
  memcpy(p, first, bytes);
  memcpy(p + bytes, second, bytes);
  return p + 2 * bytes;
}

/* Writes seed (2) · address · address · protocol · 0 · port (2) · port (2), big-endian. Returns the
 * length. */
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
