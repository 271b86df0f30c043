/* feed.c - the plug-in that loads the programs of *.bpf.c, and reads their ring; see owner_feed.h.
 *
 * Each program is attached with a link that ends with this process, next to the programs of others.
 * It needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON. ports.bpf.c and uses.bpf.c are optional, and
 * replace programs of owner.bpf.c that cost more or know less.
 */
#include "owner_feed.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "failure.h"
#include "host/cgroup_root.h"

/* clang-format off */
#define EMBED(name, path)                                                                          \
  __asm__(".section .rodata\n"                                                                     \
          ".balign 16\n"                                                                           \
          "embedded_" name ":\n"                                                                   \
          ".incbin \"" path "\"\n"                                                                 \
          "embedded_" name "_end:\n"                                                               \
          ".byte 0\n"                                                                              \
          ".text\n")
EMBED("owner", OWNER_OBJECT);
EMBED("ports", PORTS_OBJECT);
EMBED("uses", USES_OBJECT);
/* clang-format on */
extern const unsigned char embedded_owner[];
extern const unsigned char embedded_owner_end[];
extern const unsigned char embedded_ports[];
extern const unsigned char embedded_ports_end[];
extern const unsigned char embedded_uses[];
extern const unsigned char embedded_uses_end[];

enum { PROGRAMS_MAX = 16, LIST_EVENTS = 64 };

struct feed {
  struct bpf_object *object;
  struct bpf_object *ports; /* NULL: the kernel refuses it */
  struct bpf_object *uses;  /* NULL: the kernel refuses it */
  struct bpf_link *list;    /* owner_list; NULL without ports */
  struct bpf_link *calls[2];
  struct bpf_link *sends[2]; /* owner_send4 and 6, while a reader follows; NULL without uses */
  struct bpf_link *links[PROGRAMS_MAX];
  uint32_t link_count;
  struct ring_buffer *ring;
  uint64_t *taken;         /* the ring's first page; libbpf 1.1 does not give the positions */
  const uint64_t *written; /* the ring's second page */
  struct sonde_owner_control *control;
  size_t page_bytes;
  uint32_t left; /* events to take in this read */
  void (*take)(void *context, const struct sonde_owner_event *event);
  void *context;
};

static _Thread_local char last_words[128];

/* Keeps libbpf's last warning as the reason, instead of printing it. */
static int listen_to(enum libbpf_print_level level, const char *format, va_list arguments) {
  if (level == LIBBPF_WARN) {
    vsnprintf(last_words, sizeof last_words, format, arguments);
    last_words[strcspn(last_words, "\n")] = 0;
  }
  return 0;
}

static int fail(struct sonde_error *error, int number, const char *what) {
  if (number == EPERM || number == EACCES)
    return sonde_fail(error, SONDE_PERMISSION, number,
                      "owners of flows need CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN");
  return sonde_fail(error, number == ENOMEM ? SONDE_NO_MEMORY : SONDE_SYSTEM, number,
                    "owners of flows: %s: %s; %s", what, strerror(number), last_words);
}

static void drop_ports(struct feed *feed) {
  bpf_link__destroy(feed->list);
  bpf_object__close(feed->ports);
  feed->list = NULL;
  feed->ports = NULL;
}

static void drop_uses(struct feed *feed) {
  bpf_link__destroy(feed->calls[0]);
  bpf_link__destroy(feed->calls[1]);
  bpf_object__close(feed->uses);
  feed->calls[0] = feed->calls[1] = NULL;
  feed->uses = NULL;
}

static void drop_sends(struct feed *feed) {
  bpf_link__destroy(feed->sends[0]);
  bpf_link__destroy(feed->sends[1]);
  feed->sends[0] = feed->sends[1] = NULL;
}

static void feed_close(void *opened) {
  struct feed *feed = opened;
  drop_sends(feed);
  for (uint32_t i = 0; i < feed->link_count; i++)
    bpf_link__destroy(feed->links[i]);
  drop_ports(feed);
  drop_uses(feed);
  ring_buffer__free(feed->ring);
  if (feed->control)
    munmap(feed->control, feed->page_bytes);
  if (feed->taken)
    munmap(feed->taken, feed->page_bytes);
  if (feed->written)
    munmap((void *)feed->written, feed->page_bytes);
  bpf_object__close(feed->object);
  libbpf_set_print(NULL); /* libbpf may stay in memory, and this plug-in does not */
  free(feed);
}

static int take_event(void *context, void *data, size_t bytes) {
  struct feed *feed = context;
  if (bytes >= sizeof(struct sonde_owner_event))
    feed->take(feed->context, data);
  return --feed->left ? 0 : -EAGAIN;
}

/* Attaches a program to the root control group. Returns 0, or a negative errno. */
static int attach(struct feed *feed, struct bpf_program *program, int cgroup) {
  if (feed->link_count == PROGRAMS_MAX)
    return -E2BIG;
  struct bpf_link *link = bpf_program__attach_cgroup(program, cgroup);
  if (!link)
    return -errno;
  feed->links[feed->link_count++] = link;
  return 0;
}

/* Loads an object with the maps of owner.bpf.c. Returns 0, or a negative errno. */
static int load_next(struct feed *feed, const unsigned char *start, const unsigned char *end,
                     struct bpf_object **object) {
  struct bpf_map *map;
  int failed = 0;
  *object = bpf_object__open_mem(start, (size_t)(end - start), NULL);
  if (!*object)
    return -errno;
  bpf_object__for_each_map(map, *object) {
    struct bpf_map *same = bpf_object__find_map_by_name(feed->object, bpf_map__name(map));
    failed |= same ? bpf_map__reuse_fd(map, bpf_map__fd(same)) : 0;
  }
  return failed ? failed : bpf_object__load(*object);
}

/* Loads ports.bpf.c. Without it, `ports` stays NULL. */
static void load_ports(struct feed *feed, int cgroup) {
  int failed = load_next(feed, embedded_ports, embedded_ports_end, &feed->ports);
  if (!failed) {
    feed->list =
        bpf_program__attach_iter(bpf_object__find_program_by_name(feed->ports, "owner_list"), NULL);
    failed = !feed->list ||
             attach(feed, bpf_object__find_program_by_name(feed->ports, "owner_port"), cgroup);
  }
  if (failed)
    drop_ports(feed);
}

/* Loads uses.bpf.c. Without it, `uses` stays NULL. */
static void load_uses(struct feed *feed) {
  static const char *const names[] = {"owner_sent", "owner_received"};
  int failed = load_next(feed, embedded_uses, embedded_uses_end, &feed->uses);
  for (size_t i = 0; !failed && i < sizeof names / sizeof *names; i++) {
    feed->calls[i] =
        bpf_program__attach_trace(bpf_object__find_program_by_name(feed->uses, names[i]));
    failed = !feed->calls[i];
  }
  if (failed)
    drop_uses(feed);
}

/* Returns the file descriptor of the root control group, or an error. */
static int open_root(struct sonde_error *error) {
  char mount[512];
  int cgroup = sonde_cgroup_root_open(mount, sizeof mount);
  return cgroup >= 0 ? cgroup
                     : sonde_fail(error, SONDE_BACKEND_UNAVAILABLE, 0,
                                  "owners of flows need a mount of the root of cgroup version 2");
}

/* Whether a program of an optional object does the work of this one. */
static bool is_replaced(const struct feed *feed, const char *name) {
  bool sends = strcmp(name, "owner_send4") == 0 || strcmp(name, "owner_send6") == 0;
  return (sends && feed->uses) || (feed->ports && strcmp(name, "owner_release") == 0);
}

static int attach_all(struct feed *feed, struct sonde_error *error) {
  int cgroup = open_root(error), failed = 0;
  if (cgroup < 0)
    return cgroup;
  load_ports(feed, cgroup);
  load_uses(feed);
  struct bpf_program *program;
  bpf_object__for_each_program(program, feed->object) {
    failed = is_replaced(feed, bpf_program__name(program)) ? 0 : attach(feed, program, cgroup);
    if (failed)
      break;
  }
  close(cgroup);
  return failed ? fail(error, -failed, bpf_program__name(program)) : SONDE_OK;
}

/* Maps one page. Returns NULL if the kernel refuses. */
static void *map_page(const struct feed *feed, int map, int protection, uint32_t page) {
  void *mapped =
      mmap(NULL, feed->page_bytes, protection, MAP_SHARED, map, (off_t)(page * feed->page_bytes));
  return mapped == MAP_FAILED ? NULL : mapped;
}

static int map_rings(struct feed *feed, struct sonde_error *error) {
  int ring = bpf_object__find_map_fd_by_name(feed->object, "ring");
  int control = bpf_object__find_map_fd_by_name(feed->object, "control");
  feed->page_bytes = (size_t)sysconf(_SC_PAGESIZE);
  feed->control = map_page(feed, control, PROT_READ | PROT_WRITE, 0);
  feed->taken = map_page(feed, ring, PROT_READ, 0);
  feed->written = map_page(feed, ring, PROT_READ, 1);
  if (!feed->control || !feed->taken || !feed->written)
    return fail(error, errno, "mapping the counters");
  feed->ring = ring_buffer__new(ring, take_event, feed, NULL);
  return feed->ring ? SONDE_OK : fail(error, errno, "mapping the ring");
}

static int feed_open(uint32_t ring_bytes, void **opened, struct sonde_error *error) {
  struct feed *feed = calloc(1, sizeof *feed);
  if (!feed)
    return sonde_fail(error, SONDE_NO_MEMORY, 0, "owners of flows");
  libbpf_set_print(listen_to);
  last_words[0] = 0;
  feed->object =
      bpf_object__open_mem(embedded_owner, (size_t)(embedded_owner_end - embedded_owner), NULL);
  int status = feed->object ? SONDE_OK : fail(error, errno, "reading the programs");
  if (status == SONDE_OK) {
    struct bpf_map *ring = bpf_object__find_map_by_name(feed->object, "ring");
    int failed = ring ? bpf_map__set_max_entries(ring, ring_bytes) : -ENOENT;
    failed = failed ? failed : bpf_object__load(feed->object);
    status = failed ? fail(error, -failed, "loading the programs") : SONDE_OK;
  }
  status = status ? status : map_rings(feed, error);
  status = status ? status : attach_all(feed, error);
  if (status < 0)
    feed_close(feed);
  else
    *opened = feed;
  return status;
}

static int feed_fd(void *opened) {
  return ring_buffer__epoll_fd(((struct feed *)opened)->ring);
}

static void feed_arm(void *opened) {
  __atomic_store_n(&((struct feed *)opened)->control->armed, 1, __ATOMIC_SEQ_CST);
}

static uint32_t feed_read(void *opened, uint32_t max,
                          void (*take)(void *context, const struct sonde_owner_event *event),
                          void *context) {
  struct feed *feed = opened;
  feed->left = max;
  feed->take = take;
  feed->context = context;
  ring_buffer__consume(feed->ring);
  return max - feed->left;
}

static int feed_list(void *opened, bool all,
                     void (*take)(void *context, const struct sonde_owner_event *event),
                     void *context) {
  struct feed *feed = opened;
  struct sonde_owner_event events[LIST_EVENTS];
  size_t have = 0;
  ssize_t got;
  int fd = feed->list ? bpf_iter_create(bpf_link__fd(feed->list)) : -1;
  if (fd < 0)
    return SONDE_BACKEND_UNAVAILABLE;
  __atomic_store_n(&feed->control->list_all, all, __ATOMIC_SEQ_CST);
  while ((got = read(fd, (char *)events + have, sizeof events - have)) > 0) {
    have += (size_t)got;
    for (size_t i = 0; i < have / sizeof *events; i++)
      take(context, &events[i]);
    memmove(events, events + have / sizeof *events, have % sizeof *events);
    have %= sizeof *events;
  }
  close(fd);
  return SONDE_OK;
}

static int feed_follow(void *opened, bool follows, struct sonde_error *error) {
  static const char *const names[] = {"owner_send4", "owner_send6"};
  struct feed *feed = opened;
  drop_sends(feed);
  if (!follows || !feed->uses)
    return SONDE_OK;
  int cgroup = open_root(error), failed = 0;
  if (cgroup < 0)
    return cgroup;
  for (size_t i = 0; !failed && i < sizeof names / sizeof *names; i++) {
    feed->sends[i] = bpf_program__attach_cgroup(
        bpf_object__find_program_by_name(feed->object, names[i]), cgroup);
    failed = feed->sends[i] ? 0 : errno;
  }
  close(cgroup);
  if (!failed)
    return SONDE_OK;
  drop_sends(feed);
  return fail(error, failed, "attaching the programs of sends");
}

static uint64_t feed_written(void *opened) {
  return __atomic_load_n(((struct feed *)opened)->written, __ATOMIC_ACQUIRE);
}

static uint64_t feed_taken(void *opened) {
  return __atomic_load_n(((struct feed *)opened)->taken, __ATOMIC_ACQUIRE);
}

static bool feed_has_ports(void *opened) {
  return ((struct feed *)opened)->ports != NULL;
}

static bool feed_sees_uses(void *opened) {
  return ((struct feed *)opened)->uses != NULL;
}

static const volatile struct sonde_owner_control *feed_control(void *opened) {
  return ((struct feed *)opened)->control;
}

static const struct sonde_owner_feed_ops ops = {
    .abi = SONDE_OWNER_FEED_ABI,
    .open = feed_open,
    .fd = feed_fd,
    .arm = feed_arm,
    .read = feed_read,
    .written = feed_written,
    .taken = feed_taken,
    .has_ports = feed_has_ports,
    .sees_uses = feed_sees_uses,
    .follow = feed_follow,
    .list = feed_list,
    .control = feed_control,
    .close = feed_close,
};

__attribute__((visibility("default"))) const struct sonde_owner_feed_ops *sonde_owner_feed(void);
const struct sonde_owner_feed_ops *sonde_owner_feed(void) {
  return &ops;
}
