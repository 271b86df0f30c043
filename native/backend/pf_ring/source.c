/* source.c - see source.h.
 *
 * On failure pfring_open returns NULL, sets errno if a system call failed, and prints a line to
 * stderr if the kernel's ring has another layout. This file derives the cause.
 */
#include "source.h"

#include <arpa/inet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "failure.h"
#include "host/interface.h"

static const char UNBOUND[] = "none"; /* the library's name for a ring on no device */
static const char MODULE_INFO[] = "/proc/net/pf_ring/info";

/* Reads the value of a line like "PF_RING Version : 8.9.0 (…)" from MODULE_INFO. */
static void module_value(const char *key, char *value, size_t value_bytes) {
  char line[256];
  FILE *info = fopen(MODULE_INFO, "re");
  snprintf(value, value_bytes, "unknown");
  while (info && fgets(line, sizeof line, info)) {
    const char *colon = strchr(line, ':');
    if (colon && strncmp(line, key, strlen(key)) == 0) {
      const char *text = colon + 1 + strspn(colon + 1, " \t");
      snprintf(value, value_bytes, "%.*s", (int)strcspn(text, " \t\r\n"), text);
    }
  }
  if (info)
    fclose(info);
}

/* Releases 6 report ENODEV for every failure. For an unbound ring that cannot be true, so this
 * opens a socket of the module as the library does. Returns its errno, or 0 if it opens. */
static int true_cause(const char *name, int cause) {
  if (cause != ENODEV || strcmp(name, UNBOUND) != 0)
    return cause;
  int fd = socket(PFRING_FAMILY, SOCK_RAW | SOCK_CLOEXEC, htons(ETH_P_ALL));
  if (fd < 0)
    return errno;
  close(fd);
  return 0;
}

static int open_failure(const struct library *library, const char *name, int cause,
                        struct sonde_error *error) {
  char version[16];
  char module[32];
  char slots[16];
  cause = true_cause(name, cause);
  switch (cause) {
  case EAFNOSUPPORT:
  case ESOCKTNOSUPPORT:
    return sonde_fail(error, SONDE_BACKEND_UNAVAILABLE, cause,
                      "the kernel module pf_ring is not loaded: %s", strerror(cause));
  case EPERM:
  case EACCES:
    return sonde_fail(error, SONDE_PERMISSION, cause, "needs CAP_NET_RAW and CAP_NET_ADMIN: %s",
                      strerror(cause));
  case ENODEV:
  case ENXIO:
  case EBUSY:
  case ENETDOWN:
    return sonde_fail(error, SONDE_INTERFACE_INVALID, cause, "%s: %s", name, strerror(cause));
  case ENOMEM:
    return sonde_fail(error, SONDE_NO_MEMORY, cause, "%s: %s", name, strerror(cause));
  case 0: /* no system call failed: the library rejected the kernel's ring */
    library_version(library, version);
    module_value("PF_RING Version", module, sizeof module);
    module_value("Slot Version", slots, sizeof slots);
    return sonde_fail(
        error, SONDE_BACKEND_UNAVAILABLE, 0,
        "libpfring %s does not match the kernel module (version %s, slot version %s): "
        "install both from one release",
        version, module, slots);
  default:
    return sonde_fail(error, SONDE_SYSTEM, cause, "%s: %s", name, strerror(cause));
  }
}

int source_probe(const struct library *library, struct sonde_error *error) {
  errno = 0;
  struct pfring *ring = library->open(UNBOUND, 64, 0);
  if (!ring)
    return open_failure(library, UNBOUND, errno, error);
  library->close(ring);
  return 0;
}

/* ENODEV: first checks whether any ring can be created. */
static int device_failure(const struct library *library, const char *name, int cause,
                          struct sonde_error *error) {
  int status = cause == ENODEV ? source_probe(library, error) : 0;
  return status ? status : open_failure(library, name, cause, error);
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

/* `device` is eth0 or eth0@channels. */
static int set_device(struct source *source, const char *device, struct sonde_error *error) {
  struct sonde_interface interface;
  size_t length = strcspn(device, "@");
  if (length == 0 || length >= sizeof source->interface ||
      (device[length] && device[length + 1 + strspn(device + length + 1, "0123456789,-")]))
    return sonde_fail_interface(error, source->name, ENODEV);
  snprintf(source->interface, sizeof source->interface, "%.*s", (int)length, device);
  int status = sonde_interface_find(source->interface, SONDE_TAP_NONE, &interface, error);
  source->loopback = interface.loopback;
  return status;
}

int source_set(struct source *source, const char *name, struct sonde_error *error) {
  if (!name || !*name || strlen(name) >= sizeof source->name)
    return sonde_fail_interface(error, name, ENODEV);
  memcpy(source->name, name, strlen(name) + 1);
  source->select_fd = -1;
  if (strncmp(name, "pcap:", 5) == 0)
    return set_file(source, name + 5, error);
  source->kind = strncmp(name, "zc:", 3) == 0 ? SOURCE_ZERO_COPY : SOURCE_KERNEL;
  return set_device(source, source->kind == SOURCE_ZERO_COPY ? name + 3 : name, error);
}

int source_open(struct source *source, struct sonde_error *error) {
  static char application[] = "netsonde";
  const struct library *library = source->library;
  uint32_t flags = PFRING_LONG_HEADER | PFRING_TIMESTAMP | PFRING_DO_NOT_PARSE |
                   (source->promiscuous ? PFRING_PROMISCUOUS : 0);
  errno = 0;
  source->ring = library->open(source->name, source->caplen, flags);
  if (!source->ring) {
    return source->kind == SOURCE_FILE ? sonde_fail(error, SONDE_FORMAT, errno,
                                                    "%s: not a readable capture file", source->name)
                                       : device_failure(library, source->name, errno, error);
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
  if (source->ring)
    source->library->close(source->ring);
  source->ring = NULL;
  source->select_fd = -1;
}
