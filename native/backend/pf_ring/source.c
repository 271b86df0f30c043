/* source.c - see source.h.
 *
 * On failure pfring_open returns NULL, sets errno if a system call failed, and prints a line to
 * stderr if the kernel's ring has another layout. This file derives the cause.
 */
#include "source.h"

#include <net/if.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "failure.h"
#include "host/interface.h"
#include "module.h"

static const char UNBOUND[] = "none"; /* the library's name for a ring on no device */

/* Opens a ring. Returns NULL and the errno on failure, and then leaves nothing open. */
static struct pfring *ring_open(const struct library *library, const char *name, uint32_t caplen,
                                uint32_t flags, struct ring_sockets *sockets, int *cause) {
  static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
  static struct leftover before; /* under the lock */
  pthread_mutex_lock(&lock);
  leftover_note(&before);
  errno = 0;
  struct pfring *ring = library->open(name, caplen, flags);
  *cause = errno;
  if (ring)
    leftover_opened(&before, sockets);
  else
    leftover_release(&before);
  pthread_mutex_unlock(&lock);
  return ring;
}

/* Opens and closes a ring on no device: it fails if the library does not fit the module. */
static int try_unbound(const struct library *library, struct sonde_error *error) {
  struct ring_sockets sockets;
  int cause;
  struct pfring *ring = ring_open(library, UNBOUND, 64, 0, &sockets, &cause);
  if (ring) {
    library->close(ring);
    leftover_close(&sockets);
    return 0;
  }
  /* Releases 6 report ENODEV for every failure. */
  if (cause == 0 || cause == EINVAL || cause == ENODEV)
    return module_mismatch(library, cause, error);
  return sonde_fail(error, cause == ENOMEM ? SONDE_NO_MEMORY : SONDE_SYSTEM, cause,
                    "a ring on no device: %s", strerror(cause));
}

int source_probe(const struct library *library, struct sonde_error *error) {
  int status = module_check(error);
  if (!status && !module_matches(library))
    status = try_unbound(library, error);
  return status;
}

static int open_failure(const struct source *source, int cause, struct sonde_error *error) {
  if (source->kind == SOURCE_FILE)
    return sonde_fail(error, SONDE_FORMAT, cause, "%s: not a readable capture file", source->name);
  int status = module_check(error);
  if (!status && (cause == 0 || cause == EINVAL || cause == ENODEV))
    status = try_unbound(source->library, error);
  if (status)
    return status;
  switch (cause) {
  case EBUSY:
    return sonde_fail(error, SONDE_INTERFACE_INVALID, cause, "%s: %s", source->name,
                      strerror(cause));
  case ENETDOWN:
    return sonde_fail(error, SONDE_LINK_DOWN, cause, "%s: %s", source->name, strerror(cause));
  case ENOMEM:
    return sonde_fail(error, SONDE_NO_MEMORY, cause, "%s: %s", source->name, strerror(cause));
  default:
    break;
  }
  if (source->kind == SOURCE_ZERO_COPY) {
    return sonde_fail(
        error, SONDE_BACKEND_UNAVAILABLE, cause,
        "%s: %s. Likely causes: the interface has no zero-copy driver, PF_RING ZC has "
        "no licence for it, no huge pages are free, or CAP_NET_ADMIN is missing",
        source->name, cause ? strerror(cause) : "the library gives no reason");
  }
  return sonde_fail(
      error,
      cause == EINVAL || cause == ENODEV || cause == ENXIO ? SONDE_INTERFACE_INVALID : SONDE_SYSTEM,
      cause, "%s: %s", source->name, cause ? strerror(cause) : "the library gives no reason");
}

static int set_file(struct source *source, const char *path, struct sonde_error *error) {
  struct stat about;
  source->kind = SOURCE_FILE;
  /* Given a name that is not a file, the library would start a live capture. */
  if (stat(path, &about)) {
    return sonde_fail(error, SONDE_INTERFACE_INVALID, errno, "%s: %s", source->name,
                      strerror(errno));
  }
  if (!S_ISREG(about.st_mode))
    return sonde_fail(error, SONDE_INTERFACE_INVALID, 0, "%s: not a regular file", source->name);
  return 0;
}

/* Parses channels like 0-2,5 and returns the highest, or -1 if the text is malformed. */
static int highest_channel(const char *text) {
  long highest = -1;
  for (;; text++) {
    long first;
    long last;
    char *end;
    if (*text < '0' || *text > '9')
      return -1;
    first = last = strtol(text, &end, 10);
    if (*end == '-' && end[1] >= '0' && end[1] <= '9')
      last = strtol(end + 1, &end, 10);
    if (last < first || last >= PFRING_CHANNELS_MAX)
      return -1;
    highest = last > highest ? last : highest;
    text = end;
    if (*text != ',')
      return *text ? -1 : (int)highest;
  }
}

/* `device` is eth0 or eth0@channels. PF_RING reads a dot as the start of a VLAN filter, unless the
 * name is in parentheses. */
static int set_device(struct source *source, const char *device, struct sonde_error *error) {
  struct sonde_interface interface;
  size_t length = strcspn(device, "@");
  source->channel = device[length] ? highest_channel(device + length + 1) : -1;
  if (length == 0 || length >= sizeof source->interface || (device[length] && source->channel < 0))
    return sonde_fail_interface(error, source->name, ENODEV);
  snprintf(source->interface, sizeof source->interface, "%.*s", (int)length, device);
  bool dotted = strchr(source->interface, '.');
  if (dotted && (device[length] || source->kind == SOURCE_ZERO_COPY)) {
    return sonde_fail(error, SONDE_INTERFACE_INVALID, 0,
                      "%s: PF_RING accepts a name with a dot only without zc: and without channels",
                      source->name);
  }
  snprintf(source->device, sizeof source->device, dotted ? "(%.250s)" : "%.250s", source->name);
  int status = sonde_interface_find(source->interface, SONDE_TAP_NONE, &interface, error);
  source->loopback = interface.loopback;
  source->received_only = source->kind == SOURCE_KERNEL && !module_shows_sent();
  return status;
}

int source_set(struct source *source, const char *name, struct sonde_error *error) {
  if (!name || !*name || strlen(name) >= sizeof source->name)
    return sonde_fail_interface(error, name, ENODEV);
  memcpy(source->name, name, strlen(name) + 1);
  memcpy(source->device, name, strlen(name) + 1);
  source->select_fd = -1;
  if (strncmp(name, "pcap:", 5) == 0)
    return set_file(source, name + 5, error);
  source->kind = strncmp(name, "zc:", 3) == 0 ? SOURCE_ZERO_COPY : SOURCE_KERNEL;
  return set_device(source, source->kind == SOURCE_ZERO_COPY ? name + 3 : name, error);
}

/* The module rejects an interface that is down. Asking first avoids an attempt to open. */
static int check_up(const struct source *source, struct sonde_error *error) {
  struct sonde_interface interface;
  int status = sonde_interface_find(source->interface, SONDE_TAP_NONE, &interface, error);
  if (!status && !(interface.flags & IFF_UP))
    return sonde_fail(error, SONDE_LINK_DOWN, ENETDOWN, "%s: %s", source->name, strerror(ENETDOWN));
  return status;
}

/* Checks that the library has read the name as the interface, and that the channels exist: on
 * others no packet would ever arrive. */
static int check_bound(const struct source *source, struct sonde_error *error) {
  const struct library *library = source->library;
  int expected = (int)if_nametoindex(source->interface);
  int bound = expected;
  if (source->kind != SOURCE_KERNEL)
    return 0;
  if (library->get_bound_device_ifindex(source->ring, &bound) == 0 && bound != expected) {
    return sonde_fail(error, SONDE_INTERFACE_INVALID, 0,
                      "%s: PF_RING reads this name as another interface", source->name);
  }
  int channels = library->get_num_rx_channels(source->ring);
  if (source->channel >= channels) {
    return sonde_fail(error, SONDE_INTERFACE_INVALID, 0,
                      "%s: there is no channel %d: the interface has %d, counted from 0",
                      source->name, source->channel, channels);
  }
  return 0;
}

int source_open(struct source *source, struct sonde_error *error) {
  static char application[] = "netsonde";
  const struct library *library = source->library;
  uint32_t flags = PFRING_LONG_HEADER | PFRING_TIMESTAMP | PFRING_DO_NOT_PARSE |
                   (source->promiscuous ? PFRING_PROMISCUOUS : 0);
  int cause;
  int status = source->kind == SOURCE_KERNEL ? check_up(source, error) : 0;
  if (status)
    return status;
  source->ring =
      ring_open(library, source->device, source->caplen, flags, &source->sockets, &cause);
  if (!source->ring)
    return open_failure(source, cause, error);
  status = check_bound(source, error);
  if (status) {
    source_close(source);
    return status;
  }
  library->set_application_name(source->ring, application);
  library->set_socket_mode(source->ring, PFRING_RECEIVE_MODE);
  library->set_poll_watermark(source->ring,
                              1); /* else the last packets stay in the ring until more arrive */
  if (source->loopback)
    library->set_direction(source->ring, PFRING_RECEIVED_ONLY); /* lo shows each packet twice */
  source->select_fd = source->kind == SOURCE_FILE ? -1 : library->get_selectable_fd(source->ring);
  return 0;
}

int source_enable(struct source *source, struct sonde_error *error) {
  errno = 0;
  if (source->library->enable_ring(source->ring)) {
    int cause = errno;
    return sonde_fail(error, SONDE_SYSTEM, cause, "%s: cannot enable the ring: %s", source->name,
                      cause ? strerror(cause) : "the library gives no reason");
  }
  return 0;
}

void source_close(struct source *source) {
  if (source->ring) {
    source->library->close(source->ring);
    leftover_close(&source->sockets);
  }
  source->ring = NULL;
  source->select_fd = -1;
}
