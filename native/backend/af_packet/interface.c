/* interface.c - see interface.h. */
#include "interface.h"

#include <errno.h>
#include <net/if_arp.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "failure.h"
#include "packet.h"

#ifndef ARPHRD_RAWIP
#define ARPHRD_RAWIP 519
#endif
#ifndef ARPHRD_IP6GRE
#define ARPHRD_IP6GRE 823
#endif

/* Tunnels and point-to-point links show bare IP packets to a raw packet socket: their own
 * header is put on below it. -1: a link type that we cannot read. */
static int hardware_linktype(int hardware) {
  switch (hardware) {
  case ARPHRD_ETHER:
  case ARPHRD_LOOPBACK:
    return SONDE_LINKTYPE_ETHERNET;
  case ARPHRD_NONE:
  case ARPHRD_VOID:
  case ARPHRD_RAWIP:
  case ARPHRD_PPP:
  case ARPHRD_TUNNEL:
  case ARPHRD_TUNNEL6:
  case ARPHRD_SIT:
  case ARPHRD_IPGRE:
  case ARPHRD_IP6GRE:
    return SONDE_LINKTYPE_RAW;
  default:
    return -1;
  }
}

int interface_find(const char *name, struct interface *interface, struct sonde_error *error) {
  struct ifreq request = {0};
  memset(interface, 0, sizeof *interface);
  if (!name || !*name || strlen(name) >= sizeof interface->name) {
    return sonde_fail(error, SONDE_INTERFACE_INVALID, ENODEV, "%.64s: %s", name ? name : "",
                      strerror(ENODEV));
  }
  if (strcmp(name, "any") == 0) {
    return sonde_fail(error, SONDE_INTERFACE_INVALID, ENODEV,
                      "any: this backend captures on one interface; pcap takes any");
  }
  int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) {
    return sonde_fail(error, SONDE_SYSTEM, errno, "socket: %s", strerror(errno));
  }
  int status = 0;
  memcpy(interface->name, name, strlen(name) + 1);
  memcpy(request.ifr_name, interface->name, sizeof request.ifr_name);
  if (ioctl(fd, SIOCGIFINDEX, &request)) {
    status = sonde_fail(error, SONDE_INTERFACE_INVALID, errno, "%s: %s", name, strerror(errno));
    goto out;
  }
  interface->index = request.ifr_ifindex;
  if (ioctl(fd, SIOCGIFHWADDR, &request)) {
    status = sonde_fail(error, SONDE_INTERFACE_INVALID, errno, "%s: %s", name, strerror(errno));
    goto out;
  }
  int hardware = request.ifr_hwaddr.sa_family;
  int linktype = hardware_linktype(hardware);
  if (linktype < 0) {
    status = sonde_fail(error, SONDE_INTERFACE_INVALID, 0,
                        "%s: frames of hardware type %d (net/if_arp.h) cannot be decoded", name,
                        hardware);
    goto out;
  }
  interface->linktype = (uint16_t)linktype;
  interface->loopback = hardware == ARPHRD_LOOPBACK;
out:
  close(fd);
  return status;
}
