/* rtnetlink.h - opens rtnetlink sockets and finds attributes in messages.
 *
 * Lengths are checked, although the messages come from the kernel.
 */
#ifndef SONDE_HOST_RTNETLINK_H
#define SONDE_HOST_RTNETLINK_H

#include <linux/rtnetlink.h>
#include <stddef.h>
#include <sys/socket.h>

static inline int sonde_rtnetlink_socket(void) {
  return socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
}

/* Returns the attribute of a type among those in `bytes`, or NULL. */
static inline const struct rtattr *sonde_rtnetlink_find(const void *first, int bytes, int type) {
  const struct rtattr *one = first;
  for (; RTA_OK(one, bytes); one = RTA_NEXT(one, bytes))
    if (one->rta_type == type)
      return one;
  return NULL;
}

/* The same in a message with a fixed part of fixed_bytes. */
static inline const struct rtattr *sonde_rtnetlink_attribute(const struct nlmsghdr *head,
                                                             size_t fixed_bytes, int type) {
  size_t skipped = NLMSG_ALIGN(fixed_bytes);
  return sonde_rtnetlink_find((const char *)NLMSG_DATA(head) + skipped,
                              (int)head->nlmsg_len - (int)NLMSG_LENGTH(skipped), type);
}

#endif
