/* owner_hook.h - how the flow table asks for the owners of a flow. */
#ifndef SONDE_OWNER_HOOK_H
#define SONDE_OWNER_HOOK_H

#include "record.h"

struct sonde_owner_hook {
  void *context; /* NULL: owners are off */
  /* Sets process, peer_process and process_side of a record whose other members are set.
   * owners: what the flow's earlier records said of source and dest, 0 in a new flow. */
  void (*record)(void *context, uint32_t owners[2], struct sonde_record *record);
};

#endif
