/* link_watch.c - see link_watch.h.
 *
 * A message holds the current state. It is compared with the last reported state, and the
 * differences are queued as changes. So repeated or stale messages do no harm. If the kernel
 * dropped messages (ENOBUFS), the queued ones are discarded and the state is queried again.
 */
#include "host/link_watch.h"

#include <assert.h>
#include <linux/if_link.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "failure.h"
#include "host/rtnetlink.h"

enum {
  CHANGES_MAX = 8,           /* one message makes at most RENAMED, DOWN or RETURNED, UP */
  MESSAGE_BYTES_MAX = 65536, /* several messages; the kernel splits at a page or 32 KiB */
  ANSWER_TIMEOUT_MS = 1000,
};

struct sonde_link_watch {
  char wanted[IF_NAMESIZE]; /* the name that a new interface must have */
  char name[IF_NAMESIZE];   /* its current name */
  int fd;
  int ifindex; /* 0: it does not exist */
  bool up;
  bool overrun;  /* messages were lost */
  uint32_t port; /* netlink address of this socket: only answers carry it */
  uint32_t sequence;
  size_t pending; /* unread bytes of `buffer`, at `at` */
  size_t at;
  uint32_t change_first;
  uint32_t change_count;
  struct sonde_link_change changes[CHANGES_MAX];
  _Alignas(struct nlmsghdr) uint8_t buffer[MESSAGE_BYTES_MAX];
};

static void queue_change(struct sonde_link_watch *link, int kind) {
  assert(link->change_count < CHANGES_MAX);
  uint32_t slot = (link->change_first + link->change_count++) % CHANGES_MAX;
  struct sonde_link_change *change = &link->changes[slot];
  *change = (struct sonde_link_change){.kind = kind, .ifindex = link->ifindex};
  memcpy(change->name, link->name, sizeof change->name);
}

static void set_deleted(struct sonde_link_watch *link) {
  queue_change(link, SONDE_LINK_CHANGE_DELETED);
  link->ifindex = 0;
  link->up = false;
}

static void set_present(struct sonde_link_watch *link, int ifindex, const char *name,
                        unsigned flags) {
  bool up = (flags & IFF_UP) && (flags & IFF_RUNNING);
  bool is_new = link->ifindex == 0;
  bool renamed = strncmp(link->name, name, sizeof link->name - 1) != 0;
  link->ifindex = ifindex;
  snprintf(link->name, sizeof link->name, "%s", name);
  if (is_new)
    queue_change(link, SONDE_LINK_CHANGE_RETURNED);
  else if (renamed)
    queue_change(link, SONDE_LINK_CHANGE_RENAMED);
  if (is_new || up != link->up) {
    link->up = up;
    queue_change(link, up ? SONDE_LINK_CHANGE_UP : SONDE_LINK_CHANGE_DOWN);
  }
}

/* The interface's name, or NULL. */
static const char *message_name(const struct nlmsghdr *message) {
  const struct rtattr *name =
      sonde_rtnetlink_attribute(message, sizeof(struct ifinfomsg), IFLA_IFNAME);
  return name && memchr(RTA_DATA(name), 0, RTA_PAYLOAD(name)) ? RTA_DATA(name) : NULL;
}

static void apply(struct sonde_link_watch *link, const struct nlmsghdr *message) {
  if (message->nlmsg_len < NLMSG_LENGTH(sizeof(struct ifinfomsg)))
    return;
  const struct ifinfomsg *info = NLMSG_DATA(message);
  const char *name = message_name(message);
  if (info->ifi_family != AF_UNSPEC)
    return; /* about a bridge port: "deleted" means "left the bridge" */
  if (message->nlmsg_type == RTM_DELLINK && info->ifi_index == link->ifindex && link->ifindex) {
    set_deleted(link);
  } else if (message->nlmsg_type == RTM_NEWLINK && name &&
             (link->ifindex ? info->ifi_index == link->ifindex : strcmp(name, link->wanted) == 0)) {
    set_present(link, info->ifi_index, name, info->ifi_flags);
  }
}

/* 1: read bytes into the buffer, 0: nothing queued, -1: errno */
static int fetch(struct sonde_link_watch *link) {
  struct sockaddr_nl from = {0};
  struct iovec part = {link->buffer, sizeof link->buffer};
  struct msghdr head = {
      .msg_name = &from, .msg_namelen = sizeof from, .msg_iov = &part, .msg_iovlen = 1};
  ssize_t length;
  do {
    length = recvmsg(link->fd, &head, MSG_DONTWAIT);
  } while (length < 0 && errno == EINTR);
  if (length < 0)
    return errno == EAGAIN ? 0 : -1;
  link->at = 0;
  link->pending = from.nl_pid == 0 && !(head.msg_flags & MSG_TRUNC) ? (size_t)length : 0;
  link->overrun |= (head.msg_flags & MSG_TRUNC) != 0;
  return 1;
}

static const struct nlmsghdr *next_message(struct sonde_link_watch *link) {
  const struct nlmsghdr *message = (const void *)(link->buffer + link->at);
  if (!NLMSG_OK(message, link->pending)) {
    link->pending = 0;
    return NULL;
  }
  size_t length = NLMSG_ALIGN(message->nlmsg_len);
  length = length > link->pending ? link->pending : length;
  link->at += length;
  link->pending -= length;
  return message;
}

/* Queries the interface by index if known, else by name. First discards queued messages: they
 * are older than the answer and may fill the socket's buffer. */
static int ask(struct sonde_link_watch *link) {
  int fetched;
  while ((fetched = fetch(link)) != 0)
    if (fetched < 0 && errno != ENOBUFS)
      return -1;
  link->pending = 0;
  struct {
    struct nlmsghdr head;
    struct ifinfomsg info;
    struct rtattr attribute;
    char name[IF_NAMESIZE];
  } request = {
      .head = {.nlmsg_len = sizeof request,
               .nlmsg_type = RTM_GETLINK,
               .nlmsg_flags = NLM_F_REQUEST,
               .nlmsg_seq = ++link->sequence},
      .info = {.ifi_index = link->ifindex},
      .attribute = {.rta_len = RTA_LENGTH(IF_NAMESIZE), .rta_type = IFLA_IFNAME},
  };
  if (link->ifindex)
    request.head.nlmsg_len = NLMSG_LENGTH(sizeof request.info);
  memcpy(request.name, link->wanted, sizeof request.name);
  return send(link->fd, &request, request.head.nlmsg_len, 0) < 0 ? -1 : 0;
}

/* Reads up to the answer to the last query and applies only that. Messages before it are older;
 * those after it stay queued. Returns 1, 0 if the interface does not exist, -1 with errno. */
static int await_answer(struct sonde_link_watch *link) {
  struct pollfd readable = {.fd = link->fd, .events = POLLIN};
  for (;;) {
    const struct nlmsghdr *message;
    while ((message = next_message(link))) {
      if (message->nlmsg_seq != link->sequence || message->nlmsg_pid != link->port)
        continue;
      if (message->nlmsg_type == NLMSG_ERROR) {
        const struct nlmsgerr *answer = NLMSG_DATA(message);
        errno = -answer->error;
        return errno == ENODEV ? 0 : -1;
      }
      apply(link, message);
      return 1;
    }
    int fetched = fetch(link);
    if (fetched < 0 && (errno != ENOBUFS || ask(link)))
      return -1; /* with ENOBUFS the answer may be lost */
    if (fetched == 0 && poll(&readable, 1, ANSWER_TIMEOUT_MS) == 0) {
      errno = ETIMEDOUT;
      return -1;
    }
  }
}

/* Queries the state again: the known interface, then one with the wanted name. */
static int resync(struct sonde_link_watch *link) {
  link->overrun = true;
  int found = 0;
  if (link->ifindex) {
    found = ask(link) ? -1 : await_answer(link);
    if (found == 0)
      set_deleted(link);
  }
  if (found == 0)
    found = ask(link) ? -1 : await_answer(link);
  link->overrun = found < 0;
  return found < 0 ? -1 : 0;
}

int sonde_link_watch_open(const char *interface, struct sonde_link_watch **out,
                          struct sonde_error *error) {
  struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_groups = RTMGRP_LINK};
  if (!interface || !*interface || strlen(interface) >= IF_NAMESIZE)
    return sonde_fail_interface(error, interface, ENODEV);
  struct sonde_link_watch *link = calloc(1, sizeof *link);
  if (!link)
    return sonde_fail_memory(error);
  snprintf(link->wanted, sizeof link->wanted, "%s", interface);
  link->fd = sonde_rtnetlink_socket();
  /* Subscribe before the query, so that no change is missed. */
  socklen_t length = sizeof address;
  if (link->fd < 0 || bind(link->fd, (const struct sockaddr *)&address, sizeof address) ||
      getsockname(link->fd, (struct sockaddr *)&address, &length) ||
      (link->port = address.nl_pid, resync(link))) {
    int status = sonde_fail(error, SONDE_SYSTEM, errno, "rtnetlink: %s", strerror(errno));
    sonde_link_watch_close(link);
    return status;
  }
  link->change_count = 0;
  *out = link;
  return 0;
}

int sonde_link_watch_fd(const struct sonde_link_watch *link) {
  return link->fd;
}

int sonde_link_watch_is_up(const struct sonde_link_watch *link) {
  return link->up;
}

int sonde_link_watch_read(struct sonde_link_watch *link, struct sonde_link_change *change,
                          struct sonde_error *error) {
  while (link->change_count == 0) {
    const struct nlmsghdr *message = next_message(link);
    if (message) {
      apply(link, message);
      continue;
    }
    int fetched = link->overrun ? -1 : fetch(link);
    if (fetched == 0)
      return 0;
    bool lost = link->overrun || (fetched < 0 && errno == ENOBUFS);
    if (fetched < 0 && (!lost || resync(link)))
      return sonde_fail(error, SONDE_SYSTEM, errno, "rtnetlink: %s", strerror(errno));
  }
  *change = link->changes[link->change_first];
  link->change_first = (link->change_first + 1) % CHANGES_MAX;
  link->change_count--;
  return 1;
}

void sonde_link_watch_close(struct sonde_link_watch *link) {
  if (link) {
    if (link->fd >= 0)
      close(link->fd);
    free(link);
  }
}
