/* registry_test.c - the report on each backend: missing, broken, foreign, unusable, usable. */
#include <linux/capability.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "core/registry.h"
#include "netsonde.h"

enum { KNOWN = 6 };

static const char *const names[KNOWN] = {"af_packet", "pcap", "xdp", "dpdk", "pf_ring", "file"};
static const uint32_t basic = SONDE_FEATURE_BASIC_CAPTURE | SONDE_FEATURE_FLOW_TRACKING;
static const uint32_t full = SONDE_FEATURE_BASIC_CAPTURE | SONDE_FEATURE_FLOW_TRACKING |
                             SONDE_FEATURE_FLOW_METERING | SONDE_FEATURE_NETFLOW_EXPORT |
                             SONDE_FEATURE_BUFFER_ENCRYPTION;

static void check_invariants(const struct sonde_backend_report *report) {
  CHECK(report->description[0] != 0);
  CHECK(report->compiled || !report->loadable);
  CHECK(report->loadable || !report->usable);
  CHECK_EQ(report->usable, report->reason[0] == 0);
}

static void check_package(void) {
  struct sonde_backend_report reports[KNOWN + 1];
  CHECK_EQ(sonde_backend_probe(SONDE_PLUGIN_DIR, reports, KNOWN + 1), KNOWN);
  CHECK_EQ(sonde_backend_probe(SONDE_PLUGIN_DIR, reports, 2), 2);
  sonde_backend_probe(SONDE_PLUGIN_DIR, reports, KNOWN);
  for (int i = 0; i < KNOWN; i++) {
    const struct sonde_backend_ops *ops = NULL;
    struct sonde_error error = {0};
    check_invariants(&reports[i]);
    CHECK(strcmp(reports[i].name, names[i]) == 0);
    int status = sonde_registry_load(SONDE_PLUGIN_DIR, names[i], &ops, &error);
    CHECK_EQ(status, reports[i].loadable ? 0 : SONDE_BACKEND_UNAVAILABLE);
    if (reports[i].loadable) {
      CHECK(strcmp(ops->description, reports[i].description) == 0);
      CHECK_EQ(reports[i].features, strcmp(names[i], "pcap") == 0 ? basic : full);
    } else {
      CHECK(strcmp(error.detail, reports[i].reason) == 0);
    }
  }
  CHECK_EQ(reports[5].usable, 1);
}

static void check_one(void) {
  struct sonde_backend_report all[KNOWN];
  struct sonde_backend_report one;
  sonde_backend_probe(SONDE_PLUGIN_DIR, all, KNOWN);
  for (int i = 0; i < KNOWN; i++) {
    CHECK_EQ(sonde_backend_probe_one(SONDE_PLUGIN_DIR, names[i], &one), 0);
    CHECK(strcmp(one.name, names[i]) == 0);
    CHECK_EQ(one.usable, all[i].usable);
    CHECK_EQ(one.features, all[i].features);
  }
  CHECK_EQ(sonde_backend_probe_one(SONDE_PLUGIN_DIR, "af_packet2", &one), SONDE_BACKEND_UNKNOWN);
}

static void check_without_privilege(void) {
  pid_t child = fork();
  if (child == 0) {
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[2] = {{0}};
    struct sonde_backend_report reports[KNOWN];
    check_failures = 0;
    CHECK_EQ(syscall(SYS_capset, &header, none), 0);
    sonde_backend_probe(SONDE_PLUGIN_DIR, reports, KNOWN);
    for (int i = 0; i < 2; i++) { /* af_packet, pcap */
      CHECK_EQ(reports[i].loadable, 1);
      CHECK_EQ(reports[i].usable, 0);
      CHECK(strcmp(reports[i].reason, "needs CAP_NET_RAW") == 0);
    }
    CHECK_EQ(reports[5].usable, 1);
    _exit(check_failures != 0);
  }
  int status;
  waitpid(child, &status, 0);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void put_file(const char *folder, const char *name, const char *content) {
  char path[256];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  FILE *file = fopen(path, "w");
  CHECK(file && fputs(content, file) >= 0 && fclose(file) == 0);
}

static void check_broken_package(void) {
  char folder[] = "/tmp/sonde-registry-XXXXXX";
  char command[512];
  struct sonde_backend_report reports[KNOWN];
  struct sonde_error error = {0};
  const struct sonde_backend_ops *ops = NULL;
  CHECK(mkdtemp(folder) != NULL);
  put_file(folder, "xdp.so", "not a shared library");
  snprintf(command, sizeof command, "cp '%s/file.so' '%s/dpdk.so'", SONDE_PLUGIN_DIR, folder);
  CHECK_EQ(system(command), 0);
  snprintf(command, sizeof command, "cp /lib/*/libdl.so.2 '%s/pf_ring.so'", folder);
  CHECK_EQ(system(command), 0);
  sonde_backend_probe(folder, reports, KNOWN);
  for (int i = 0; i < KNOWN; i++) {
    check_invariants(&reports[i]);
    CHECK_EQ(reports[i].loadable, 0);
    CHECK_EQ(reports[i].compiled, i >= 2 && i <= 4);
  }
  CHECK(strstr(reports[0].reason, "cannot open shared object file"));
  CHECK(strstr(reports[2].reason, "file too short") || strstr(reports[2].reason, "ELF"));
  CHECK(strstr(reports[3].reason, "backend file with ABI 4, expected dpdk with ABI 4"));
  CHECK(strstr(reports[4].reason, "undefined symbol: " SONDE_BACKEND_SYMBOL));
  snprintf(command, sizeof command, "grep -q '%s' /proc/%d/maps", folder, getpid());
  CHECK(system(command) != 0); /* a rejected library is not kept loaded */
  snprintf(command, sizeof command, "rm -r '%s'", folder);
  CHECK_EQ(system(command), 0);

  CHECK_EQ(sonde_registry_load(folder, "../file", &ops, &error), SONDE_BACKEND_UNKNOWN);
  CHECK_EQ(sonde_registry_load(folder, "", &ops, &error), SONDE_BACKEND_UNKNOWN);
  CHECK_EQ(sonde_registry_load(NULL, "file", &ops, &error), SONDE_INVALID);
  CHECK(ops == NULL);
}

int main(void) {
  check_package();
  check_one();
  check_without_privilege();
  check_broken_package();
  return check_report();
}
