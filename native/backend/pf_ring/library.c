/* library.c - see library.h. */
#include "library.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdbool.h>

#include "failure.h"

/* Versioned name first: only the development files have the bare name. */
static const char *const names[] = {"libpfring.so.1", "libpfring.so"};

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

int library_load(const struct library **library, struct sonde_error *error) {
  static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
  static struct library loaded;
  static bool is_loaded;
  int status = 0;
  pthread_mutex_lock(&lock);
  if (!is_loaded) {
    void *handle = NULL;
    for (size_t i = 0; !handle && i < sizeof names / sizeof names[0]; i++) {
      handle = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
      if (!handle && i == 0) /* report the error for the versioned name */
        status = sonde_fail(error, SONDE_BACKEND_UNAVAILABLE, 0, "%s", dlerror());
    }
    status = handle ? find_symbols(handle, &loaded, error) : status;
    is_loaded = status == 0;
    if (handle && status)
      dlclose(handle);
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
