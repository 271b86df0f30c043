/* sources.c - the interfaces of a session: opens, adds, removes and counts their sources.
 *
 * A slot belongs to one interface name, because flows and records refer to it. A removed interface
 * leaves its counters there, and takes the slot again when it is added again. Once every slot has a
 * name, a new interface takes the slot of a removed one that nothing refers to any more. Workers
 * get each change as a command, so no packet is lost between two lists of sources.
 */
#include "core/sources.h"

#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "failure.h"
#include "host/link_watch.h"

_Static_assert((int)SONDE_INTERFACES_MAX == (int)SONDE_SOURCES_MAX, "one slot per interface");

enum {
  RING_SHARE_MIN = 16 << 20, /* af_packet loses packets when its few blocks are all being read */
  LEAVE_MS = 250, /* after quiesce, every accepted packet can be received; see the backends */
};

/* ---- one source ------------------------------------------------------------------------- */

/* ring_bytes is for all interfaces together, but each gets enough for a burst. */
static uint32_t ring_share(uint32_t ring_bytes, uint32_t among) {
  uint32_t least = ring_bytes < RING_SHARE_MIN ? ring_bytes : RING_SHARE_MIN;
  uint32_t share = ring_bytes / (among ? among : 1);
  return share < least ? least : share;
}

static void close_source(struct sonde_source *source) {
  if (!source)
    return;
  sonde_link_watch_close(source->link);
  if (source->backend)
    source->ops->close(source->backend);
  free(source);
}

static int open_source(struct sonde_session *session, const char *name, uint32_t among,
                       struct sonde_source **out, struct sonde_error *error) {
  struct sonde_backend_config config = session->source_config;
  struct sonde_source *source = calloc(1, sizeof *source);
  if (!source) {
    if (config.file_fd >= 0)
      close(config.file_fd);
    return sonde_fail(error, SONDE_NO_MEMORY, 0, "no memory for %s", name);
  }
  config.interface = name;
  config.ring_bytes = ring_share(config.ring_bytes, among);
  source->ops = session->ops;
  atomic_store(&source->link_up, true);
  int status = source->ops->open(&config, &source->backend, error);
  if (status < 0) {
    free(source);
    return status;
  }
  source->ops->info(source->backend, &source->info);
  *out = source;
  return SONDE_OK;
}

int sonde_source_watch(struct sonde_source *source, const char *name, struct sonde_error *error) {
  if (source->info.ifindex <= 0)
    return SONDE_OK;
  char found[IF_NAMESIZE]; /* the backend's name may have a prefix: "zc:eth0" */
  const char *known = if_indextoname((unsigned)source->info.ifindex, found);
  int status = sonde_link_watch_open(known ? known : name, &source->link, error);
  if (status == SONDE_OK)
    atomic_store(&source->link_up, sonde_link_watch_is_up(source->link) != 0);
  return status;
}

/* ---- slots ------------------------------------------------------------------------------ */

static struct sonde_slot *find_slot(struct sonde_session *session, const char *name) {
  uint32_t count = atomic_load(&session->slot_count);
  for (uint32_t i = 0; i < count; i++)
    if (strcmp(session->slots[i].name, name) == 0)
      return &session->slots[i];
  return NULL;
}

static struct sonde_source *find_source(struct sonde_session *session, const char *name) {
  const struct sonde_slot *slot = find_slot(session, name);
  return slot ? slot->source : NULL;
}

static void find_references(struct sonde_worker *worker, void *sources) {
  *(uint64_t *)sources |=
      sonde_flow_table_sources(worker->table) | sonde_ring_sources(&worker->ring);
}

/* The slots that may get another name. */
static uint64_t free_slots(struct sonde_session *session) {
  uint64_t used = 0;
  for (uint32_t w = 0; w < session->worker_count; w++)
    sonde_worker_call(&session->workers[w], find_references, &used);
  for (uint32_t i = 0; i < SONDE_SOURCES_MAX; i++)
    used |= (uint64_t)(session->slots[i].source != NULL) << i;
  return ~used;
}

static void read_workers(struct sonde_session *session, uint32_t number,
                         struct sonde_slot_counters *sum) {
  *sum = (struct sonde_slot_counters){0};
  for (uint32_t w = 0; w < session->worker_count; w++) {
    struct sonde_slot_counters one;
    sonde_worker_slot_counters(&session->workers[w], number, &one);
    sum->packets_captured += one.packets_captured;
    sum->bytes_captured += one.bytes_captured;
    sum->packets_non_flow += one.packets_non_flow;
  }
}

/* Takes a slot for a new name. check_room has found that there is one. */
static struct sonde_slot *take_slot(struct sonde_session *session, const char *name) {
  uint32_t number = atomic_load(&session->slot_count);
  bool renamed = number == SONDE_SOURCES_MAX;
  if (renamed)
    number = (uint32_t)__builtin_ctzll(free_slots(session));
  struct sonde_slot *slot = &session->slots[number];
  pthread_mutex_lock(&session->info_lock);
  snprintf(slot->name, sizeof slot->name, "%s", name);
  session->names[number] = slot->name;
  if (renamed) {
    session->past.dropped += slot->past.dropped;
    session->past.freezes += slot->past.freezes;
    slot->past = (struct sonde_backend_stats){0};
    read_workers(session, number, &slot->before);
    __atomic_add_fetch(&session->renames, 1, __ATOMIC_RELEASE);
  } else {
    atomic_store(&session->slot_count, number + 1);
  }
  pthread_mutex_unlock(&session->info_lock);
  return slot;
}

/* Gives the source the slot of its name. */
static void enter(struct sonde_session *session, const char *name, struct sonde_source *source) {
  struct sonde_slot *slot = find_slot(session, name);
  slot = slot ? slot : take_slot(session, name);
  source->slot = (uint16_t)(slot - session->slots);
  struct sonde_error no_memory; /* then its stored packets have no name */
  if (session->store)
    sonde_store_name_set(session->store, source->slot, name, &no_memory);
  pthread_mutex_lock(&session->info_lock);
  slot->source = source;
  pthread_mutex_unlock(&session->info_lock);
}

static int check_room(struct sonde_session *session, const char *const *names, uint32_t count,
                      struct sonde_error *error) {
  uint32_t room = SONDE_SOURCES_MAX - atomic_load(&session->slot_count), needed = 0;
  for (uint32_t i = 0; i < count; i++)
    needed += find_slot(session, names[i]) == NULL;
  if (needed > room)
    room += (uint32_t)__builtin_popcountll(free_slots(session));
  if (needed <= room)
    return SONDE_OK;
  return sonde_fail(error, SONDE_INTERFACE_INVALID, 0,
                    "the session has had %d interfaces, and flows of the removed ones are still "
                    "active; try again when they have ended",
                    SONDE_SOURCES_MAX);
}

static int check_names(const struct sonde_session *session, const char *const *names,
                       uint32_t count, struct sonde_error *error) {
  if (count > SONDE_SOURCES_MAX)
    return sonde_fail(error, SONDE_INTERFACE_INVALID, 0,
                      "%u interfaces: a session captures from at most %d", count,
                      SONDE_SOURCES_MAX);
  if (count > 1 && !session->ops->poll_fd)
    return sonde_fail(error, SONDE_INTERFACE_INVALID, 0,
                      "backend %s captures from one interface; af_packet, pcap and xdp can capture "
                      "from several",
                      session->ops->name);
  for (uint32_t i = 0; i < count; i++)
    for (uint32_t j = 0; j < i; j++)
      if (strcmp(names[i], names[j]) == 0)
        return sonde_fail(error, SONDE_INTERFACE_INVALID, 0, "%.64s is given twice", names[i]);
  return SONDE_OK;
}

/* ---- open, start, stop, close ------------------------------------------------------------ */

int sonde_sources_open(struct sonde_session *session, const char *const *names, uint32_t count,
                       struct sonde_error *error) {
  int status = count ? check_names(session, names, count, error)
                     : sonde_fail(error, SONDE_INTERFACE_INVALID, 0, "no interface is given");
  if (status < 0) {
    if (session->source_config.file_fd >= 0)
      close(session->source_config.file_fd);
    session->source_config.file_fd = -1;
    return status;
  }
  for (uint32_t i = 0; status == SONDE_OK && i < count; i++) {
    struct sonde_source *source = NULL;
    status = open_source(session, names[i], count, &source, error);
    session->source_config.file_fd = -1;
    if (status == SONDE_OK)
      enter(session, names[i], source);
    if (status == SONDE_OK && i == 0)
      session->info = source->info;
  }
  session->source_config.queues = session->info.queues;
  return status;
}

int sonde_sources_start(struct sonde_session *session, struct sonde_error *error) {
  int status = SONDE_OK;
  for (uint32_t i = 0; status == SONDE_OK && i < session->slot_count; i++) {
    struct sonde_source *source = session->slots[i].source;
    status = source->ops->start(source->backend, error);
    for (uint32_t w = 0; status == SONDE_OK && w < session->worker_count; w++)
      sonde_worker_attach(&session->workers[w], source);
  }
  return status;
}

void sonde_sources_quiesce(struct sonde_session *session) {
  for (uint32_t i = 0; i < session->slot_count; i++) {
    struct sonde_source *source = session->slots[i].source;
    if (source)
      source->ops->quiesce(source->backend);
  }
}

void sonde_sources_close(struct sonde_session *session) {
  bool stopped = atomic_load(&session->state) == SONDE_SESSION_STOPPED;
  for (uint32_t i = 0; i < session->slot_count; i++) {
    struct sonde_source *source = session->slots[i].source;
    if (source && stopped)
      source->ops->stop(source->backend);
    close_source(source);
    session->slots[i].source = NULL;
  }
}

/* ---- change while the session runs -------------------------------------------------------- */

static bool is_named(const char *name, const char *const *names, uint32_t count) {
  for (uint32_t i = 0; i < count; i++)
    if (strcmp(name, names[i]) == 0)
      return true;
  return false;
}

/* Opens and starts the interfaces that are not captured yet. All or none. */
static int start_new(struct sonde_session *session, const char *const *names, uint32_t count,
                     struct sonde_source **made, struct sonde_error *error) {
  int status = check_room(session, names, count, error);
  for (uint32_t i = 0; status == SONDE_OK && i < count; i++) {
    if (find_source(session, names[i]))
      continue;
    status = open_source(session, names[i], count, &made[i], error);
    if (status == SONDE_OK)
      status = sonde_source_watch(made[i], names[i], error);
    if (status == SONDE_OK)
      status = made[i]->ops->start(made[i]->backend, error);
  }
  for (uint32_t i = 0; status < 0 && i < count; i++) {
    close_source(made[i]);
    made[i] = NULL;
  }
  return status;
}

static void remove_source(struct sonde_session *session, struct sonde_slot *slot) {
  struct sonde_source *source = slot->source;
  struct sonde_backend_stats last;
  for (uint32_t w = 0; w < session->worker_count; w++)
    sonde_worker_detach(&session->workers[w], source);
  pthread_mutex_lock(&session->info_lock);
  source->ops->stop(source->backend);
  source->ops->stats(source->backend, &last);
  slot->past.dropped += last.dropped;
  slot->past.freezes += last.freezes;
  slot->source = NULL;
  pthread_mutex_unlock(&session->info_lock);
  close_source(source);
}

static void remove_others(struct sonde_session *session, const char *const *names, uint32_t count) {
  bool leaves[SONDE_SOURCES_MAX] = {0};
  bool any = false;
  for (uint32_t i = 0; i < session->slot_count; i++) {
    struct sonde_slot *slot = &session->slots[i];
    leaves[i] = slot->source && !is_named(slot->name, names, count);
    if (!leaves[i])
      continue;
    any = true;
    atomic_store(&slot->source->leaving, true);
    slot->source->ops->quiesce(slot->source->backend);
  }
  if (any)
    usleep(LEAVE_MS * 1000);
  for (uint32_t i = 0; i < session->slot_count; i++)
    if (leaves[i])
      remove_source(session, &session->slots[i]);
}

int sonde_session_interfaces_set(struct sonde_session *session, const char *const *names,
                                 uint32_t count, struct sonde_error *error) {
  *error = (struct sonde_error){0};
  struct sonde_source *made[SONDE_SOURCES_MAX] = {0};
  pthread_mutex_lock(&session->control);
  int status = SONDE_OK;
  if (atomic_load(&session->state) != SONDE_SESSION_RUNNING || !session->info.live)
    status = sonde_fail(error, SONDE_STATE, 0, "no live capture is running");
  else if (!session->ops->poll_fd)
    status = sonde_fail(error, SONDE_STATE, 0, "backend %s cannot change its interface",
                        session->ops->name);
  if (status == SONDE_OK)
    status = check_names(session, names, count, error);
  if (status == SONDE_OK)
    status = start_new(session, names, count, made, error);
  for (uint32_t i = 0; status == SONDE_OK && i < count; i++) {
    if (!made[i])
      continue;
    enter(session, names[i], made[i]);
    for (uint32_t w = 0; w < session->worker_count; w++)
      sonde_worker_attach(&session->workers[w], made[i]);
  }
  if (status == SONDE_OK) {
    remove_others(session, names, count);
    sonde_monitor_refresh(session);
  }
  pthread_mutex_unlock(&session->control);
  return status;
}

/* ---- reading ------------------------------------------------------------------------------ */

static void add_stats(const struct sonde_slot *slot, struct sonde_backend_stats *sum) {
  struct sonde_backend_stats one = {0};
  if (slot->source)
    slot->source->ops->stats(slot->source->backend, &one);
  sum->dropped += slot->past.dropped + one.dropped;
  sum->freezes += slot->past.freezes + one.freezes;
  if (one.ring_used_permille > sum->ring_used_permille)
    sum->ring_used_permille = one.ring_used_permille;
}

void sonde_sources_stats(struct sonde_session *session, struct sonde_backend_stats *stats,
                         bool *link_up, char attach[static 96]) {
  const struct sonde_source *first = NULL;
  uint32_t captured = 0;
  *link_up = false;
  pthread_mutex_lock(&session->info_lock);
  *stats = session->past;
  uint32_t count = atomic_load(&session->slot_count);
  for (uint32_t i = 0; i < count; i++) {
    struct sonde_source *source = session->slots[i].source;
    add_stats(&session->slots[i], stats);
    if (!source)
      continue;
    *link_up |= atomic_load(&source->link_up);
    first = first ? first : source;
    captured++;
  }
  int length = snprintf(attach, 96, "%s", first ? first->info.attach : "no interface");
  if (captured > 1 && length < 96)
    snprintf(attach + length, 96 - (size_t)length, ", %u interfaces", captured);
  pthread_mutex_unlock(&session->info_lock);
}

int sonde_session_interface_stats(struct sonde_session *session, struct sonde_interface_stats *out,
                                  uint32_t max) {
  pthread_mutex_lock(&session->info_lock);
  uint32_t count = atomic_load(&session->slot_count);
  count = count < max ? count : max;
  for (uint32_t i = 0; i < count; i++) {
    const struct sonde_slot *slot = &session->slots[i];
    struct sonde_interface_stats *one = &out[i];
    struct sonde_backend_stats backend = {0};
    *one = (struct sonde_interface_stats){.slot = i, .captured = slot->source != NULL};
    memcpy(one->name, slot->name, sizeof one->name);
    add_stats(slot, &backend);
    one->packets_dropped = backend.dropped;
    if (slot->source) {
      one->ifindex = (uint32_t)slot->source->info.ifindex;
      one->link_up = atomic_load(&slot->source->link_up);
    }
    struct sonde_slot_counters counters;
    read_workers(session, i, &counters);
    one->packets_captured = counters.packets_captured - slot->before.packets_captured;
    one->bytes_captured = counters.bytes_captured - slot->before.bytes_captured;
    one->packets_non_flow = counters.packets_non_flow - slot->before.packets_non_flow;
  }
  pthread_mutex_unlock(&session->info_lock);
  return (int)count;
}

int sonde_session_interface_name(struct sonde_session *session, uint32_t slot,
                                 char name[SONDE_INTERFACE_NAME_MAX]) {
  if (slot >= atomic_load(&session->slot_count))
    return SONDE_INVALID;
  pthread_mutex_lock(&session->info_lock);
  memcpy(name, session->slots[slot].name, SONDE_INTERFACE_NAME_MAX);
  pthread_mutex_unlock(&session->info_lock);
  return SONDE_OK;
}
