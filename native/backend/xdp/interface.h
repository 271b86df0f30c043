/* interface.h - what has to be known of a network interface before anything is attached. */
#ifndef SONDE_XDP_INTERFACE_H
#define SONDE_XDP_INTERFACE_H

#include <net/if.h>
#include <stdbool.h>
#include <stdint.h>

#include "status.h"

struct interface {
  char name[IF_NAMESIZE];
  int index;
  uint16_t linktype; /* enum sonde_linktype */
  bool loopback;
};

/* INTERFACE_INVALID in the kernel's words if there is none of this name, or with the reason
 * if its frames cannot be decoded. Needs no privilege. */
int interface_find(const char *name, struct interface *interface, struct sonde_error *error);

/* A descriptor that holds the interface in promiscuous mode for as long as it is open. */
int interface_promiscuous(const struct interface *interface, struct sonde_error *error);

#endif
