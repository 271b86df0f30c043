/* owner_double.c - a test double of the plug-in owner/feed/; see owner_double.h. */
#include "owner_double.h"

#include <pthread.h>
#include <stddef.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { EVENTS_MAX = 4096 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards the events */
static struct sonde_owner_event events[EVENTS_MAX];
static uint32_t event_count;
static uint64_t written, taken; /* events */
static struct sonde_owner_control control;
static int event_fd;
static bool lacks_ports, lacks_uses;

static int open_feed(uint32_t ring_bytes, void **feed, struct sonde_error *error) {
  (void)ring_bytes, (void)error;
  event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  event_count = 0;
  written = taken = 0;
  control = (struct sonde_owner_control){0};
  *feed = events;
  return SONDE_OK;
}

static int feed_fd(void *feed) {
  (void)feed;
  return event_fd;
}

static void arm(void *feed) {
  (void)feed;
}

static uint32_t read_events(void *feed, uint32_t max,
                            void (*take)(void *context, const struct sonde_owner_event *event),
                            void *context) {
  (void)feed;
  uint64_t signals;
  uint32_t count = 0;
  pthread_mutex_lock(&lock);
  if (read(event_fd, &signals, sizeof signals) < 0)
    signals = 0;
  for (; count < event_count && count < max; count++)
    take(context, &events[count]);
  event_count = 0;
  __atomic_store_n(&taken, written, __ATOMIC_RELEASE);
  pthread_mutex_unlock(&lock);
  return count;
}

static uint64_t written_of(void *feed) {
  (void)feed;
  return __atomic_load_n(&written, __ATOMIC_ACQUIRE);
}

static uint64_t taken_of(void *feed) {
  (void)feed;
  return __atomic_load_n(&taken, __ATOMIC_ACQUIRE);
}

static bool has_ports(void *feed) {
  (void)feed;
  return !lacks_ports;
}

static bool sees_uses(void *feed) {
  (void)feed;
  return !lacks_uses;
}

static int list_none(void *feed, bool all,
                     void (*take)(void *context, const struct sonde_owner_event *event),
                     void *context) {
  (void)feed, (void)all, (void)take, (void)context;
  return SONDE_OK;
}

static int follow(void *feed, bool follows, struct sonde_error *error) {
  (void)feed, (void)follows, (void)error;
  return SONDE_OK;
}

static const volatile struct sonde_owner_control *control_of(void *feed) {
  (void)feed;
  return &control;
}

static void close_feed(void *feed) {
  (void)feed;
  close(event_fd);
}

__attribute__((visibility("default"))) sonde_owner_put sonde_owner_double_put;
__attribute__((visibility("default"))) sonde_owner_lose sonde_owner_double_lose;
__attribute__((visibility("default"))) sonde_owner_lack sonde_owner_double_lack;
__attribute__((visibility("default"))) const struct sonde_owner_feed_ops *sonde_owner_feed(void);

void sonde_owner_double_put(const struct sonde_owner_event *event) {
  pthread_mutex_lock(&lock);
  if (event_count < EVENTS_MAX)
    events[event_count++] = *event;
  __atomic_store_n(&written, written + 1, __ATOMIC_RELEASE);
  pthread_mutex_unlock(&lock);
  eventfd_write(event_fd, 1);
}

void sonde_owner_double_lose(uint64_t lost, uint64_t time_ns) {
  __atomic_store_n(&control.lost_ns, time_ns, __ATOMIC_SEQ_CST);
  __atomic_store_n(&control.lost, lost, __ATOMIC_SEQ_CST);
}

void sonde_owner_double_lack(bool ports, bool uses) {
  lacks_ports = ports;
  lacks_uses = uses;
}

const struct sonde_owner_feed_ops *sonde_owner_feed(void) {
  static const struct sonde_owner_feed_ops ops = {
      .abi = SONDE_OWNER_FEED_ABI,
      .open = open_feed,
      .fd = feed_fd,
      .arm = arm,
      .read = read_events,
      .written = written_of,
      .taken = taken_of,
      .has_ports = has_ports,
      .sees_uses = sees_uses,
      .follow = follow,
      .list = list_none,
      .control = control_of,
      .close = close_feed,
  };
  return &ops;
}
