/* object.c - see object.h.
 *
 * Links are created by the system call: the libbpf of the oldest supported distribution does not
 * know the arguments for TCX.
 */
#include "object.h"

#include <bpf/bpf.h>
#include <limits.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "failure.h"

/* clang-format off */
#define EMBED(name, path)                                  \
  __asm__(".section .rodata\n"                             \
          ".balign 16\n"                                   \
          "embedded_" #name ":\n"                          \
          ".incbin \"" path "\"\n"                         \
          "embedded_" #name "_end:\n"                      \
          ".byte 0\n"                                      \
          ".text\n");                                      \
  extern const unsigned char embedded_##name[];            \
  extern const unsigned char embedded_##name##_end[];
/* clang-format on */

EMBED(shared, XDP_SHARED_OBJECT)
EMBED(dedicated, XDP_DEDICATED_OBJECT)

enum { ATTACH_TCX_INGRESS = 46, ATTACH_TCX_EGRESS = 47, FLAG_BEFORE = 1 << 3 };

/* union bpf_attr for BPF_LINK_CREATE on a TCX hook, include/uapi/linux/bpf.h of 6.6. */
struct link_create {
  uint32_t prog_fd;
  uint32_t target_ifindex;
  uint32_t attach_type;
  uint32_t flags;
  uint32_t relative_fd; /* 0: before all others */
  uint32_t unused;
  uint64_t expected_revision;
};

static _Thread_local char last_words[160];

/* Keeps libbpf's last warning as the reason, instead of printing it. */
static int listen(enum libbpf_print_level level, const char *format, va_list arguments) {
  if (level == LIBBPF_WARN) {
    vsnprintf(last_words, sizeof last_words, format, arguments);
    last_words[strcspn(last_words, "\n")] = 0;
  }
  return 0;
}

static int fail(struct sonde_error *error, int number, const char *what) {
  if (number == EPERM || number == EACCES) {
    return sonde_fail(error, SONDE_PERMISSION, number,
                      "needs CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN");
  }
  int status = number == ENOMEM ? SONDE_NO_MEMORY : SONDE_SYSTEM;
  return sonde_fail(error, status, number, "%s: %s%s%s", what, strerror(number),
                    last_words[0] ? "; " : "", last_words);
}

int object_open(struct object object, struct bpf_object **opened, void **settings,
                size_t settings_bytes, struct sonde_error *error) {
  libbpf_set_print(listen);
  last_words[0] = 0;
  *opened = bpf_object__open_mem(object.bytes, object.length, NULL);
  if (!*opened)
    return fail(error, errno, "reading the compiled programs");
  if (settings_bytes == 0)
    return 0;
  struct bpf_map *map;
  bpf_object__for_each_map(map, *opened) {
    size_t bytes = 0;
    const char *name = bpf_map__name(map);
    size_t length = strlen(name);
    void *value = (void *)(uintptr_t)bpf_map__initial_value(map, &bytes);
    if (length > 7 && strcmp(name + length - 7, ".rodata") == 0 && bytes >= settings_bytes) {
      *settings = value;
      return 0;
    }
  }
  bpf_object__close(*opened);
  *opened = NULL;
  return sonde_fail(error, SONDE_SYSTEM, 0, "the compiled programs have no settings");
}

int object_load(struct bpf_object *opened, struct sonde_error *error) {
  last_words[0] = 0;
  int failed = bpf_object__load(opened);
  return failed ? fail(error, -failed, "loading the programs") : 0;
}

static int link_create(int program_fd, int ifindex, int egress) {
  struct link_create request = {
      .prog_fd = (uint32_t)program_fd,
      .target_ifindex = (uint32_t)ifindex,
      .attach_type = egress ? ATTACH_TCX_EGRESS : ATTACH_TCX_INGRESS,
      .flags = FLAG_BEFORE,
  };
  return (int)syscall(SYS_bpf, BPF_LINK_CREATE, &request, sizeof request);
}

int object_attach_tcx(struct bpf_object *opened, const char *program, int ifindex, int egress,
                      struct sonde_error *error) {
  struct bpf_program *found = bpf_object__find_program_by_name(opened, program);
  last_words[0] = 0;
  int link = found ? link_create(bpf_program__fd(found), ifindex, egress) : -1;
  if (link >= 0)
    return link;
  if (errno == ENODEV) /* deleted between open and start */
    return sonde_fail(error, SONDE_INTERFACE_INVALID, errno, "%s", strerror(errno));
  return fail(error, errno, egress ? "attaching to TCX egress" : "attaching to TCX ingress");
}

int object_probe(struct sonde_error *error) {
  /* Compares pointers: without CAP_PERFMON the verifier rejects this, like the real programs. */
  static const struct bpf_insn pass[] = {
      {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = -1},
      {.code = BPF_JMP | BPF_JNE | BPF_X, .dst_reg = BPF_REG_1, .src_reg = BPF_REG_10},
      {.code = BPF_JMP | BPF_EXIT},
  };
  libbpf_set_print(listen);
  last_words[0] = 0;
  int program = bpf_prog_load(BPF_PROG_TYPE_SCHED_CLS, "sonde_probe", "Apache-2.0", pass,
                              sizeof pass / sizeof *pass, NULL);
  if (program < 0)
    return fail(error, errno, "loading a program");
  /* No interface has this number. Only a kernel with the hook returns ENODEV. */
  int link = link_create(program, INT_MAX, 0);
  int number = link < 0 ? errno : 0;
  if (link >= 0)
    close(link);
  close(program);
  if (number == ENODEV || number == 0)
    return 0;
  if (number == EINVAL) {
    struct utsname host = {0};
    uname(&host);
    return sonde_fail(error, SONDE_BACKEND_UNAVAILABLE, number,
                      "needs a kernel with TCX (Linux 6.6 or newer), this is %.64s", host.release);
  }
  return fail(error, number, "trying a TCX link");
}

struct object object_shared(void) {
  return (struct object){embedded_shared, (size_t)(embedded_shared_end - embedded_shared)};
}

struct object object_dedicated(void) {
  return (struct object){embedded_dedicated, (size_t)(embedded_dedicated_end - embedded_dedicated)};
}
