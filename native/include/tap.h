/* tap.h - live copies of packets: the public part. See tap/ for how they travel.
 *
 * A tap copies the packets that match its filter, up to its snaplen, into its own ring. A full ring
 * never blocks capture: the packet is counted as lost. A thread turns the ring into messages of
 * pcapng packet blocks. The packets of this process's connections are never copied.
 */
#ifndef SONDE_TAP_H
#define SONDE_TAP_H

#include <stdint.h>

#include "status.h"

struct sonde_owner_match;
struct sonde_session;
struct sonde_tap;

enum {
  SONDE_TAPS_MAX = 4,              /* open taps of a session */
  SONDE_TAP_MESSAGE_BYTES = 65536, /* blocks in one message, at most */
  SONDE_TAP_SNAPLEN_MAX = 65480,   /* so that the largest block fits a message */
  SONDE_TAP_INTERFACES_MAX = 128,  /* numbers in packet blocks */
  SONDE_TAP_RING_BYTES = 4 << 20,  /* over all workers; each has SONDE_TAP_RING_MIN or more */
  SONDE_TAP_RING_MIN = 256 << 10,
};

struct sonde_tap_interface { /* its index is the interface number in packet blocks */
  uint16_t slot;
  uint16_t linktype;
};

struct sonde_tap_config {
  const char *filter;   /* BPF expression that matches the packets to copy */
  const char *exclude;  /* BPF expression of packets to leave out; NULL or "": no packet */
  uint32_t snaplen;     /* 1…SONDE_TAP_SNAPLEN_MAX */
  uint32_t direction;   /* enum sonde_direction: only these; 0: all */
  uint64_t slots;       /* bit set: only packets of these interfaces */
  uint64_t max_packets; /* 0: no limit */
  uint64_t max_bytes;   /* limit of block bytes; 0: no limit */
  uint64_t rate;        /* bytes of blocks per second; 0: no limit */
  const struct sonde_owner_match *owner;        /* matches one end of a packet's flow; NULL: any */
  const struct sonde_tap_interface *interfaces; /* the first interface numbers */
  uint32_t interface_count;
};

struct sonde_tap_message {
  uint32_t bytes; /* whole blocks; 0: no packet matched for a while */
  uint32_t packets;
  uint64_t first_ns; /* times of its packets, since the epoch; 0 without packets */
  uint64_t last_ns;
  uint64_t through_ns; /* no later message has a packet older than this; 0: unknown */
  uint32_t interfaces; /* how many interface numbers have been used */
  int last;            /* 1: the tap has ended, and no message follows */
  int limited;         /* 1: it ended because of max_packets or max_bytes */
};

/* With `owner`, packets of other owners are left out after the ring, so lost ones may be theirs.
 * matched = in messages + lost_ring + lost_rate + in the ring now. In packets, and in the bytes of
 * their blocks. */
struct sonde_tap_counts {
  uint64_t matched_packets;
  uint64_t matched_bytes;
  uint64_t lost_ring_packets;
  uint64_t lost_ring_bytes;
  uint64_t lost_rate_packets;
  uint64_t lost_rate_bytes;
};

/* Copies packets from the next batch on. Blocks while the filter is compiled, up to some seconds.
 * Stop and close it before the session closes. Errors: FILTER_INVALID, STATE (the session does
 * not run, or it has no owners), INVALID (SONDE_TAPS_MAX are open), NO_MEMORY, SYSTEM. */
int sonde_tap_open(struct sonde_session *session, const struct sonde_tap_config *config,
                   struct sonde_tap **tap, struct sonde_error *error);
/* Readable when a message is ready. Owned by the tap; read 8 bytes to re-arm, then take. */
int sonde_tap_event_fd(const struct sonde_tap *tap);
/* Moves the next message to `buffer`, which has room for SONDE_TAP_MESSAGE_BYTES. Returns 1, or 0
 * if none is ready. Never blocks. One thread at a time. */
int sonde_tap_take(struct sonde_tap *tap, uint8_t *buffer, struct sonde_tap_message *message);
void sonde_tap_counts(struct sonde_tap *tap, struct sonde_tap_counts *counts);
/* Writes the interface numbers that are used, at most `max`. Returns how many. */
uint32_t sonde_tap_interfaces(struct sonde_tap *tap, struct sonde_tap_interface *out, uint32_t max);
void sonde_tap_rate_set(struct sonde_tap *tap, uint64_t rate);
/* Copies no further packet. The packets in the ring follow, then the last message. Blocks for one
 * turn of the capture loop. A second call does nothing. */
void sonde_tap_stop(struct sonde_tap *tap);
/* Also stops it. NULL is allowed. */
void sonde_tap_close(struct sonde_tap *tap);

#endif
