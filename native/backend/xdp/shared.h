/* shared.h - capture while the host keeps its packets: programs at the TCX hooks fill rings and
 * slots.
 *
 * The maps live from open to close, so counters and unread packets survive the interface. The
 * links live from start to quiesce, or until the interface is deleted.
 */
#ifndef SONDE_XDP_SHARED_H
#define SONDE_XDP_SHARED_H

#include <bpf/libbpf.h>
#include <stdatomic.h>

#include "backend.h"
#include "bpf_ring.h"
#include "host/interface.h"
#include "object.h"
#include "slots.h"

enum { SHARED_BATCH_MAX = 256 };

struct shared_queue { /* used by its reader only */
  struct bpf_ring ring;
  struct slots slots;
  int wake_fd;
  bool armed;           /* by poll_fd, until the next receive */
  uint64_t ring_target; /* a scan begins once the ring has been read up to here */
  uint64_t scan_due_ns;
  uint64_t scan_asked_ns; /* 0: no scan requested */
  uint64_t busy_ns;       /* when a packet last arrived */
  struct sonde_delta deltas[SHARED_BATCH_MAX];
};

struct shared {
  struct sonde_interface interface;
  struct bpf_object *object;
  struct xdp_control *control; /* one per queue, in the last of `maps` */
  struct mapping {
    void *memory;
    uint64_t bytes;
  } maps[4]; /* slots, tags, bits, control */
  uint32_t queue_count;
  uint32_t slot_count; /* per queue; 0: packets, no aggregation */
  uint32_t ring_bytes; /* per queue */
  bool promiscuous;
  int counts_fd;
  int links[2]; /* ingress, egress */
  int promiscuous_fd;
  _Atomic bool quiesced;
  uint64_t left_behind; /* set by stop: packets captured but never handed over */
  struct shared_queue *queues;
};

int shared_open(const struct sonde_backend_config *config, const struct sonde_interface *interface,
                struct shared **shared, struct sonde_error *error);
void shared_info(const struct shared *shared, struct sonde_backend_info *info);
int shared_start(struct shared *shared, struct sonde_error *error);
int shared_receive(struct shared *shared, uint32_t queue, struct sonde_packet *packets,
                   uint32_t max, int timeout_ms, struct sonde_error *error);
/* Implements poll_fd of backend.h. With a descriptor, the programs wake its reader. */
int shared_poll_fd(struct shared *shared, uint32_t queue, int *timeout_ms);
void shared_wake(struct shared *shared);
void shared_quiesce(struct shared *shared);
void shared_stats(struct shared *shared, struct sonde_backend_stats *stats);
int shared_reopen(struct shared *shared, struct sonde_error *error);
void shared_stop(struct shared *shared);
void shared_close(struct shared *shared);

#endif
