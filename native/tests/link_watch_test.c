/* link_watch_test.c - the rtnetlink watcher with real interfaces in a separate network. */
#include <poll.h>

#include "check.h"
#include "host/link_watch.h"
#include "live.h"

/* Returns the changes as letters: D down, U up, X deleted, R returned, N renamed. Waits for
 * `expected` changes, because the kernel takes time over a carrier, and a moment longer for
 * unexpected ones. */
static const char *changes(struct sonde_link_watch *link, size_t expected,
                           struct sonde_link_change *last) {
  static char letters[64];
  static const char by_kind[] = "?DUXRN";
  struct sonde_error error = {0};
  struct pollfd readable = {.fd = sonde_link_watch_fd(link), .events = POLLIN};
  size_t count = 0;
  int status;
  do {
    while ((status = sonde_link_watch_read(link, last, &error)) == 1 && count < sizeof letters - 1)
      letters[count++] = by_kind[last->kind];
    CHECK_EQ(status, 0);
  } while (poll(&readable, 1, count < expected ? 3000 : 200) > 0);
  letters[count] = 0;
  return letters;
}

static void expect(struct sonde_link_watch *link, const char *expected, const char *after) {
  struct sonde_link_change last = {0};
  const char *seen = changes(link, strlen(expected), &last);
  CHECK(strcmp(seen, expected) == 0);
  if (strcmp(seen, expected) != 0)
    fprintf(stderr, "after %s: changes %s, expected %s\n", after, seen, expected);
  if (strchr(expected, 'R'))
    CHECK_EQ(last.ifindex, if_nametoindex("v0"));
}

static void step(struct sonde_link_watch *link, const char *command, const char *expected) {
  live_run("%s", command);
  expect(link, expected, command);
}

static void check_changes(struct sonde_link_watch *link) {
  CHECK_EQ(sonde_link_watch_is_up(link), 1);
  step(link, "true", "");
  step(link, "ip link set v0 mtu 1400", "");
  step(link, "ip link set v0 down", "D");
  CHECK_EQ(sonde_link_watch_is_up(link), 0);
  step(link, "ip link set v0 up", "U");
  step(link, "ip link set v1 down", "D"); /* the carrier is lost */
  step(link, "ip link set v1 up", "U");
  step(link, "ip link add other type veth peer name other1 && ip link del other", "");
  step(link, "ip link set v0 down && ip link set v0 name w0 && ip link set w0 up", "DNU");
  step(link, "ip link set w0 down && ip link set w0 name v0 && ip link set v0 up", "DNU");
  step(link, "ip link del v0", "DX");
  CHECK_EQ(sonde_link_watch_is_up(link), 0);
  step(link, "ip link add v0 type veth peer name v1", "RD");
  step(link, "ip link set v1 up && ip link set v0 up", "U");
  /* deleted and returned before the next read; another interface takes the name */
  step(link,
       "ip link del v0 && ip link add x0 type veth peer name v1 && ip link set v1 up && "
       "ip link set x0 name v0",
       "DXRD");
  step(link, "ip link set v0 up", "U");
}

/* When a port leaves a bridge, the bridge sends "deleted". The port still exists. */
static void check_bridge(struct sonde_link_watch *link) {
  if (system("ip link add br0 type bridge 2>/dev/null")) {
    fprintf(stderr, "link_watch_test: this kernel has no bridges\n");
    return;
  }
  step(link, "ip link set v0 master br0", "");
  step(link, "ip link set v0 nomaster", "");
  live_run("ip link del br0");
}

/* Unread messages are lost. The state is correct again afterwards. */
static void check_overrun(struct sonde_link_watch *link) {
  static const char flood[] = "for i in $(seq 60); do echo link set v0 mtu $((1300 + i)); done | "
                              "ip -batch - ";
  int small = 1;
  live_need(setsockopt(sonde_link_watch_fd(link), SOL_SOCKET, SO_RCVBUF, &small, sizeof small) == 0,
            "SO_RCVBUF");
  live_run("%s && ip link set v0 down", flood);
  expect(link, "D", "an overrun and a link down");
  live_run("%s && ip link del v0", flood);
  expect(link, "X", "an overrun and a deletion");
  live_run("ip link add v0 type veth peer name v1 && %s && ip link del v0 && "
           "ip link add v0 type veth peer name v1 && ip link set v1 up && ip link set v0 up && %s",
           flood, flood);
  struct sonde_link_change last = {0};
  changes(link, 3, &last); /* the number received is random, the last one is not */
  CHECK_EQ(last.kind, SONDE_LINK_CHANGE_UP);
  CHECK_EQ(last.ifindex, if_nametoindex("v0"));
  CHECK_EQ(sonde_link_watch_is_up(link), 1);
}

int main(void) {
  struct sonde_link_watch *link = NULL;
  struct sonde_error error = {0};
  live_begin();
  live_pair();
  CHECK_EQ(sonde_link_watch_open("", &link, &error), SONDE_INTERFACE_INVALID);
  CHECK_EQ(sonde_link_watch_open("a-name-too-long-for-linux", &link, &error),
           SONDE_INTERFACE_INVALID);
  CHECK_EQ(sonde_link_watch_open("v0", &link, &error), 0);
  if (!link)
    return check_report();
  check_changes(link);
  check_bridge(link);
  check_overrun(link);
  sonde_link_watch_close(link);

  CHECK_EQ(sonde_link_watch_open("late0", &link, &error), 0); /* absent: reported when it appears */
  struct sonde_link_change change;
  CHECK_EQ(sonde_link_watch_read(link, &change, &error), 0);
  live_run("ip tuntap add dev late0 mode tap");
  CHECK_EQ(sonde_link_watch_read(link, &change, &error), 1);
  CHECK_EQ(change.kind, SONDE_LINK_CHANGE_RETURNED);
  CHECK_EQ(change.ifindex, if_nametoindex("late0"));
  sonde_link_watch_close(link);
  sonde_link_watch_close(NULL);
  return check_report();
}
