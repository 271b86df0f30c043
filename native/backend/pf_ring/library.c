/* library.c - see library.h. */
#include "library.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdbool.h>

#include "failure.h"

/* PF_RING installs the bare name and links with its major version. Releases before 7.8 have .1. */
static const char *const names[] = {"libpfring.so",   "libpfring.so.9", "libpfring.so.8",
                                    "libpfring.so.7", "libpfring.so.6", "libpfring.so.1"};
/* Debian, Fedora, development files. */
static const char *const pcap_names[] = {"libpcap.so.0.8", "libpcap.so.1", "libpcap.so"};

static const struct {
  const char *name;
  size_t at;
} symbols[] = {
#define SYMBOL(member) {"pfring_" #member, offsetof(struct library, member)}
    SYMBOL(open),
    SYMBOL(close),
    SYMBOL(enable_ring),
    SYMBOL(recv),
    SYMBOL(stats),
    SYMBOL(get_selectable_fd),
    SYMBOL(set_direction),
    SYMBOL(get_num_queued_pkts),
    SYMBOL(set_socket_mode),
    SYMBOL(set_poll_watermark),
    SYMBOL(set_application_name),
    SYMBOL(version_noring),
    SYMBOL(get_num_rx_channels),
    SYMBOL(get_bound_device_ifindex),
#undef SYMBOL
};

static int find_symbols(void *handle, struct library *library, struct sonde_error *error) {
  for (size_t i = 0; i < sizeof symbols / sizeof symbols[0]; i++) {
    void *symbol = dlsym(handle, symbols[i].name);
    if (!symbol)
      return sonde_fail(error, SONDE_BACKEND_UNAVAILABLE, 0, "%s", dlerror());
    *(void **)((char *)library + symbols[i].at) = symbol;
  }
  return 0;
}

/* libpfring calls libpcap and is not linked with it. */
static void offer_libpcap(void) {
  void *handle = NULL;
  for (size_t i = 0; !handle && i < sizeof pcap_names / sizeof pcap_names[0]; i++)
    handle = dlopen(pcap_names[i], RTLD_NOW | RTLD_GLOBAL);
}

/* Loads the first candidate that fits. The error is that of the first candidate that exists, else
 * that of the first name. */
static int load(struct library *library, struct sonde_error *error) {
  bool exists = false;
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
    struct sonde_error problem = {0};
    void *handle = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    if (handle && find_symbols(handle, library, &problem) == 0)
      return 0;
    if (!handle)
      sonde_fail(&problem, SONDE_BACKEND_UNAVAILABLE, 0, "%s", dlerror());
    char missing[96];
    snprintf(missing, sizeof missing, "%s: cannot open shared object file: No such file", names[i]);
    bool found = strncmp(problem.detail, missing, strlen(missing)) != 0;
    if (i == 0 || (found && !exists))
      sonde_fail(error, SONDE_BACKEND_UNAVAILABLE, 0, "%s", problem.detail);
    exists = exists || found;
    if (handle)
      dlclose(handle);
  }
  return SONDE_BACKEND_UNAVAILABLE;
}

int library_load(const struct library **library, struct sonde_error *error) {
  static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
  static struct library loaded;
  static bool is_loaded;
  int status = 0;
  pthread_mutex_lock(&lock);
  if (!is_loaded) {
    offer_libpcap();
    status = load(&loaded, error);
    is_loaded = status == 0;
  }
  pthread_mutex_unlock(&lock);
  *library = &loaded;
  return status;
}

void library_version(const struct library *library, char text[16]) {
  uint32_t number = 0;
  library->version_noring(&number);
  snprintf(text, 16, "%u.%u.%u", number >> 16 & 0xff, number >> 8 & 0xff, number & 0xff);
}
