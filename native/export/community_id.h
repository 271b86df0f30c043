/* community_id.h - Community ID v1, seed 0: the flow hash of Zeek and Suricata.
 *
 * The text is "1:" and the base64 of SHA-1 over seed, addresses, protocol and ports, the smaller
 * (address, port) first. ICMP uses the ports of the record, which are the pair of types. One-way
 * types are never swapped. Only TCP, UDP, SCTP, ICMP and ICMPv6 hash ports, as in the
 * specification: https://github.com/corelight/community-id-spec
 */
#ifndef SONDE_EXPORT_COMMUNITY_ID_H
#define SONDE_EXPORT_COMMUNITY_ID_H

#include <openssl/evp.h>

#include "record.h"

enum { SONDE_COMMUNITY_ID_BYTES = 30 };

/* Set up once per batch, used by one thread. */
struct sonde_community_hash {
  EVP_MD *digest;
  EVP_MD_CTX *context; /* NULL: libcrypto does not provide SHA-1 */
};

void sonde_community_hash_open(struct sonde_community_hash *hash);
void sonde_community_hash_close(struct sonde_community_hash *hash);

/* Writes SONDE_COMMUNITY_ID_BYTES bytes of text and returns 0. Writes nothing and returns -1 if
 * libcrypto fails (a policy forbids SHA-1, or no memory at open). */
int sonde_community_id_put(struct sonde_community_hash *hash, const struct sonde_record *record,
                           char *p);

#endif
