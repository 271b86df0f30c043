/* interface.h - looks up a network interface before a backend attaches to it. */
#ifndef SONDE_HOST_INTERFACE_H
#define SONDE_HOST_INTERFACE_H

#include <net/if.h>
#include <stdbool.h>
#include <stdint.h>

#include "status.h"

/* Where a backend sees packets. The link type depends on it. */
enum sonde_tap {
  SONDE_TAP_NONE = 0, /* the link type is not needed */
  SONDE_TAP_SOCKET,   /* a raw packet socket */
  SONDE_TAP_HOOK,     /* the traffic control hooks */
};

struct sonde_interface {
  char name[IF_NAMESIZE];
  int index;
  int hardware;      /* ARPHRD_… */
  short flags;       /* IFF_… */
  uint16_t linktype; /* enum sonde_linktype at the given tap */
  bool loopback;
};

/* Looks up an interface. Returns INTERFACE_INVALID with the kernel's message if the name does
 * not exist, or with the reason if its frames cannot be decoded. Needs no privilege. */
int sonde_interface_find(const char *name, enum sonde_tap tap, struct sonde_interface *interface,
                         struct sonde_error *error);

/* Returns a descriptor that keeps the interface promiscuous until it is closed. */
int sonde_interface_promiscuous(const struct sonde_interface *interface, struct sonde_error *error);

#endif
