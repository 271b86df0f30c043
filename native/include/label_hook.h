/* label_hook.h - how the flow table calls the labeler.
 *
 * Each entry has a 32-bit `label`, 0 in a new flow, that only the hook changes. The address of an
 * entry's label stays the same for the table's life.
 */
#ifndef SONDE_LABEL_HOOK_H
#define SONDE_LABEL_HOOK_H

#include <stdbool.h>

#include "packet.h"

enum { SONDE_LABEL_PAYLOADS_MAX = 15 };

struct sonde_label_hook {
  void *context;        /* NULL: labels are off */
  uint8_t tcp_payloads; /* packets with payload to read in a new flow, 0…PAYLOADS_MAX */
  uint8_t udp_payloads;
  /* Reads the payload of a packet of the current batch, if it has one. start: the sequence number
   * of its sender's first byte, if the flow knows it, or the packet's own. left: payloads left to
   * read, with this one. Returns how many are left. */
  uint8_t (*payload)(void *context, uint32_t *label, const struct sonde_decoded *packet,
                     uint32_t start, uint8_t left);
  /* Sets label and label_generation of a record whose other members are set. start_ns: the flow's
   * first packet, in the table's time. last: no further payload will be read. */
  void (*record)(void *context, uint32_t *label, struct sonde_record *record, uint64_t start_ns,
                 bool last);
  void (*release)(void *context, uint32_t *label); /* the flow has ended */
  /* Does the flow's name match the pattern (fnmatch, without case)? */
  bool (*matches)(void *context, uint32_t label, const char *pattern);
};

#endif
