/* quic.c - see quic.h. Packets are RFC 9000 §17.2, version 2 is RFC 9369. */
#include "label/quic.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdlib.h>

#include "label/reader.h"

enum {
  DATAGRAM_MAX = 2048, /* bytes of an Initial that are decrypted */
  SAMPLE_BYTES = 16,
  TAG_BYTES = 16,
  HASH_BYTES = 32,
  PACKETS_MAX = 8, /* coalesced in a datagram */
  FRAMES_MAX = 512,
  VERSION_1 = 0x00000001,
  VERSION_2 = 0x6b3343cf,
  DRAFT_29 = 0xff00001d,
  DRAFT_32 = 0xff000020,
  DRAFT_34 = 0xff000022,
};

enum frame_type { PADDING = 0, PING = 1, ACK = 2, ACK_ECN = 3, CRYPTO = 6 };

struct version {
  uint32_t first, last;
  uint8_t initial; /* the packet type of Initial */
  uint8_t retry;
  const char *key, *iv, *header_key; /* labels of HKDF-Expand-Label */
  uint8_t salt[20];
};

static const struct version versions[] = {
    {VERSION_1, VERSION_1, 0, 3, "quic key", "quic iv", "quic hp", {0x38, 0x76, 0x2c, 0xf7, 0xf5,
                                                                    0x59, 0x34, 0xb3, 0x4d, 0x17,
                                                                    0x9a, 0xe6, 0xa4, 0xc8, 0x0c,
                                                                    0xad, 0xcc, 0xbb, 0x7f, 0x0a}},
    {VERSION_2, VERSION_2, 1, 0, "quicv2 key", "quicv2 iv", "quicv2 hp", {0x0d, 0xed, 0xe3, 0xde,
                                                                          0xf7, 0x00, 0xa6, 0xdb,
                                                                          0x81, 0x93, 0x81, 0xbe,
                                                                          0x6e, 0x26, 0x9d, 0xcb,
                                                                          0xf9, 0xbd, 0x2e, 0xd9}},
    {DRAFT_29, DRAFT_32, 0, 3, "quic key", "quic iv", "quic hp", {0xaf, 0xbf, 0xec, 0x28, 0x99,
                                                                  0x93, 0xd2, 0x4c, 0x9e, 0x97,
                                                                  0x86, 0xf1, 0x9c, 0x61, 0x11,
                                                                  0xe0, 0x43, 0x90, 0xa8, 0x99}},
    {DRAFT_32 + 1, DRAFT_34, 0, 3, "quic key", "quic iv", "quic hp", {0x38, 0x76, 0x2c, 0xf7,
                                                                      0xf5, 0x59, 0x34, 0xb3,
                                                                      0x4d, 0x17, 0x9a, 0xe6,
                                                                      0xa4, 0xc8, 0x0c, 0xad,
                                                                      0xcc, 0xbb, 0x7f, 0x0a}},
};

/* One packet with a long header. */
struct packet {
  const uint8_t *start;
  uint32_t number_offset; /* where the protected packet number begins */
  uint32_t bytes;         /* from start to the packet's end */
  struct sonde_reader dest_id;
};

struct sonde_quic {
  EVP_CIPHER *ecb, *gcm;
  EVP_CIPHER_CTX *header, *payload;
  uint8_t plain[DATAGRAM_MAX];
  uint8_t additional[DATAGRAM_MAX]; /* the header without protection */
};

struct sonde_quic *sonde_quic_create(void) {
  struct sonde_quic *quic = calloc(1, sizeof *quic);
  if (!quic)
    return NULL;
  quic->ecb = EVP_CIPHER_fetch(NULL, "AES-128-ECB", NULL);
  quic->gcm = EVP_CIPHER_fetch(NULL, "AES-128-GCM", NULL);
  quic->header = EVP_CIPHER_CTX_new();
  quic->payload = EVP_CIPHER_CTX_new();
  if (!quic->ecb || !quic->gcm || !quic->header || !quic->payload) {
    sonde_quic_destroy(quic);
    return NULL;
  }
  return quic;
}

void sonde_quic_destroy(struct sonde_quic *quic) {
  if (!quic)
    return;
  EVP_CIPHER_CTX_free(quic->header);
  EVP_CIPHER_CTX_free(quic->payload);
  EVP_CIPHER_free(quic->ecb);
  EVP_CIPHER_free(quic->gcm);
  free(quic);
}

/* ---- keys ------------------------------------------------------------------------------ */

static bool authenticate(const uint8_t *key, uint32_t key_bytes, const uint8_t *data,
                         uint32_t bytes, uint8_t digest[HASH_BYTES]) {
  unsigned int written = HASH_BYTES;
  return HMAC(EVP_sha256(), key, (int)key_bytes, data, bytes, digest, &written) != NULL;
}

/* HKDF-Expand-Label of RFC 8446 §7.1 with an empty context, for at most one block. */
static bool expand(const uint8_t secret[HASH_BYTES], const char *label, uint8_t *into,
                   uint32_t bytes) {
  uint8_t info[64] = {0, (uint8_t)bytes}, block[HASH_BYTES];
  uint32_t length = (uint32_t)strlen(label);
  info[2] = (uint8_t)(6 + length);
  memcpy(info + 3, "tls13 ", 6);
  memcpy(info + 9, label, length);
  info[9 + length] = 0;     /* context */
  info[10 + length] = 0x01; /* the block's number */
  if (!authenticate(secret, HASH_BYTES, info, 11 + length, block))
    return false;
  memcpy(into, block, bytes);
  return true;
}

static bool derive(const struct version *version, const struct sonde_reader *dest_id,
                   struct sonde_quic_keys *keys) {
  uint8_t initial[HASH_BYTES], client[HASH_BYTES];
  keys->set =
      authenticate(version->salt, sizeof version->salt, dest_id->data, dest_id->bytes, initial) &&
      expand(initial, "client in", client, sizeof client) &&
      expand(client, version->key, keys->key, sizeof keys->key) &&
      expand(client, version->iv, keys->iv, sizeof keys->iv) &&
      expand(client, version->header_key, keys->header_key, sizeof keys->header_key);
  return keys->set;
}

/* ---- packets --------------------------------------------------------------------------- */

static const struct version *find_version(uint32_t number) {
  for (uint32_t i = 0; i < sizeof versions / sizeof versions[0]; i++)
    if (number >= versions[i].first && number <= versions[i].last)
      return &versions[i];
  return NULL;
}

static void skip(struct sonde_reader *reader, uint64_t bytes) {
  reader_take(reader, bytes > UINT32_MAX ? UINT32_MAX : (uint32_t)bytes);
}

static bool is_long_header(uint32_t first) {
  return (first & 0xc0) == 0xc0; /* header form and fixed bit */
}

bool sonde_quic_begins(const uint8_t *datagram, uint32_t bytes) {
  struct sonde_reader reader = {datagram, bytes, false};
  uint32_t first = reader_number(&reader, 1), version = reader_number(&reader, 4);
  return !reader.failed && is_long_header(first) && find_version(version);
}

/* Reads the next packet of a datagram. Returns its version if it is an Initial, else NULL. A packet
 * that cannot be followed by another one ends the reader. */
static const struct version *next_packet(struct sonde_reader *datagram, struct packet *packet) {
  struct sonde_reader reader = *datagram;
  uint32_t first = reader_number(&reader, 1);
  const struct version *version = find_version(reader_number(&reader, 4));
  packet->start = datagram->data;
  packet->dest_id = reader_part(&reader, 1);
  struct sonde_reader source_id = reader_part(&reader, 1);
  uint32_t type = first >> 4 & 3;
  if (reader.failed || !is_long_header(first) || !version || type == version->retry ||
      packet->dest_id.bytes > SONDE_QUIC_ID_MAX || source_id.bytes > SONDE_QUIC_ID_MAX) {
    datagram->bytes = 0;
    return NULL;
  }
  if (type == version->initial)
    skip(&reader, reader_varint(&reader)); /* token */
  uint64_t length = reader_varint(&reader);
  packet->number_offset = (uint32_t)(reader.data - packet->start);
  if (reader.failed || length > reader.bytes) {
    datagram->bytes = 0;
    return NULL;
  }
  packet->bytes = packet->number_offset + (uint32_t)length;
  reader_take(datagram, packet->bytes);
  return type == version->initial ? version : NULL;
}

/* Removes the header protection, RFC 9001 §5.4. Returns the length of the packet number, or 0. */
static uint32_t unprotect(struct sonde_quic *quic, const struct packet *packet,
                          const struct sonde_quic_keys *keys, uint8_t *header) {
  uint8_t mask[SAMPLE_BYTES];
  int written;
  const uint8_t *sample = packet->start + packet->number_offset + 4;
  if (EVP_EncryptInit_ex2(quic->header, quic->ecb, keys->header_key, NULL, NULL) != 1 ||
      EVP_CIPHER_CTX_set_padding(quic->header, 0) != 1 ||
      EVP_EncryptUpdate(quic->header, mask, &written, sample, SAMPLE_BYTES) != 1)
    return 0;
  memcpy(header, packet->start, packet->number_offset + 4);
  header[0] ^= mask[0] & 0x0f;
  uint32_t number_bytes = (header[0] & 3) + 1u;
  for (uint32_t i = 0; i < number_bytes; i++)
    header[packet->number_offset + i] ^= mask[1 + i];
  return number_bytes;
}

/* Decrypts into quic->plain. Returns the number of bytes, 0 if the packet does not authenticate. */
static uint32_t decrypt(struct sonde_quic *quic, const struct packet *packet,
                        const struct sonde_quic_keys *keys) {
  if (packet->bytes < packet->number_offset + 4 + SAMPLE_BYTES || packet->bytes > DATAGRAM_MAX)
    return 0;
  uint32_t number_bytes = unprotect(quic, packet, keys, quic->additional);
  uint32_t header_bytes = packet->number_offset + number_bytes;
  if (number_bytes == 0 || packet->bytes < header_bytes + TAG_BYTES)
    return 0;
  uint8_t nonce[12];
  memcpy(nonce, keys->iv, sizeof nonce);
  for (uint32_t i = 0; i < number_bytes; i++)
    nonce[sizeof nonce - number_bytes + i] ^= quic->additional[packet->number_offset + i];
  uint32_t sealed = packet->bytes - header_bytes - TAG_BYTES;
  const uint8_t *body = packet->start + header_bytes;
  uint8_t tag[TAG_BYTES];
  memcpy(tag, body + sealed, TAG_BYTES);
  int written, ended;
  if (EVP_DecryptInit_ex2(quic->payload, quic->gcm, keys->key, nonce, NULL) != 1 ||
      EVP_DecryptUpdate(quic->payload, NULL, &written, quic->additional, (int)header_bytes) != 1 ||
      EVP_DecryptUpdate(quic->payload, quic->plain, &written, body, (int)sealed) != 1 ||
      EVP_CIPHER_CTX_ctrl(quic->payload, EVP_CTRL_AEAD_SET_TAG, TAG_BYTES, tag) != 1 ||
      EVP_DecryptFinal_ex(quic->payload, quic->plain + written, &ended) != 1)
    return 0;
  return (uint32_t)(written + ended);
}

static void skip_ack(struct sonde_reader *reader, uint64_t type) {
  reader_varint(reader); /* largest acknowledged */
  reader_varint(reader); /* delay */
  uint64_t ranges = reader_varint(reader);
  reader_varint(reader); /* first range */
  for (uint64_t i = 0; i < 2 * ranges && !reader->failed; i++)
    reader_varint(reader);
  for (int i = 0; type == ACK_ECN && i < 3; i++)
    reader_varint(reader);
}

/* Frames are RFC 9000 §19. */
void sonde_quic_read_frames(const uint8_t *plain, uint32_t bytes, struct sonde_assembler *stream) {
  struct sonde_reader reader = {plain, bytes, false};
  for (uint32_t frames = 0; reader.bytes > 0 && frames < FRAMES_MAX;) {
    uint64_t type = reader_varint(&reader);
    if (type == PADDING)
      continue;
    frames++;
    if (type == PING)
      continue;
    if (type == ACK || type == ACK_ECN) {
      skip_ack(&reader, type);
      continue;
    }
    if (type != CRYPTO)
      return;
    uint64_t offset = reader_varint(&reader), length = reader_varint(&reader);
    if (reader.failed || length > reader.bytes)
      return;
    assembler_add(stream, offset, reader_take(&reader, (uint32_t)length), (uint32_t)length);
  }
}

/* Opens the packet with the known keys, or with keys from its connection ID. Deriving keys is
 * expensive: once per datagram. */
static uint32_t open_packet(struct sonde_quic *quic, const struct version *version,
                            const struct packet *packet, bool *derived,
                            struct sonde_quic_keys *keys, struct sonde_assembler *stream) {
  uint32_t bytes = keys->set ? decrypt(quic, packet, keys) : 0;
  if (bytes || *derived)
    return bytes;
  struct sonde_quic_keys fresh;
  *derived = true;
  if (!derive(version, &packet->dest_id, &fresh))
    return 0;
  bytes = decrypt(quic, packet, &fresh);
  if (bytes) {
    *keys = fresh;
    assembler_clear(stream);
  }
  return bytes;
}

uint32_t sonde_quic_open(struct sonde_quic *quic, const uint8_t *datagram, uint32_t bytes,
                         struct sonde_quic_keys *keys, struct sonde_assembler *stream) {
  struct sonde_reader reader = {datagram, bytes, false};
  uint32_t opened = 0;
  bool derived = false;
  for (uint32_t i = 0; i < PACKETS_MAX && reader.bytes > 0; i++) {
    struct packet packet;
    const struct version *version = next_packet(&reader, &packet);
    if (!version)
      continue;
    uint32_t plain_bytes = open_packet(quic, version, &packet, &derived, keys, stream);
    if (plain_bytes == 0)
      continue;
    opened++;
    sonde_quic_read_frames(quic->plain, plain_bytes, stream);
  }
  return opened;
}
