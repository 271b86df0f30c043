/* socket_list.c - requests to NETLINK_SOCK_DIAG; see socket_list.h. */
#include "owner/socket_list.h"

#include <arpa/inet.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "ip_protocol.h"

enum {
  REPLY_BYTES = 65536,
  LISTENING = 10, /* TCP_LISTEN */
  CGROUP_ID = 21, /* INET_DIAG_CGROUP_ID, of Linux 5.9 */
  CLOSED_RECEIVE_BYTES = 4 << 20,
};

static void read_attributes(const struct nlmsghdr *header, struct sonde_listed_socket *socket) {
  const struct inet_diag_msg *message = NLMSG_DATA(header);
  int left = (int)(header->nlmsg_len - NLMSG_LENGTH(sizeof *message));
  const struct rtattr *attribute = (const struct rtattr *)(message + 1);
  for (; RTA_OK(attribute, left); attribute = RTA_NEXT(attribute, left))
    if (attribute->rta_type == CGROUP_ID && RTA_PAYLOAD(attribute) >= sizeof socket->cgroup)
      memcpy(&socket->cgroup, RTA_DATA(attribute), sizeof socket->cgroup);
}

static void take_message(const struct nlmsghdr *header, uint8_t protocol, sonde_take_socket *take,
                         void *context) {
  const struct inet_diag_msg *message = NLMSG_DATA(header);
  if (header->nlmsg_len < NLMSG_LENGTH(sizeof *message))
    return;
  bool is_4 = message->idiag_family == AF_INET;
  struct sonde_listed_socket socket = {
      .key = {.ip_version = is_4 ? 4 : 6,
              .protocol = protocol,
              .local_port = ntohs(message->id.idiag_sport),
              .remote_port = ntohs(message->id.idiag_dport)},
      .cookie = (uint64_t)message->id.idiag_cookie[1] << 32 | message->id.idiag_cookie[0],
      .inode = message->idiag_inode,
      .uid = message->idiag_uid,
      .listens = protocol == SONDE_IP_TCP && message->idiag_state == LISTENING,
  };
  memcpy(socket.key.local, message->id.idiag_src, is_4 ? 4 : 16);
  memcpy(socket.key.remote, message->id.idiag_dst, is_4 ? 4 : 16);
  read_attributes(header, &socket);
  take(context, &socket);
}

/* Returns false at the end of a list. */
static bool take_messages(const uint8_t *reply, ssize_t length, uint8_t protocol,
                          sonde_take_socket *take, void *context) {
  unsigned left = (unsigned)length;
  const struct nlmsghdr *header = (const struct nlmsghdr *)(const void *)reply;
  for (; NLMSG_OK(header, left); header = NLMSG_NEXT(header, left)) {
    if (header->nlmsg_type == NLMSG_DONE || header->nlmsg_type == NLMSG_ERROR)
      return false;
    take_message(header, protocol, take, context);
  }
  return true;
}

static bool list_family(int fd, uint8_t family, uint8_t protocol, sonde_take_socket *take,
                        void *context) {
  struct {
    struct nlmsghdr header;
    struct inet_diag_req_v2 request;
  } ask = {
      .header = {.nlmsg_len = sizeof ask,
                 .nlmsg_type = SOCK_DIAG_BY_FAMILY,
                 .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
      .request = {.sdiag_family = family, .sdiag_protocol = protocol, .idiag_states = UINT32_MAX},
  };
  uint64_t reply[REPLY_BYTES / sizeof(uint64_t)];
  if (send(fd, &ask, sizeof ask, 0) < 0)
    return false;
  for (;;) {
    ssize_t length = recv(fd, reply, sizeof reply, 0);
    if (length <= 0)
      return false;
    const struct nlmsghdr *header = (const struct nlmsghdr *)(const void *)reply;
    if (header->nlmsg_type == NLMSG_ERROR)
      return false;
    if (!take_messages((const uint8_t *)reply, length, protocol, take, context))
      return true;
  }
}

bool sonde_sockets_list(uint8_t protocol, sonde_take_socket *take, void *context) {
  int fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
  struct timeval limit = {.tv_sec = 2};
  if (fd < 0)
    return false;
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  bool listed = list_family(fd, AF_INET, protocol, take, context);
  listed &= list_family(fd, AF_INET6, protocol, take, context);
  close(fd);
  return listed;
}

int sonde_sockets_closed_open(void) {
  int fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_SOCK_DIAG);
  int bytes = CLOSED_RECEIVE_BYTES;
  struct sockaddr_nl address = {
      .nl_family = AF_NETLINK,
      .nl_groups = 1u << (SKNLGRP_INET_UDP_DESTROY - 1) | 1u << (SKNLGRP_INET6_UDP_DESTROY - 1),
  };
  if (fd < 0)
    return -1;
  setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes);
  if (bind(fd, (struct sockaddr *)&address, sizeof address) == 0)
    return fd;
  close(fd);
  return -1;
}

void sonde_sockets_closed_read(int fd, sonde_take_socket *take, void *context) {
  uint64_t reply[8192 / sizeof(uint64_t)];
  ssize_t length;
  while ((length = recv(fd, reply, sizeof reply, MSG_DONTWAIT)) > 0)
    take_messages((const uint8_t *)reply, length, SONDE_IP_UDP, take, context);
}
