/* registry.c - see registry.h. Also the probes of netsonde.h: whether each backend is
 * compiled, loadable and usable, and the reason if not.
 */
#include "registry.h"

#include <dlfcn.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

#include "failure.h"
#include "netsonde.h"

static const struct known_backend {
  const char *name;
  const char *description;
} known_backends[] = {
    {"af_packet", "Linux packet sockets with a memory-mapped ring (TPACKET_V3)"},
    {"pcap", "libpcap, the portable fallback (emulation mode)"},
    {"xdp", "eBPF at the traffic control hooks, or AF_XDP on a dedicated interface"},
    {"dpdk", "DPDK poll-mode drivers on a dedicated interface"},
    {"pf_ring",
     "PF_RING module, zero-copy drivers; VLAN tags appear as 802.1Q, null tags are lost"},
    {"file", "replay of a pcap or pcapng file"},
};

enum { KNOWN_BACKENDS = sizeof known_backends / sizeof known_backends[0] };

static const struct known_backend *find(const char *name) {
  for (size_t i = 0; i < KNOWN_BACKENDS; i++)
    if (strcmp(known_backends[i].name, name) == 0)
      return &known_backends[i];
  return NULL;
}

static int plugin_path(const char *plugin_dir, const char *name, char path[static PATH_MAX],
                       struct sonde_error *error) {
  if (!plugin_dir || !*plugin_dir ||
      snprintf(path, PATH_MAX, "%s/%s.so", plugin_dir, name) >= PATH_MAX) {
    return sonde_fail(error, SONDE_INVALID, 0, "the plugin directory is missing or too long");
  }
  return 0;
}

static int load(const char *path, const char *name, const struct sonde_backend_ops **ops,
                struct sonde_error *error) {
  void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!handle)
    return sonde_fail(error, SONDE_BACKEND_UNAVAILABLE, 0, "%s", dlerror());
  sonde_backend_entry *entry;
  *(void **)&entry = dlsym(handle, SONDE_BACKEND_SYMBOL);
  if (!entry) {
    int status = sonde_fail(error, SONDE_BACKEND_UNAVAILABLE, 0, "%s", dlerror());
    dlclose(handle);
    return status;
  }
  const struct sonde_backend_ops *loaded = entry();
  if (loaded->abi != SONDE_BACKEND_ABI || strcmp(loaded->name, name) != 0) {
    int status = sonde_fail(error, SONDE_BACKEND_UNAVAILABLE, 0,
                            "%s: backend %s with ABI %u, expected %s with ABI %u", path,
                            loaded->name, loaded->abi, name, SONDE_BACKEND_ABI);
    dlclose(handle);
    return status;
  }
  *ops = loaded;
  return 0;
}

int sonde_registry_load(const char *plugin_dir, const char *name,
                        const struct sonde_backend_ops **ops, struct sonde_error *error) {
  char path[PATH_MAX];
  if (!find(name))
    return sonde_fail(error, SONDE_BACKEND_UNKNOWN, 0, "no backend is named %.32s", name);
  int status = plugin_path(plugin_dir, name, path, error);
  return status ? status : load(path, name, ops, error);
}

static void probe(const char *plugin_dir, const struct known_backend *known,
                  struct sonde_backend_report *report) {
  const struct sonde_backend_ops *ops;
  struct sonde_error error = {0};
  char path[PATH_MAX];

  memset(report, 0, sizeof *report);
  snprintf(report->name, sizeof report->name, "%s", known->name);
  snprintf(report->description, sizeof report->description, "%s", known->description);
  if (plugin_path(plugin_dir, known->name, path, &error) == 0) {
    report->compiled = access(path, F_OK) == 0;
    if (load(path, known->name, &ops, &error) == 0) {
      report->loadable = 1;
      report->features = ops->features;
      report->usable = ops->probe(&error) == 0;
    }
  }
  if (!report->usable)
    snprintf(report->reason, sizeof report->reason, "%s", error.detail);
}

int sonde_backend_probe(const char *plugin_dir, struct sonde_backend_report *reports,
                        uint32_t max) {
  uint32_t count = max < KNOWN_BACKENDS ? max : (uint32_t)KNOWN_BACKENDS;
  for (uint32_t i = 0; i < count; i++)
    probe(plugin_dir, &known_backends[i], &reports[i]);
  return (int)count;
}

int sonde_backend_probe_one(const char *plugin_dir, const char *name,
                            struct sonde_backend_report *report) {
  const struct known_backend *known = find(name);
  if (!known)
    return SONDE_BACKEND_UNKNOWN;
  probe(plugin_dir, known, report);
  return 0;
}
