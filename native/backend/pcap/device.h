/* device.h - one activated libpcap handle. Turns libpcap's errors into statuses. */
#ifndef SONDE_PCAP_DEVICE_H
#define SONDE_PCAP_DEVICE_H

#include <net/if.h>
#include <pcap/pcap.h>
#include <stdbool.h>
#include <stdint.h>

#include "status.h"

enum { DEVICE_TIMEOUT_MS = 10 };

struct device {
  char name[IF_NAMESIZE]; /* the configured name */
  int ifindex;            /* the last one opened; 0: nothing yet, or "any" */
  uint32_t snaplen;
  uint32_t buffer_bytes;
  bool promiscuous;
  bool loopback;
  pcap_t *pcap; /* NULL: closed */
  int select_fd;
  uint32_t tick_ns;  /* the unit of tv_usec */
  uint16_t linktype; /* enum sonde_linktype */
};

/* May this process capture with libpcap? */
int device_probe(struct sonde_error *error);
const char *device_version(void); /* "1.10.3" */

/* Checks the name; touches nothing. */
int device_set(struct device *device, const char *name, uint32_t snaplen, uint32_t buffer_bytes,
               bool promiscuous, struct sonde_error *error);
/* Captures from its return on. Prefers the interface it last had open, even if renamed, to one
 * of the configured name. */
int device_open(struct device *device, const char *expression, struct sonde_error *error);
int device_filter(struct device *device, const char *expression, struct sonde_error *error);
/* Rejects new packets and keeps those in the ring. Any thread may be dispatching. */
void device_refuse_all(const struct device *device);
/* Checks the interface. Returns LINK_DOWN, SYSTEM, or 0 if it is up. */
int device_trouble(const struct device *device, struct sonde_error *error);
void device_close(struct device *device);

#endif
