/* shared.h - capture beside the host: programs at the TCX hooks, rings and slots behind them.
 *
 * The maps live from open to close, so that counters and what waits in them survive the
 * interface; the links live from start to quiesce, or until the interface is deleted.
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

struct shared_queue { /* its reader's own */
  struct bpf_ring ring;
  struct slots slots;
  int wake_fd;
  uint64_t ring_target; /* a scan begins when all that was written up to here has been read */
  uint64_t scan_due_ns;
  uint64_t scan_asked_ns; /* 0: none is about to begin */
  uint64_t busy_ns;       /* when something last came */
  struct sonde_delta deltas[SHARED_BATCH_MAX];
};

struct shared {
  struct sonde_interface interface;
  struct bpf_object *object;
  struct xdp_control *control; /* mapped, one a queue */
  void *slot_map;
  void *tag_map;
  void *bit_map;
  uint64_t slot_bytes;
  uint64_t tag_bytes;
  uint64_t bit_bytes;
  uint64_t control_bytes;
  uint32_t queue_count;
  uint32_t slot_count; /* of one queue; 0: packets */
  uint32_t ring_bytes; /* of one queue */
  bool promiscuous;
  int counts_fd;
  int links[2]; /* ingress, egress */
  int promiscuous_fd;
  _Atomic bool quiesced;
  uint64_t left_behind; /* by stop: taken by the kernel, never handed over */
  struct shared_queue *queues;
};

int shared_open(const struct sonde_backend_config *config, const struct sonde_interface *interface,
                struct shared **shared, struct sonde_error *error);
void shared_info(const struct shared *shared, struct sonde_backend_info *info);
int shared_start(struct shared *shared, struct sonde_error *error);
int shared_receive(struct shared *shared, uint32_t queue, struct sonde_packet *packets,
                   uint32_t max, int timeout_ms, struct sonde_error *error);
void shared_wake(struct shared *shared);
void shared_quiesce(struct shared *shared);
void shared_stats(struct shared *shared, struct sonde_backend_stats *stats);
int shared_reopen(struct shared *shared, struct sonde_error *error);
void shared_stop(struct shared *shared);
void shared_close(struct shared *shared);

#endif
