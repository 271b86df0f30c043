/* interface.c - see interface.h. */
#include "host/interface.h"

#include <linux/if_packet.h>
#include <net/if_arp.h>
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

/* The header that packets of this type begin with, in both directions, at hooks and sockets.
 * -1: unknown, or depends on the direction at the hooks. */
static int hardware_linktype(int hardware, enum sonde_tap tap) {
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
  case ARPHRD_VOID:
  case ARPHRD_PPP:
  case ARPHRD_IPGRE:
  case ARPHRD_IP6GRE: /* a packet socket sees the bare IP packet */
    return tap == SONDE_TAP_SOCKET ? SONDE_LINKTYPE_RAW : -1;
  default:
    return -1;
  }
}

static int refuse(const char *name, int system_errno, struct sonde_error *error) {
  return sonde_fail_interface(error, name, system_errno);
}

int sonde_interface_find(const char *name, enum sonde_tap tap, struct sonde_interface *interface,
                         struct sonde_error *error) {
  struct ifreq request = {0};
  memset(interface, 0, sizeof *interface);
  if (!name || !*name || strlen(name) >= sizeof interface->name)
    return refuse(name ? name : "", ENODEV, error);
  int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0)
    return sonde_fail_system(error, "socket");
  memcpy(interface->name, name, strlen(name) + 1);
  memcpy(request.ifr_name, interface->name, sizeof request.ifr_name);
  int failed = ioctl(fd, SIOCGIFINDEX, &request) ? errno : 0;
  interface->index = request.ifr_ifindex;
  failed = failed ? failed : ioctl(fd, SIOCGIFHWADDR, &request) ? errno : 0;
  interface->hardware = request.ifr_hwaddr.sa_family;
  failed = failed ? failed : ioctl(fd, SIOCGIFFLAGS, &request) ? errno : 0;
  interface->flags = request.ifr_flags;
  close(fd);
  if (failed)
    return refuse(name, failed, error);
  interface->loopback = interface->hardware == ARPHRD_LOOPBACK;
  int linktype = tap == SONDE_TAP_NONE ? 0 : hardware_linktype(interface->hardware, tap);
  interface->linktype = (uint16_t)linktype;
  return linktype >= 0 ? 0
                       : sonde_fail(error, SONDE_INTERFACE_INVALID, 0,
                                    "%s: this backend cannot read hardware type %d (net/if_arp.h)",
                                    name, interface->hardware);
}

int sonde_interface_promiscuous(const struct sonde_interface *interface,
                                struct sonde_error *error) {
  struct packet_mreq membership = {.mr_ifindex = interface->index, .mr_type = PACKET_MR_PROMISC};
  int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0); /* protocol 0: receives nothing */
  if (fd < 0 && errno == EPERM)
    return sonde_fail(error, SONDE_PERMISSION, errno, "promiscuous mode needs CAP_NET_RAW");
  if (fd >= 0 &&
      setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &membership, sizeof membership) == 0) {
    return fd;
  }
  int status = sonde_fail(error, SONDE_SYSTEM, errno, "promiscuous mode: %s", strerror(errno));
  if (fd >= 0)
    close(fd);
  return status;
}
