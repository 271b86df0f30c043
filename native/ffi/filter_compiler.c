/* filter_compiler.c - the program that compiles a BPF filter once and says whether it is valid.
 *
 * libpcap may take minutes for one expression and cannot be interrupted, so the agent runs this
 * in a child process that it can kill. The expression is on standard input. Arguments: "kernel" if
 * the kernel will run the filter, else "user"; then link types. The expression must compile for
 * one of them. Exit status 0: valid; 1: invalid, with the reason on standard output.
 *
 * Host and network names are refused: the functions below replace the C library's, so that
 * nothing here asks DNS. Names of ports and protocols come from files.
 */
#include <dlfcn.h>
#include <netdb.h>
#include <netinet/ether.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "core/filter.h"
#include "failure.h"

enum { INPUT_BYTES_MAX = 1 << 17, TIMEOUT_SEC = 3, MEMORY_BYTES_MAX = 1 << 30 };

#define INTERPOSED __attribute__((visibility("default")))

typedef int address_lookup(const char *, const char *, const struct addrinfo *, struct addrinfo **);

static char refused[256]; /* the last name that was not resolved */

static void refuse(const char *name) {
  snprintf(refused, sizeof refused, "%s", name);
}

INTERPOSED int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
                           struct addrinfo **result) {
  address_lookup *lookup = (address_lookup *)(uintptr_t)dlsym(RTLD_NEXT, "getaddrinfo");
  struct addrinfo numeric = hints ? *hints : (struct addrinfo){0};
  if (node)
    numeric.ai_flags |= AI_NUMERICHOST;
  int status = lookup ? lookup(node, service, &numeric, result) : EAI_FAIL;
  if (status && node)
    refuse(node);
  return status;
}

INTERPOSED struct hostent *gethostbyname(const char *name) {
  refuse(name);
  return NULL;
}

INTERPOSED struct netent *getnetbyname(const char *name) {
  refuse(name);
  return NULL;
}

INTERPOSED int getnetbyname_r(const char *name, struct netent *entry, char *buffer, size_t size,
                              struct netent **result, int *problem) {
  (void)entry, (void)buffer, (void)size;
  refuse(name);
  *result = NULL;
  *problem = HOST_NOT_FOUND;
  return 0;
}

INTERPOSED int ether_hostton(const char *name, struct ether_addr *address) {
  (void)address;
  refuse(name);
  return -1;
}

/* The agent kills this process after two seconds; the limits are for the case that it died. */
static void set_limits(void) {
  setrlimit(RLIMIT_CPU, &(struct rlimit){TIMEOUT_SEC, TIMEOUT_SEC});
  setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
#ifndef __SANITIZE_ADDRESS__
  setrlimit(RLIMIT_AS, &(struct rlimit){MEMORY_BYTES_MAX, MEMORY_BYTES_MAX});
#endif
  alarm(TIMEOUT_SEC);
}

int main(int count, char **arguments) {
  static char expression[INPUT_BYTES_MAX];
  set_limits();
  if (count < 3)
    return 2;
  bool kernel = strcmp(arguments[1], "kernel") == 0;
  expression[fread(expression, 1, sizeof expression - 1, stdin)] = 0;
  char reason[sizeof((struct sonde_error *)0)->detail] = "";
  for (int i = 2; i < count; i++) {
    struct sonde_error error = {0};
    uint16_t linktype = (uint16_t)strtoul(arguments[i], NULL, 10);
    if (sonde_filter_check_for(linktype, kernel, expression, &error) == 0)
      return 0;
    if (i == 2)
      memcpy(reason, error.detail, sizeof reason);
  }
  if (refused[0])
    printf("names are not resolved; write the address of '%s'", refused);
  else
    fputs(reason, stdout);
  return 1;
}
