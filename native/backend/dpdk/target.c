/* target.c - see target.h. The strings come from the network and go to EAL, so each is parsed
 * and checked here first.
 */
#include "target.h"

#include <dirent.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "failure.h"
#include "host/dedicated_check.h"
#include "host/interface.h"

enum {
  /* net_af_packet expects contiguous frames, so frames must fill their block. Each frame has
   * space for the largest packet: larger frames mean fewer of them. */
  BLOCK_BYTES = 65536,
  FRAME_BYTES_MIN = 2048,
  FRAME_BYTES_MAX = 16384,
  FRAME_HEAD_BYTES = 128, /* the kernel's header and address before the packet */
  RING_FRAMES_MIN = 4096,
  RING_FRAMES_MAX = 65536,
  FLOWS_MAX = 1 << 24,
};

static int refuse(const char *name, const char *why, struct sonde_error *error) {
  return sonde_fail(error, SONDE_INTERFACE_INVALID, 0, "%.128s: %s", name, why);
}

static int find_interface(struct target *target, const char *name, struct sonde_error *error) {
  struct sonde_interface interface;
  int status = sonde_interface_find(name, SONDE_TAP_NONE, &interface, error);
  if (status)
    return status;
  memcpy(target->interface, interface.name, sizeof interface.name);
  target->loopback = interface.loopback;
  return interface.hardware == ARPHRD_ETHER || interface.loopback
             ? 0
             : refuse(name, "DPDK reads Ethernet only", error);
}

static int set_kernel(struct target *target, const char *name,
                      const struct sonde_backend_config *config, struct sonde_error *error) {
  uint32_t frame_bytes = FRAME_BYTES_MIN;
  while (frame_bytes < FRAME_BYTES_MAX && frame_bytes < config->snaplen + FRAME_HEAD_BYTES)
    frame_bytes *= 2;
  uint32_t frames = config->ring_bytes / frame_bytes; /* in whole blocks */
  frames = frames < RING_FRAMES_MIN   ? RING_FRAMES_MIN
           : frames > RING_FRAMES_MAX ? RING_FRAMES_MAX
                                      : frames;
  target->kind = ENGINE_KERNEL;
  int status = find_interface(target, name, error);
  if (!status && strchr(name, ','))
    status = refuse(name, "DPDK does not accept an interface name with a comma; rename it", error);
  snprintf(target->device, sizeof target->device,
           "net_af_packet0,iface=%s,blocksz=%d,framesz=%u,framecnt=%u,qpairs=1", target->interface,
           BLOCK_BYTES, frame_bytes, frames / 32 * 32);
  return status;
}

/* ---- PCI ------------------------------------------------------------------------------- */

static bool is_pci(const char *name, char address[static 16]) {
  unsigned domain = 0;
  unsigned bus;
  unsigned device;
  unsigned function;
  int end = 0;
  bool whole =
      (sscanf(name, "%4x:%2x:%2x.%1o%n", &domain, &bus, &device, &function, &end) == 4 ||
       (domain = 0, end = 0, sscanf(name, "%2x:%2x.%1o%n", &bus, &device, &function, &end) == 3)) &&
      end && name[end] == 0;
  if (whole) {
    snprintf(address, 16, "%04x:%02x:%02x.%o", domain & 0xffff, bus & 0xff, device & 0xff,
             function & 7);
  }
  return whole;
}

/* Checks that all kernel interfaces of the device may be taken from the host. */
static int set_pci(struct target *target, const char *address, int dedicated,
                   struct sonde_error *error) {
  char path[64];
  struct stat about;
  target->kind = ENGINE_DEVICE;
  snprintf(target->device, sizeof target->device, "%s", address);
  snprintf(path, sizeof path, "/sys/bus/pci/devices/%s", address);
  if (stat(path, &about))
    return refuse(address, "no such PCI device", error);
  if (!dedicated) {
    return sonde_fail(error, SONDE_INTERFACE_SHARED, 0,
                      "%s: DPDK takes the whole device from the host; set \"dedicated\": true if "
                      "the host does not need it",
                      address);
  }
  snprintf(path, sizeof path, "/sys/bus/pci/devices/%s/net", address);
  DIR *interfaces = opendir(path);
  int status = 0;
  for (struct dirent *one; !status && interfaces && (one = readdir(interfaces));)
    if (one->d_name[0] != '.' && if_nametoindex(one->d_name))
      status = sonde_dedicated_check(one->d_name, dedicated, error);
  if (interfaces)
    closedir(interfaces);
  return status;
}

/* ---- virtual devices ------------------------------------------------------------------- */

static const struct vdev {
  const char *driver;
  const char *required; /* the mandatory argument, or NULL */
  const char *allowed;  /* other arguments, each followed by a space */
} vdevs[] = {
    {"net_null", NULL, "size copy "},
    {"net_ring", NULL, ""},
    {"net_af_packet", "iface", ""},
    {"net_af_xdp", "iface", "start_queue queue_count force_copy "},
    {"net_pcap", "rx_pcap", ""},
};

static const struct vdev *find_vdev(const char *name) {
  for (size_t i = 0; i < sizeof vdevs / sizeof vdevs[0]; i++) {
    size_t length = strlen(vdevs[i].driver);
    size_t digits =
        strncmp(name, vdevs[i].driver, length) ? 0 : strspn(name + length, "0123456789");
    if (digits && digits < 4 && (name[length + digits] == 0 || name[length + digits] == ','))
      return &vdevs[i];
  }
  return NULL;
}

/* Splits "driver0,key=value,…" in place; *value is that of the required argument. */
static int read_arguments(const struct vdev *vdev, char *text, const char **value,
                          struct sonde_error *error) {
  char *place = NULL;
  char *one = strtok_r(text, ",", &place);
  while ((one = strtok_r(NULL, ",", &place))) {
    char known[64];
    char *equals = strchr(one, '=');
    if (!equals || equals[1] == 0)
      return refuse(one, "not key=value; write each argument as key=value", error);
    *equals = 0;
    snprintf(known, sizeof known, "%.32s ", one);
    if (vdev->required && strcmp(one, vdev->required) == 0 && !*value)
      *value = equals + 1;
    else if (!strstr(vdev->allowed, known))
      return refuse(one, "argument not allowed for this device", error);
    else if (equals[1 + strspn(equals + 1, "0123456789")])
      return refuse(equals + 1, "not a number; this argument needs one", error);
  }
  return vdev->required && !*value
             ? refuse(vdev->required, "missing argument; this device needs it", error)
             : 0;
}

static int check_file(struct target *target, const char *path, struct sonde_error *error) {
  struct stat about;
  target->kind = ENGINE_FILE;
  if (stat(path, &about))
    return sonde_fail(error, SONDE_INTERFACE_INVALID, errno, "%.128s: %s", path, strerror(errno));
  return S_ISREG(about.st_mode) ? 0 : refuse(path, "not a regular file", error);
}

static int set_vdev(struct target *target, const struct vdev *vdev,
                    const struct sonde_backend_config *config, struct sonde_error *error) {
  char copy[sizeof target->device];
  const char *value = NULL;
  target->kind = ENGINE_VDEV;
  char *flows = strstr(target->device, ";flows="); /* for benchmarks: see the schema */
  if (flows) {
    target->flows = (uint32_t)strtoul(flows + 7, NULL, 10);
    target->flows = target->flows > FLOWS_MAX ? FLOWS_MAX : target->flows;
    *flows = 0;
  }
  memcpy(copy, target->device, sizeof copy);
  int status = read_arguments(vdev, copy, &value, error);
  if (!status && strcmp(vdev->driver, "net_af_packet") == 0)
    return set_kernel(target, value, config, error);
  if (!status && strcmp(vdev->driver, "net_af_xdp") == 0) {
    status = find_interface(target, value, error);
    status = status ? status : sonde_dedicated_check(value, config->dedicated, error);
  }
  if (!status && strcmp(vdev->driver, "net_pcap") == 0)
    status = check_file(target, value, error);
  return status;
}

int target_set(struct target *target, const struct sonde_backend_config *config,
               struct sonde_error *error) {
  const char *name = config->interface ? config->interface : "";
  char address[16];
  *target = (struct target){0};
  if (strlen(name) >= sizeof target->device)
    return refuse(name, "name too long", error);
  snprintf(target->device, sizeof target->device, "%s", name);
  if (if_nametoindex(name))
    return set_kernel(target, name, config, error);
  if (is_pci(name, address))
    return set_pci(target, address, config->dedicated, error);
  char bare[sizeof target->device];
  snprintf(bare, sizeof bare, "%.*s", (int)strcspn(name, ";"), name);
  const struct vdev *vdev = find_vdev(bare);
  if (vdev)
    return set_vdev(target, vdev, config, error);
  if (strncmp(name, "net_", 4) == 0) {
    return refuse(name,
                  "virtual device not supported; use one of net_null, net_ring, "
                  "net_af_packet, net_af_xdp, net_pcap",
                  error);
  }
  return sonde_fail(error, SONDE_INTERFACE_INVALID, ENODEV, "%.128s: %s", name, strerror(ENODEV));
}
