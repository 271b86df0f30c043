/* interface.c - see interface.h. */
#include "interface.h"

#include <errno.h>
#include <linux/if_packet.h>
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

/* What the traffic control hooks see of these begins with a MAC or an IP header, both ways.
 * -1: of others it depends on the way. */
static int hardware_linktype(int hardware) {
  switch (hardware) {
  case ARPHRD_ETHER:
  case ARPHRD_LOOPBACK:
    return SONDE_LINKTYPE_ETHERNET;
  case ARPHRD_NONE:
  case ARPHRD_RAWIP:
  case ARPHRD_TUNNEL:
  case ARPHRD_TUNNEL6:
  case ARPHRD_SIT:
    return SONDE_LINKTYPE_RAW;
  default:
    return -1;
  }
}

static int read_hardware(int fd, struct ifreq *request, struct interface *interface,
                         struct sonde_error *error) {
  if (ioctl(fd, SIOCGIFINDEX, request)) {
    return sonde_fail(error, SONDE_INTERFACE_INVALID, errno, "%s: %s", interface->name,
                      strerror(errno));
  }
  interface->index = request->ifr_ifindex;
  if (ioctl(fd, SIOCGIFHWADDR, request)) {
    return sonde_fail(error, SONDE_INTERFACE_INVALID, errno, "%s: %s", interface->name,
                      strerror(errno));
  }
  int hardware = request->ifr_hwaddr.sa_family;
  int linktype = hardware_linktype(hardware);
  if (linktype < 0) {
    return sonde_fail(error, SONDE_INTERFACE_INVALID, 0,
                      "%s: this backend cannot read hardware type %d (net/if_arp.h)",
                      interface->name, hardware);
  }
  interface->linktype = (uint16_t)linktype;
  interface->loopback = hardware == ARPHRD_LOOPBACK;
  return 0;
}

int interface_find(const char *name, struct interface *interface, struct sonde_error *error) {
  struct ifreq request = {0};
  memset(interface, 0, sizeof *interface);
  if (!name || !*name || strlen(name) >= sizeof interface->name) {
    return sonde_fail(error, SONDE_INTERFACE_INVALID, ENODEV, "%.64s: %s", name ? name : "",
                      strerror(ENODEV));
  }
  int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) {
    return sonde_fail(error, SONDE_SYSTEM, errno, "socket: %s", strerror(errno));
  }
  memcpy(interface->name, name, strlen(name) + 1);
  memcpy(request.ifr_name, interface->name, sizeof request.ifr_name);
  int status = read_hardware(fd, &request, interface, error);
  close(fd);
  return status;
}

int interface_promiscuous(const struct interface *interface, struct sonde_error *error) {
  struct packet_mreq membership = {.mr_ifindex = interface->index, .mr_type = PACKET_MR_PROMISC};
  int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0); /* protocol 0: receives nothing */
  if (fd < 0 && errno == EPERM) {
    return sonde_fail(error, SONDE_PERMISSION, errno, "promiscuous mode needs CAP_NET_RAW");
  }
  if (fd >= 0 &&
      setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &membership, sizeof membership) == 0) {
    return fd;
  }
  int status = sonde_fail(error, SONDE_SYSTEM, errno, "promiscuous mode: %s", strerror(errno));
  if (fd >= 0) {
    close(fd);
  }
  return status;
}
