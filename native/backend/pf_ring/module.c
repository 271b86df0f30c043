/* module.c - see module.h. */
#include "module.h"

#include <arpa/inet.h>
#include <net/ethernet.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "failure.h"

static const char MODULE_INFO[] = "/proc/net/pf_ring/info";
static const char PARAMETERS[] = "/sys/module/pf_ring/parameters";

/* Options that must be 0. */
static const struct {
  const char *name;
  const char *effect;
} options[] = {
    {"quick_mode", "packets lose their direction, and the host's own packets are missing"},
    {"keep_vlan_offload", "packets lose their VLAN tags"},
};

/* Reads the value of a line like "PF_RING Version : 8.9.0 (…)" from MODULE_INFO. */
static void module_value(const char *key, char *value, size_t value_bytes) {
  char line[256];
  FILE *info = fopen(MODULE_INFO, "re");
  snprintf(value, value_bytes, "unknown");
  while (info && fgets(line, sizeof line, info)) {
    const char *colon = strchr(line, ':');
    if (colon && strncasecmp(line, key, strlen(key)) == 0) {
      const char *text = colon + 1 + strspn(colon + 1, " \t");
      snprintf(value, value_bytes, "%.*s", (int)strcspn(text, " \t\r\n"), text);
    }
  }
  if (info)
    fclose(info);
}

/* Returns the number in a parameter file, or `absent`: older modules lack some options. */
static long parameter(const char *name, long absent) {
  char path[96];
  char text[32] = "";
  snprintf(path, sizeof path, "%s/%s", PARAMETERS, name);
  FILE *file = fopen(path, "re");
  if (!file)
    return absent;
  bool read = fgets(text, sizeof text, file);
  fclose(file);
  if (text[0] == 'Y' || text[0] == 'N')
    return text[0] == 'Y';
  return read ? strtol(text, NULL, 10) : absent;
}

int module_cause(void) {
  int fd = socket(PFRING_FAMILY, SOCK_RAW | SOCK_CLOEXEC, htons(ETH_P_ALL));
  if (fd < 0)
    return errno;
  close(fd);
  return 0;
}

int module_check(struct sonde_error *error) {
  int cause = module_cause();
  if (cause == EPERM || cause == EACCES)
    return sonde_fail(error, SONDE_PERMISSION, cause, "needs CAP_NET_RAW: %s", strerror(cause));
  if (cause == EAFNOSUPPORT || cause == ESOCKTNOSUPPORT || cause == EPROTONOSUPPORT) {
    return sonde_fail(error, SONDE_BACKEND_UNAVAILABLE, cause,
                      "the kernel module pf_ring is not loaded: %s", strerror(cause));
  }
  if (cause)
    return sonde_fail(error, SONDE_SYSTEM, cause, "pf_ring socket: %s", strerror(cause));
  for (size_t i = 0; i < sizeof options / sizeof options[0]; i++) {
    if (parameter(options[i].name, 0) != 0) {
      return sonde_fail(error, SONDE_BACKEND_UNAVAILABLE, 0,
                        "the kernel module pf_ring has %s=1, so %s: load it with %s=0",
                        options[i].name, options[i].effect, options[i].name);
    }
  }
  return 0;
}

bool module_shows_sent(void) {
  return parameter("enable_tx_capture", 1) != 0;
}

bool module_matches(const struct library *library) {
  char version[16];
  char module[32];
  library_version(library, version);
  module_value("PF_RING Version", module, sizeof module);
  return strcmp(module, version) == 0;
}

int module_mismatch(const struct library *library, int cause, struct sonde_error *error) {
  char version[16];
  char module[32];
  char slots[16];
  library_version(library, version);
  module_value("PF_RING Version", module, sizeof module);
  module_value("Slot version", slots, sizeof slots);
  return sonde_fail(error, SONDE_BACKEND_UNAVAILABLE, cause,
                    "libpfring %s does not fit the kernel module (version %s, slot version %s): "
                    "install both from one release",
                    version, module, slots);
}
