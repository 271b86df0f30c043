/* dedicated_check.c - see dedicated_check.h. Queries rtnetlink, which answers for the
 * caller's network namespace; /sys shows the one in which it was mounted.
 */
#include "host/dedicated_check.h"

#include <linux/if_link.h>
#include <net/if.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "failure.h"
#include "host/rtnetlink.h"

enum { ANSWER_BYTES_MAX = 65536, ANSWER_SEC_MAX = 2 };

struct verdict {
  unsigned index;     /* the interface being checked */
  const char *reason; /* why the host needs it; NULL: no reason found */
};

static unsigned number(const struct rtattr *one) {
  unsigned value = 0;
  if (one && RTA_PAYLOAD(one) >= sizeof value)
    memcpy(&value, RTA_DATA(one), sizeof value);
  return value;
}

/* The two ends of a veth name each other as their link, but neither is on top of the other. */
static bool is_veth(const struct nlmsghdr *head) {
  const struct rtattr *info =
      sonde_rtnetlink_attribute(head, sizeof(struct ifinfomsg), IFLA_LINKINFO);
  const struct rtattr *kind =
      info ? sonde_rtnetlink_find(RTA_DATA(info), (int)RTA_PAYLOAD(info), IFLA_INFO_KIND) : NULL;
  return kind && RTA_PAYLOAD(kind) >= 4 && memcmp(RTA_DATA(kind), "veth", 4) == 0;
}

/* An attached program receives the packets or decides about them. */
static bool has_xdp(const struct nlmsghdr *head) {
  const struct rtattr *xdp = sonde_rtnetlink_attribute(head, sizeof(struct ifinfomsg), IFLA_XDP);
  const struct rtattr *how =
      xdp ? sonde_rtnetlink_find(RTA_DATA(xdp), (int)RTA_PAYLOAD(xdp), IFLA_XDP_ATTACHED) : NULL;
  return how && RTA_PAYLOAD(how) >= 1 && *(const uint8_t *)RTA_DATA(how) != XDP_ATTACHED_NONE;
}

static void judge_link(const struct nlmsghdr *head, struct verdict *verdict) {
  const struct ifinfomsg *link = NLMSG_DATA(head);
  bool itself = (unsigned)link->ifi_index == verdict->index;
  if (itself && (link->ifi_flags & IFF_LOOPBACK)) {
    verdict->reason = "it is the loopback interface";
  } else if (itself && number(sonde_rtnetlink_attribute(head, sizeof *link, IFLA_MASTER))) {
    verdict->reason = "it belongs to a bridge, bond or other master";
  } else if (itself && has_xdp(head)) {
    verdict->reason = "another XDP program is attached to it";
  } else if (!itself &&
             number(sonde_rtnetlink_attribute(head, sizeof *link, IFLA_LINK)) == verdict->index &&
             !sonde_rtnetlink_attribute(head, sizeof *link, IFLA_LINK_NETNSID) && !is_veth(head)) {
    verdict->reason = "another interface (a VLAN, macvlan or the like) uses it";
  }
}

static void judge_address(const struct nlmsghdr *head, struct verdict *verdict) {
  const struct ifaddrmsg *address = NLMSG_DATA(head);
  if (address->ifa_index == verdict->index && address->ifa_scope != RT_SCOPE_LINK)
    verdict->reason = "it has an IP address";
}

/* Returns whether one of a multipath route's next hops uses the interface. */
static bool is_hop(const struct rtattr *several, unsigned index) {
  const struct rtnexthop *hop = several ? RTA_DATA(several) : NULL;
  int bytes = several ? (int)RTA_PAYLOAD(several) : 0;
  for (; bytes >= (int)sizeof *hop && RTNH_OK(hop, bytes);
       bytes -= RTNH_ALIGN(hop->rtnh_len), hop = RTNH_NEXT(hop)) {
    if ((unsigned)hop->rtnh_ifindex == index)
      return true;
  }
  return false;
}

static void judge_route(const struct nlmsghdr *head, struct verdict *verdict) {
  const struct rtmsg *route = NLMSG_DATA(head);
  if (route->rtm_dst_len == 0 && route->rtm_type == RTN_UNICAST &&
      (number(sonde_rtnetlink_attribute(head, sizeof *route, RTA_OIF)) == verdict->index ||
       is_hop(sonde_rtnetlink_attribute(head, sizeof *route, RTA_MULTIPATH), verdict->index))) {
    verdict->reason = "a default route uses it";
  }
}

static const struct question {
  uint16_t request;
  uint16_t answer;
  void (*judge)(const struct nlmsghdr *head, struct verdict *verdict);
} questions[] = {
    {RTM_GETLINK, RTM_NEWLINK, judge_link},
    {RTM_GETADDR, RTM_NEWADDR, judge_address},
    {RTM_GETROUTE, RTM_NEWROUTE, judge_route},
};

/* Reads one dump to its end. Returns 0 or -1 with errno. */
static int ask(int fd, const struct question *question, struct verdict *verdict) {
  struct {
    struct nlmsghdr head;
    struct ifinfomsg body; /* all zero, at least as long as the other two requests' bodies */
  } request = {.head = {.nlmsg_len = sizeof request,
                        .nlmsg_type = question->request,
                        .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP}};
  _Alignas(struct nlmsghdr) char answer[ANSWER_BYTES_MAX];
  if (send(fd, &request, sizeof request, 0) < 0)
    return -1;
  for (;;) {
    ssize_t got = recv(fd, answer, sizeof answer, 0);
    if (got <= 0)
      return -1;
    unsigned left = (unsigned)got;
    for (struct nlmsghdr *head = (void *)answer; NLMSG_OK(head, left);
         head = NLMSG_NEXT(head, left)) {
      if (head->nlmsg_type == NLMSG_DONE)
        return 0;
      if (head->nlmsg_type == NLMSG_ERROR) {
        errno = -((struct nlmsgerr *)NLMSG_DATA(head))->error;
        return -1;
      }
      if (head->nlmsg_type == question->answer && !verdict->reason)
        question->judge(head, verdict);
    }
  }
}

int sonde_dedicated_check(const char *interface, int vouched, struct sonde_error *error) {
  struct verdict verdict = {.index = if_nametoindex(interface)};
  if (verdict.index == 0)
    return sonde_fail_interface(error, interface, ENODEV);
  if (!vouched) {
    return sonde_fail(error, SONDE_INTERFACE_SHARED, 0,
                      "%s: its packets would be taken from the host; say \"dedicated\": true if "
                      "the host does not need them",
                      interface);
  }
  int fd = sonde_rtnetlink_socket();
  struct timeval timeout = {.tv_sec = ANSWER_SEC_MAX};
  int failed = fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
  for (size_t i = 0; !failed && i < sizeof questions / sizeof questions[0]; i++)
    failed = ask(fd, &questions[i], &verdict);
  int status =
      failed ? sonde_fail(error, SONDE_SYSTEM, errno, "rtnetlink: %s", strerror(errno)) : 0;
  if (!failed && verdict.reason) {
    status = sonde_fail(error, SONDE_INTERFACE_SHARED, 0,
                        "%s: the host still needs this interface: %s", interface, verdict.reason);
  }
  if (fd >= 0)
    close(fd);
  return status;
}
