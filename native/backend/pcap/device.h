/* device.h - one activated libpcap handle, and libpcap's words made into statuses. */
#ifndef SONDE_PCAP_DEVICE_H
#define SONDE_PCAP_DEVICE_H

#include <net/if.h>
#include <pcap/pcap.h>
#include <stdbool.h>
#include <stdint.h>

#include "status.h"

enum { DEVICE_TIMEOUT_MS = 10 };

struct device {
  char name[IF_NAMESIZE]; /* as given */
  int ifindex;            /* of what was opened last; 0: nothing yet, or "any" */
  uint32_t snaplen;
  uint32_t buffer_bytes;
  bool promiscuous;
  bool loopback;
  pcap_t *pcap; /* NULL: closed */
  int select_fd;
  uint32_t tick_ns;  /* of tv_usec */
  uint16_t linktype; /* enum sonde_linktype */
};

/* May this process capture with libpcap? */
int device_probe(struct sonde_error *error);
const char *device_version(void); /* "1.10.3" */

/* Checks the name; touches nothing. */
int device_set(struct device *device, const char *name, uint32_t snaplen, uint32_t buffer_bytes,
               bool promiscuous, struct sonde_error *error);
/* Captures from its return on: on the interface that it was open on, whatever that is called
 * now, or else on one of the name. */
int device_open(struct device *device, const char *expression, struct sonde_error *error);
int device_filter(struct device *device, const char *expression, struct sonde_error *error);
/* Lets nothing new in, and what was let in stays. Any thread may be dispatching. */
void device_refuse_all(const struct device *device);
/* What an error of the handle means: LINK_DOWN or SYSTEM; 0 if all is well. */
int device_trouble(const struct device *device, struct sonde_error *error);
void device_close(struct device *device);

#endif
