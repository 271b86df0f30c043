/* delta.c - what a backend has added up, on its way into the worker's table. */
#include <string.h>

#include "core/worker.h"

/* Brings one side's times onto the flows' time line. False: one could not be believed. */
static bool stamp_side(struct sonde_packet_clock *clock, struct sonde_delta *delta, unsigned side) {
  bool first = sonde_packet_clock_stamp(clock, delta->first_ns[side], &delta->first_ns[side]);
  bool last = sonde_packet_clock_stamp(clock, delta->last_ns[side], &delta->last_ns[side]);
  return first && last;
}

static void add_one(struct sonde_worker *worker, struct sonde_delta *delta) {
  struct sonde_worker_counters *counters = &worker->counters;
  for (unsigned side = 0; side < 2; side++) {
    if (delta->packets[side])
      counters->timestamps_corrected += !stamp_side(&worker->clock, delta, side);
  }
  counters->frames += delta->frames;
  counters->packets += delta->packets[0] + delta->packets[1];
  counters->bytes += delta->l2_bytes[0] + delta->l2_bytes[1];
}

void sonde_worker_merge(struct sonde_worker *worker, const struct sonde_packet *packets,
                        uint32_t count) {
  struct sonde_delta deltas[SONDE_WORKER_BATCH];
  uint32_t added = 0;
  uint64_t complete_ns = worker->complete_ns;
  for (uint32_t i = 0; i < count; i++) {
    if (packets[i].caplen == 0) {
      sonde_packet_clock_stamp(&worker->clock, packets[i].time_ns, &complete_ns);
      continue;
    }
    memcpy(&deltas[added], packets[i].data, sizeof deltas[added]);
    add_one(worker, &deltas[added++]);
  }
  sonde_flow_table_merge(worker->table, deltas, added);
  worker->complete_ns = complete_ns;
}
