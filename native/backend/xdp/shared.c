/* shared.c - opens, attaches and closes a shared capture; see shared.h. */
#include "shared.h"

#include <bpf/bpf.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/random.h>

#include "host/plugin.h"

enum {
  SLOTS_MIN = 64, /* one word of bits */
  SLOTS_MAX = 1 << 20,
  RING_MIN = 1 << 16,
  RING_MAX = 1 << 30,
  FRAME_RING_MIN = 1 << 19, /* the largest frame fits */
};

static uint32_t power_of_two_down(uint32_t number, uint32_t least, uint32_t most) {
  uint32_t power = least;
  while (power < most && power * 2 <= number)
    power *= 2;
  return power;
}

static struct bpf_map *find_map(const struct shared *shared, const char *name) {
  return bpf_object__find_map_by_name(shared->object, name);
}

/* Splits the granted memory between slots and rings when both are needed. */
static void divide_memory(const struct sonde_backend_config *config, struct shared *shared) {
  uint32_t each = config->ring_bytes / shared->queue_count;
  if (config->aggregate) {
    shared->slot_count =
        power_of_two_down(each / 2 / sizeof(struct xdp_slot), SLOTS_MIN, SLOTS_MAX);
    shared->ring_bytes = power_of_two_down(each / 2, RING_MIN, RING_MAX);
  } else {
    uint32_t least = config->snaplen > RING_MIN / 2 ? FRAME_RING_MIN : RING_MIN;
    shared->ring_bytes = power_of_two_down(each, least, RING_MAX);
  }
}

static int apply_settings(const struct sonde_backend_config *config, struct shared *shared,
                          struct xdp_settings *settings, struct sonde_error *error) {
  uint32_t slots = shared->slot_count * shared->queue_count;
  settings->queues = shared->queue_count;
  settings->slot_count = shared->slot_count;
  settings->snaplen = config->snaplen;
  settings->tunnels = config->tunnels != 0;
  if (config->vxlan_ports)
    memcpy(settings->vxlan_ports, config->vxlan_ports, sizeof settings->vxlan_ports);
  settings->labels = config->aggregate ? config->labels : 0;
  settings->bare = shared->interface.linktype == SONDE_LINKTYPE_RAW;
  if (getrandom(settings->secret, sizeof settings->secret, 0) != sizeof settings->secret)
    return sonde_fail(error, SONDE_SYSTEM, errno, "getrandom: %s", strerror(errno));
  bpf_map__set_max_entries(find_map(shared, "slots"), slots ? slots : 1);
  bpf_map__set_max_entries(find_map(shared, "tags"), slots ? slots / XDP_SLOT_WAYS : 1);
  bpf_map__set_max_entries(find_map(shared, "bits"), slots ? slots / 64 : 1);
  bpf_map__set_max_entries(find_map(shared, "openings"), settings->labels ? XDP_OPENINGS : 1);
  return object_load(shared->object, error);
}

static void *map_memory(struct bpf_map *map, uint64_t bytes, struct mapping *mapping) {
  uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
  mapping->bytes = (bytes + page - 1) / page * page;
  void *memory =
      mmap(NULL, mapping->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, bpf_map__fd(map), 0);
  mapping->memory = memory == MAP_FAILED ? NULL : memory;
  return mapping->memory;
}

static int map_slots(struct shared *shared, struct sonde_error *error) {
  uint64_t slots = (uint64_t)shared->slot_count * shared->queue_count;
  void *slot = map_memory(find_map(shared, "slots"), (slots ? slots : 1) * sizeof(struct xdp_slot),
                          &shared->maps[0]);
  void *tag = map_memory(find_map(shared, "tags"), (slots ? slots : 1) * sizeof(uint32_t),
                         &shared->maps[1]);
  void *bit = map_memory(find_map(shared, "bits"), (slots ? slots / 64 : 1) * sizeof(uint64_t),
                         &shared->maps[2]);
  struct bpf_map *map;
  bpf_object__for_each_map(map, shared->object) {
    const char *name = bpf_map__name(map);
    size_t length = strlen(name);
    if (length > 4 && strcmp(name + length - 4, ".bss") == 0)
      shared->control =
          map_memory(map, XDP_QUEUES_MAX * sizeof(struct xdp_control), &shared->maps[3]);
  }
  if (!slot || !tag || !bit || !shared->control)
    return sonde_fail(error, SONDE_NO_MEMORY, errno, "cannot map the slots: %s", strerror(errno));
  return 0;
}

static int open_queue(struct shared *shared, uint32_t number, struct sonde_error *error) {
  struct shared_queue *queue = &shared->queues[number];
  int status = sonde_wake_open(&queue->wake_fd, error);
  status = status ? status : bpf_ring_open(&queue->ring, shared->ring_bytes, error);
  if (status)
    return status;
  if (bpf_map_update_elem(bpf_map__fd(find_map(shared, "rings")), &number, &queue->ring.fd, 0))
    return sonde_fail(error, SONDE_SYSTEM, errno, "cannot add a ring to the map: %s",
                      strerror(errno));
  queue->slots.slot =
      (struct xdp_slot *)shared->maps[0].memory + (size_t)number * shared->slot_count;
  queue->slots.tags = (struct xdp_tags *)shared->maps[1].memory +
                      (size_t)number * (shared->slot_count / XDP_SLOT_WAYS);
  queue->slots.bits =
      (uint64_t *)shared->maps[2].memory + (size_t)number * (shared->slot_count / 64);
  queue->slots.count = shared->slot_count;
  slots_use(&queue->slots, &shared->control[number].slots_used);
  return 0;
}

static int open_queues(struct shared *shared, struct sonde_error *error) {
  shared->queues = calloc(shared->queue_count, sizeof *shared->queues);
  if (!shared->queues)
    return sonde_fail_memory(error);
  for (uint32_t i = 0; i < shared->queue_count; i++)
    shared->queues[i].wake_fd = shared->queues[i].ring.fd = -1;
  int status = 0;
  for (uint32_t i = 0; i < shared->queue_count && !status; i++)
    status = open_queue(shared, i, error);
  return status;
}

int shared_open(const struct sonde_backend_config *config, const struct sonde_interface *interface,
                struct shared **out, struct sonde_error *error) {
  struct shared *shared = calloc(1, sizeof *shared);
  void *settings = NULL;
  if (!shared)
    return sonde_fail_memory(error);
  shared->interface = *interface;
  shared->promiscuous = config->promiscuous != 0;
  shared->links[0] = shared->links[1] = shared->promiscuous_fd = -1;
  shared->queue_count = sonde_queue_count(config->queues, XDP_QUEUES_MAX);
  divide_memory(config, shared);
  int status =
      object_open(object_shared(), &shared->object, &settings, sizeof(struct xdp_settings), error);
  status = status ? status : apply_settings(config, shared, settings, error);
  status = status ? status : map_slots(shared, error);
  status = status ? status : open_queues(shared, error);
  if (status) {
    shared_close(shared);
    return status;
  }
  shared->counts_fd = bpf_map__fd(find_map(shared, "counts"));
  *out = shared;
  return 0;
}

void shared_info(const struct shared *shared, struct sonde_backend_info *info) {
  *info = (struct sonde_backend_info){.queues = shared->queue_count,
                                      .aggregated = shared->slot_count > 0,
                                      .live = 1,
                                      .ifindex = shared->interface.index};
  const char *hooks = shared->interface.loopback ? "tcx ingress" : "tcx ingress+egress";
  uint32_t kib = shared->ring_bytes / 1024 * shared->queue_count;
  if (shared->slot_count) {
    snprintf(info->attach, sizeof info->attach,
             "%s, flows added up in the kernel, %u slots, ring %u KiB", hooks,
             shared->slot_count * shared->queue_count, kib);
  } else {
    snprintf(info->attach, sizeof info->attach, "%s, packets, ring %u KiB", hooks, kib);
  }
}

/* Closing a link waits until its program no longer runs. */
static void detach(struct shared *shared) {
  sonde_fd_close(&shared->links[0]);
  sonde_fd_close(&shared->links[1]);
  sonde_fd_close(&shared->promiscuous_fd);
}

/* Loopback shows each packet twice, so only ingress is attached there. */
int shared_start(struct shared *shared, struct sonde_error *error) {
  int ifindex = shared->interface.index;
  if (shared->promiscuous) {
    shared->promiscuous_fd = sonde_interface_promiscuous(&shared->interface, error);
    if (shared->promiscuous_fd < 0)
      return shared->promiscuous_fd;
  }
  shared->links[0] = object_attach_tcx(shared->object, "ingress", ifindex, 0, error);
  if (shared->links[0] >= 0 && !shared->interface.loopback)
    shared->links[1] = object_attach_tcx(shared->object, "egress", ifindex, 1, error);
  int status = shared->links[0] < 0                                  ? shared->links[0]
               : shared->interface.loopback || shared->links[1] >= 0 ? 0
                                                                     : shared->links[1];
  if (status) {
    shared->links[0] = shared->links[0] < 0 ? -1 : shared->links[0];
    detach(shared);
  }
  return status;
}

/* The interface was recreated: the kernel removed the old links with the old one. */
int shared_reopen(struct shared *shared, struct sonde_error *error) {
  struct sonde_interface found;
  int status = sonde_interface_find(shared->interface.name, SONDE_TAP_HOOK, &found, error);
  if (status)
    return status;
  if (found.linktype != shared->interface.linktype) {
    return sonde_fail(error, SONDE_INTERFACE_INVALID, 0,
                      "%s: the link type changed; restart the session", found.name);
  }
  detach(shared);
  shared->interface = found;
  return shared_start(shared, error);
}

void shared_wake(struct shared *shared) {
  for (uint32_t i = 0; i < shared->queue_count; i++)
    eventfd_write(shared->queues[i].wake_fd, 1);
}

void shared_quiesce(struct shared *shared) {
  detach(shared);
  atomic_store(&shared->quiesced, true);
  shared_wake(shared);
}

static uint64_t read_count(const struct shared *shared, uint32_t which) {
  uint64_t total = 0;
  int processors = libbpf_num_possible_cpus();
  uint64_t *values = processors > 0 ? calloc((size_t)processors, sizeof *values) : NULL;
  if (values && bpf_map_lookup_elem(shared->counts_fd, &which, values) == 0)
    for (int i = 0; i < processors; i++)
      total += values[i];
  free(values);
  return total;
}

void shared_stats(struct shared *shared, struct sonde_backend_stats *stats) {
  *stats = (struct sonde_backend_stats){
      .dropped = read_count(shared, XDP_COUNT_DROPPED) + shared->left_behind,
      .freezes = read_count(shared, XDP_COUNT_FULL),
  };
  for (uint32_t i = 0; i < shared->queue_count; i++) {
    const struct bpf_ring *ring = &shared->queues[i].ring;
    uint64_t read = __atomic_load_n(ring->consumer, __ATOMIC_ACQUIRE);
    uint64_t used = (bpf_ring_written(ring) - read) * 1000 / ring->bytes;
    stats->ring_used_permille = used > stats->ring_used_permille ? used : stats->ring_used_permille;
  }
}

/* Counts the packets that were not read, as dropped. */
static uint64_t count_left(struct shared_queue *queue) {
  const struct xdp_record *record;
  uint64_t lost = 0;
  while ((record = bpf_ring_next(&queue->ring))) {
    const struct sonde_delta *delta = (const void *)(record + 1);
    lost +=
        record->kind == XDP_RECORD_DELTA ? delta->packets[0] + delta->packets[1] : record->segments;
  }
  bpf_ring_release(&queue->ring);
  slots_begin(&queue->slots, UINT64_MAX);
  for (uint32_t count = SHARED_BATCH_MAX; count == SHARED_BATCH_MAX;) {
    count = slots_read(&queue->slots, queue->deltas, SHARED_BATCH_MAX);
    for (uint32_t i = 0; i < count; i++)
      lost += queue->deltas[i].packets[0] + queue->deltas[i].packets[1];
  }
  return lost;
}

void shared_stop(struct shared *shared) {
  detach(shared);
  for (uint32_t i = 0; i < shared->queue_count; i++)
    shared->left_behind += count_left(&shared->queues[i]);
}

void shared_close(struct shared *shared) {
  detach(shared);
  for (uint32_t i = 0; shared->queues && i < shared->queue_count; i++) {
    sonde_fd_close(&shared->queues[i].wake_fd);
    bpf_ring_close(&shared->queues[i].ring);
  }
  free(shared->queues);
  for (size_t i = 0; i < sizeof shared->maps / sizeof shared->maps[0]; i++)
    if (shared->maps[i].memory)
      munmap(shared->maps[i].memory, shared->maps[i].bytes);
  bpf_object__close(shared->object);
  free(shared);
}
