/* address.c - IP addresses as text; see address.h.
 *
 * A flow record has two to four addresses, so this is hot code of rendering: tables for octets, one
 * pass to find the run of zeros, one to write.
 */
#include "address.h"

#include "text.h"

enum { GROUPS = 8 };

static char *put_ipv4(char *p, const uint8_t address[4]) {
  p = put_octet(p, address[0]);
  *p++ = '.';
  p = put_octet(p, address[1]);
  *p++ = '.';
  p = put_octet(p, address[2]);
  *p++ = '.';
  return put_octet(p, address[3]);
}

static char *put_group(char *p, uint32_t group) {
  char digits[4] = {sonde_text_hex[group >> 12], sonde_text_hex[group >> 8 & 15],
                    sonde_text_hex[group >> 4 & 15], sonde_text_hex[group & 15]};
  uint32_t skip = (uint32_t)((group < 0x1000) + (group < 0x100) + (group < 0x10));
  uint32_t word;
  memcpy(&word, digits, 4);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
  word >>= 8 * skip;
#else
  word <<= 8 * skip;
#endif
  memcpy(p, &word, 4);
  return p + 4 - skip;
}

/* Finds the first longest run of at least two zero groups. Returns its length, or 0 with start =
 * GROUPS. */
static uint32_t find_zeros(const uint16_t groups[GROUPS], uint32_t *start) {
  uint32_t best = 1, best_start = GROUPS, run = 0;
  for (uint32_t i = 0; i < GROUPS; i++) {
    run = groups[i] == 0 ? run + 1 : 0;
    if (run > best) {
      best = run;
      best_start = i + 1 - run;
    }
  }
  *start = best_start;
  return best_start == GROUPS ? 0 : best;
}

static char *put_ipv6(char *p, const uint8_t address[16]) {
  uint16_t groups[GROUPS];
  for (uint32_t i = 0; i < GROUPS; i++)
    groups[i] = (uint16_t)(address[2 * i] << 8 | address[2 * i + 1]);
  uint32_t start, zeros = find_zeros(groups, &start);
  for (uint32_t i = 0; i < start; i++) {
    p = put_group(p, groups[i]);
    *p++ = ':';
  }
  if (zeros == 0)
    return p - 1; /* the last group's colon */
  if (start == 0)
    *p++ = ':';
  *p++ = ':';
  for (uint32_t i = start + zeros; i < GROUPS; i++) {
    p = put_group(p, groups[i]);
    *p++ = ':';
  }
  return start + zeros == GROUPS ? p : p - 1;
}

char *sonde_address_put(char *p, uint8_t ip_version, const uint8_t address[16]) {
  return ip_version == 6 ? put_ipv6(p, address) : put_ipv4(p, address);
}
