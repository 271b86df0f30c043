/* source.h - one opened PF_RING source. Turns the library's failures into statuses. */
#ifndef SONDE_PF_RING_SOURCE_H
#define SONDE_PF_RING_SOURCE_H

#include <stdbool.h>

#include "leftover.h"
#include "library.h"

enum source_kind {
  SOURCE_KERNEL = 0, /* eth0, eth0@1: copies; the host keeps its packets */
  SOURCE_ZERO_COPY,  /* zc:eth0: the driver passes its packets to netsonde only */
  SOURCE_FILE,       /* pcap:FILE */
};

struct source {
  const struct library *library;
  struct pfring *ring; /* NULL: closed */
  struct ring_sockets sockets;
  char name[256];     /* the requested name */
  char device[256];   /* the same, as the library takes it literally */
  char interface[16]; /* the kernel interface in `name`; "" for a file */
  enum source_kind kind;
  int channel; /* the highest in `name`; -1: all channels */
  uint32_t caplen;
  bool promiscuous;
  bool loopback;
  bool received_only; /* the module hides packets that the host sends */
  int select_fd;      /* -1: nothing to poll on */
};

/* Checks that rings can be created. Opens none, unless the releases of library and module differ:
 * only a ring shows whether they fit. */
int source_probe(const struct library *library, struct sonde_error *error);

/* Checks that the named source exists. Opens nothing. */
int source_set(struct source *source, const char *name, struct sonde_error *error);
/* Binds the ring. No packet arrives before source_enable. LINK_DOWN: the interface is down. */
int source_open(struct source *source, struct sonde_error *error);
int source_enable(struct source *source, struct sonde_error *error);
void source_close(struct source *source);

#endif
