/* flow_config.h - the configuration and the counters of a flow table.
 *
 * Separate from table.h, because entry.h needs them but not the functions.
 */
#ifndef SONDE_FLOW_FLOW_CONFIG_H
#define SONDE_FLOW_FLOW_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "counters.h"
#include "label_hook.h"
#include "owner_hook.h"
#include "record.h"

enum {
  SONDE_FLOW_BATCH_MAX = 64,
  /* A packet can close a segment, end its flow, and evict another. */
  SONDE_FLOW_RECORDS_PER_PACKET_MAX = 3,
};

/* The consumer of records. `reserve` returns space for one record or NULL, `commit` publishes it.
 * `room` returns how many can be reserved: timers wait for room, packets cannot. */
struct sonde_record_sink {
  void *context;
  struct sonde_record *(*reserve)(void *context);
  void (*commit)(void *context);
  uint32_t (*room)(void *context);
};

struct sonde_flow_config {
  uint32_t flows_max;
  bool tunnels;     /* keep each flow's tunnel */
  uint8_t worker;   /* makes flow ids differ between tables of one session */
  uint64_t id_seed; /* the same for all tables of a session */
  struct sonde_record_sink sink;
  struct sonde_label_hook labels; /* context NULL: off */
  struct sonde_owner_hook owners; /* context NULL: off */
};

struct sonde_flow_counters {
  SONDE_FLOW_COUNTER_LIST(SONDE_COUNTER_MEMBER)
  uint64_t records_by_reason[6];
};

#endif
