/* owner_sockets.h - a tracker that gets its events from the test double, and the owners of flows.
 */
#ifndef SONDE_TESTS_OWNER_SOCKETS_H
#define SONDE_TESTS_OWNER_SOCKETS_H

#include <dlfcn.h>
#include <string.h>
#include <time.h>

#include "check.h"
#include "host/clock.h"
#include "ip_protocol.h"
#include "owner/state.h"
#include "owner/tracker.h"
#include "owner_double.h"

enum {
  OTHER = 4711 /* cookie of another network namespace */,
  WAIT_MS = 20000,
  SECOND_NS = 1000000000
};
enum { CLIENT = 40000, SERVER = 443 };

static struct sonde_owner_tracker *tracker;
static void *plugin;
static sonde_owner_put *put;
static sonde_owner_lose *lose;
static uint64_t last_cookie;

static inline void open_tracker(void) {
  struct sonde_owner_config config = {.plugin_dir = SONDE_DOUBLE_DIR, .sockets = 1024};
  struct sonde_error error = {0};
  CHECK_EQ(sonde_owner_tracker_create(&config, &tracker, &error), SONDE_OK);
  plugin = dlopen(SONDE_DOUBLE_DIR "/owner.so", RTLD_NOW | RTLD_NOLOAD);
  CHECK(plugin);
  *(void **)&put = dlsym(plugin, "sonde_owner_double_put");
  *(void **)&lose = dlsym(plugin, "sonde_owner_double_lose");
}

static inline void close_tracker(void) {
  sonde_owner_tracker_destroy(tracker);
  dlclose(plugin);
}

/* A socket of 10.9.0.LOCAL that belongs to a process which does not exist. */
static inline struct sonde_owner_event event_of(uint8_t kind, uint8_t protocol, uint8_t local,
                                                uint16_t local_port, uint32_t pid) {
  struct sonde_owner_event event = {
      .cookie = ++last_cookie,
      .netns = OTHER,
      .time_ns = sonde_clock_ns(CLOCK_MONOTONIC),
      .pid = pid,
      .name = "test",
      .local = {10, 9, 0, local},
      .remote = {10, 9, 0, 99},
      .local_port = local_port,
      .remote_port = SERVER,
      .ip_version = 4,
      .protocol = protocol,
      .how = SONDE_OWNER_CONNECT,
      .kind = kind,
      .told = 1,
  };
  return event;
}

static inline struct sonde_record record_of(const struct sonde_owner_event *event,
                                            int64_t after_ns) {
  struct sonde_record record = {
      .flow_start_ns = sonde_clock_ns(CLOCK_REALTIME) + (uint64_t)after_ns,
      .source_port = event->local_port,
      .dest_port = SERVER,
      .ip_version = 4,
      .protocol = event->protocol,
      .tcp_flags = {2, 2},
      .dest_ip = {10, 9, 0, 99},
      .total_packets = {1, 1},
  };
  memcpy(record.source_ip, event->local, 4);
  record.first_ns = record.last_ns = record.flow_start_ns;
  return record;
}

static inline struct sonde_owner owner_of_record(struct sonde_record *record) {
  struct sonde_owner_hook hook = sonde_owner_tracker_hook(tracker);
  struct sonde_owner_source source = sonde_owner_tracker_source(tracker);
  uint32_t owners[2] = {0};
  struct sonde_owner owner;
  hook.record(hook.context, owners, record);
  source.read(source.context, record->process, &owner);
  return owner;
}

/* The owner of the flow of an event's socket. */
static inline struct sonde_owner owner_of(const struct sonde_owner_event *event, int64_t after_ns) {
  struct sonde_record record = record_of(event, after_ns);
  return owner_of_record(&record);
}

static inline void nap(void) {
  nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

/* Waits until the flow has this process; UINT32_MAX: none. Returns the owner. */
static inline struct sonde_owner await_owner(const struct sonde_owner_event *event, uint32_t pid,
                                             int64_t after_ns) {
  struct sonde_owner owner;
  for (int i = 0; i < WAIT_MS; i++) {
    owner = owner_of(event, after_ns);
    if (owner.pid == pid)
      break;
    nap();
  }
  CHECK_EQ(owner.pid, pid);
  return owner;
}

#endif
