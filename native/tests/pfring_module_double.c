/* pfring_module_double.c - a test double of the kernel module pf_ring, as seen through libc: its
 * socket family, its page in /proc and its options in /sys. Preloaded into an agent, or linked with
 * a test program that exports its symbols.
 *
 * A ring is a packet socket that reports the module's family. Quirks by name in the environment
 * variable PFRING_DOUBLE (comma separated): no_module, no_permission, slot_mismatch (the module is
 * of release 8.4), quick_mode, keep_vlan_offload, no_tx (enable_tx_capture=0).
 */
#include <dlfcn.h>
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define OFFERED __attribute__((visibility("default")))

enum { FAMILY = 27, DESCRIPTORS = 4096 };

static uint64_t rings[DESCRIPTORS]; /* the inode of each ring by descriptor */

static bool quirk(const char *name) {
  const char *names = getenv("PFRING_DOUBLE");
  size_t length = strlen(name);
  while (names && *names) {
    size_t one = strcspn(names, ",");
    if (one == length && strncmp(names, name, length) == 0)
      return true;
    names += one + (names[one] == ',');
  }
  return false;
}

static uint64_t inode(int fd) {
  struct stat about;
  return fd >= 0 && fd < DESCRIPTORS && fstat(fd, &about) == 0 ? about.st_ino : 0;
}

OFFERED int socket(int family, int type, int protocol) {
  if (family != FAMILY)
    return (int)syscall(SYS_socket, family, type, protocol);
  if (quirk("no_module") || quirk("no_permission")) {
    errno = quirk("no_module") ? EAFNOSUPPORT : EPERM;
    return -1;
  }
  int fd = (int)syscall(SYS_socket, AF_PACKET, type, 0);
  if (fd >= 0 && fd < DESCRIPTORS)
    rings[fd] = inode(fd);
  return fd;
}

OFFERED int getsockopt(int fd, int level, int name, void *value, socklen_t *length) {
  int failed = (int)syscall(SYS_getsockopt, fd, level, name, value, length);
  if (!failed && level == SOL_SOCKET && name == SO_DOMAIN && inode(fd) && rings[fd] == inode(fd))
    *(int *)value = FAMILY;
  return failed;
}

static const char *page(const char *path) {
  static const char options[] = "/sys/module/pf_ring/parameters/";
  const char *name = strncmp(path, options, strlen(options)) == 0 ? path + strlen(options) : "";
  if (strcmp(path, "/proc/net/pf_ring/info") == 0) {
    return quirk("slot_mismatch")
               ? "PF_RING Version          : 8.4.0 (unknown)\nSlot version             : 17\n"
               : "PF_RING Version          : 8.9.0 (unknown)\nSlot version             : 21\n";
  }
  if (strcmp(name, "quick_mode") == 0 || strcmp(name, "keep_vlan_offload") == 0)
    return quirk(name) ? "1\n" : "0\n";
  if (strcmp(name, "enable_tx_capture") == 0)
    return quirk("no_tx") ? "0\n" : "1\n";
  return NULL;
}

OFFERED FILE *fopen(const char *path, const char *mode) {
  static FILE *(*real)(const char *, const char *);
  const char *text = quirk("no_module") ? NULL : page(path);
  if (text)
    return fmemopen((void *)text, strlen(text), "r");
  if (!real)
    *(void **)&real = dlsym(RTLD_NEXT, "fopen");
  return real(path, mode);
}
