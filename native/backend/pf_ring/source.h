/* source.h - one opened PF_RING source, and the library's failures put into words. */
#ifndef SONDE_PF_RING_SOURCE_H
#define SONDE_PF_RING_SOURCE_H

#include <stdbool.h>

#include "library.h"

enum source_kind {
  SOURCE_KERNEL = 0, /* eth0, eth0@1: copies, the host keeps its packets */
  SOURCE_ZERO_COPY,  /* zc:eth0: the driver gives its packets to us alone */
  SOURCE_FILE,       /* pcap:FILE */
};

struct source {
  const struct library *library;
  struct pfring *ring; /* NULL: closed */
  char name[256];      /* as the library takes it */
  char interface[16];  /* the kernel's name in it; "" for a file */
  enum source_kind kind;
  uint32_t caplen;
  bool promiscuous;
  bool loopback;
  int select_fd; /* -1: nothing to poll on */
};

/* Can rings be made at all? Makes one that is bound to nothing, and closes it. */
int source_probe(const struct library *library, struct sonde_error *error);

/* Checks the name and that what it names exists; touches nothing. */
int source_set(struct source *source, const char *name, struct sonde_error *error);
/* Bound, but no packet comes before source_enable. */
int source_open(struct source *source, struct sonde_error *error);
int source_enable(struct source *source, struct sonde_error *error);
void source_close(struct source *source);

#endif
