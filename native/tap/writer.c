/* writer.c - see writer.h. */
#include "writer.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "failure.h"
#include "host/clock.h"
#include "host/thread.h"

enum {
  POLL_MS = 50,       /* a packet waits in the ring at most this long after the first … */
  AGE_MS = 50,        /* … and in an unfinished message */
  IDLE_MS = 500,      /* between two messages without packets */
  BURST_PER_SEC = 10, /* a burst above the rate: what a tenth of a second allows */
  BLOCK_PACKET = 6,
  OPTION_FLAGS = 2,
};
/* The kernel hands over a block of packets after 10 ms, later on a busy machine. */
static const uint64_t SETTLED_NS = 200000000;
/* The owner of a packet is known after CHOICE_NS. On a busy machine it may take longer. */
static const uint64_t CHOICE_NS = 20000000, CHOICE_MAX_NS = 1000000000;

struct sonde_tap_writer {
  uint32_t ring_count;
  bool live;
  uint8_t *memory; /* one mapping for all rings */
  uint64_t memory_bytes;
  struct sonde_wake wake; /* wakes the thread */
  int ready_fd;
  pthread_t thread;
  bool running;
  uint64_t max_packets;
  uint64_t max_bytes;
  _Atomic uint64_t rate;
  _Atomic bool idle;      /* the thread sleeps until the first packet */
  _Atomic bool finishing; /* the rings get no more packets */
  _Atomic bool ends;      /* destroy: return at once */
  _Atomic bool ready;     /* `message` and `data` wait for take; else the thread owns them */
  struct sonde_tap_message message;
  struct sonde_tap_choice choice;
  _Atomic uint64_t left_packets; /* not chosen */
  _Atomic uint64_t left_bytes;
  _Atomic uint64_t rate_packets; /* lost to the rate */
  _Atomic uint64_t rate_bytes;

  /* Owned by the thread. */
  uint64_t sent_packets;
  uint64_t sent_bytes;
  int64_t tokens; /* bytes that the rate allows now */
  uint64_t tokens_ns;
  uint64_t began_ms; /* when the message got its first packet */
  uint64_t pushed_ms;
  uint64_t through_ns;
  bool limited;

  pthread_mutex_t lock; /* guards the next two */
  struct sonde_tap_interface interfaces[SONDE_TAP_INTERFACES_MAX];
  uint32_t interface_count;
  uint8_t data[SONDE_TAP_MESSAGE_BYTES];
  struct sonde_tap_ring rings[];
};

/* ---- blocks ------------------------------------------------------------------------------ */

/* Returns the packet's interface number. A number past the last stands for all further ones. */
static uint32_t interface_number(struct sonde_tap_writer *writer,
                                 const struct sonde_tap_head *head) {
  uint32_t at = 0;
  for (; at < writer->interface_count; at++)
    if (writer->interfaces[at].slot == head->slot &&
        writer->interfaces[at].linktype == head->linktype)
      return at;
  if (at == SONDE_TAP_INTERFACES_MAX)
    return at - 1;
  pthread_mutex_lock(&writer->lock);
  writer->interfaces[at] = (struct sonde_tap_interface){head->slot, head->linktype};
  writer->interface_count++;
  pthread_mutex_unlock(&writer->lock);
  return at;
}

static void put_block(uint8_t *at, uint32_t number, const struct sonde_tap_head *head) {
  const uint8_t *data = (const uint8_t *)(head + 1);
  uint32_t padded = (head->caplen + 3) & ~3u, bytes = sonde_tap_block_bytes(head->caplen);
  const uint32_t front[7] = {
      BLOCK_PACKET, bytes,        number, (uint32_t)(head->time_ns >> 32), (uint32_t)head->time_ns,
      head->caplen, head->wirelen};
  const uint32_t back[4] = {OPTION_FLAGS | 4u << 16, head->direction, 0, bytes};
  memcpy(at, front, sizeof front);
  memcpy(at + sizeof front, data, head->caplen);
  memset(at + sizeof front + head->caplen, 0, padded - head->caplen);
  memcpy(at + sizeof front + padded, back, sizeof back);
}

/* ---- the message --------------------------------------------------------------------------- */

/* False if the rate does not allow the block now. */
static bool rate_allows(struct sonde_tap_writer *writer, uint32_t bytes) {
  uint64_t rate = atomic_load_explicit(&writer->rate, memory_order_relaxed);
  if (rate == 0)
    return true;
  uint64_t now = sonde_clock_ns(CLOCK_MONOTONIC);
  int64_t burst = (int64_t)(rate / BURST_PER_SEC);
  double earned = (double)(now - writer->tokens_ns) * (double)rate / 1e9;
  if (earned >= 1) {
    writer->tokens_ns = now;
    writer->tokens += (int64_t)(earned < (double)burst ? earned : (double)burst);
    writer->tokens = writer->tokens < burst ? writer->tokens : burst;
  }
  if (writer->tokens <= 0)
    return false;
  writer->tokens -= bytes;
  return true;
}

/* Returns the ring with the oldest packet, or NULL. */
static struct sonde_tap_ring *oldest_ring(struct sonde_tap_writer *writer,
                                          const struct sonde_tap_head **head) {
  struct sonde_tap_ring *found = NULL;
  for (uint32_t i = 0; i < writer->ring_count; i++) {
    const struct sonde_tap_head *one = sonde_tap_ring_peek(&writer->rings[i]);
    if (one && (!found || one->time_ns < (*head)->time_ns)) {
      found = &writer->rings[i];
      *head = one;
    }
  }
  return found;
}

static bool at_limit(const struct sonde_tap_writer *writer, uint32_t bytes) {
  return (writer->max_packets && writer->sent_packets >= writer->max_packets) ||
         (writer->max_bytes && writer->sent_bytes + bytes > writer->max_bytes);
}

static void add_block(struct sonde_tap_writer *writer, const struct sonde_tap_head *head) {
  struct sonde_tap_message *message = &writer->message;
  uint32_t bytes = sonde_tap_block_bytes(head->caplen);
  put_block(writer->data + message->bytes, interface_number(writer, head), head);
  if (message->packets++ == 0) {
    message->first_ns = message->last_ns = head->time_ns;
    writer->began_ms = sonde_clock_ms();
  }
  message->first_ns = head->time_ns < message->first_ns ? head->time_ns : message->first_ns;
  message->last_ns = head->time_ns > message->last_ns ? head->time_ns : message->last_ns;
  message->bytes += bytes;
  writer->sent_packets++;
  writer->sent_bytes += bytes;
}

static bool is_chosen(const struct sonde_tap_writer *writer, const struct sonde_tap_head *head) {
  const struct sonde_packet packet = {.data = (const uint8_t *)(head + 1),
                                      .time_ns = head->time_ns,
                                      .caplen = head->caplen,
                                      .wirelen = head->wirelen,
                                      .linktype = head->linktype,
                                      .source = head->slot,
                                      .direction = head->direction};
  return !writer->choice.wanted || writer->choice.wanted(writer->choice.context, &packet);
}

static bool is_too_young(const struct sonde_tap_writer *writer, const struct sonde_tap_head *head) {
  const struct sonde_tap_choice *choice = &writer->choice;
  if (!choice->wanted || !writer->live)
    return false;
  uint64_t now_ns = sonde_clock_ns(CLOCK_REALTIME);
  if (now_ns < head->time_ns + CHOICE_NS)
    return !atomic_load_explicit(&writer->finishing, memory_order_relaxed);
  return choice->ready && now_ns < head->time_ns + CHOICE_MAX_NS &&
         !choice->ready(choice->context, head->time_ns);
}

/* Moves packets from the rings to the message. Returns true if the message can take no more. */
static bool fill(struct sonde_tap_writer *writer) {
  const struct sonde_tap_head *head = NULL;
  struct sonde_tap_ring *ring;
  while ((ring = oldest_ring(writer, &head)) != NULL && !is_too_young(writer, head)) {
    uint32_t bytes = sonde_tap_block_bytes(head->caplen);
    if (!is_chosen(writer, head)) {
      sonde_tap_count(&writer->left_packets, 1);
      sonde_tap_count(&writer->left_bytes, bytes);
      sonde_tap_ring_drop(ring, head);
      continue;
    }
    if (writer->message.bytes + bytes > SONDE_TAP_MESSAGE_BYTES)
      return true;
    if (at_limit(writer, bytes)) {
      writer->limited = true;
      return true;
    }
    if (rate_allows(writer, bytes)) {
      add_block(writer, head);
    } else {
      sonde_tap_count(&writer->rate_packets, 1);
      sonde_tap_count(&writer->rate_bytes, bytes);
    }
    sonde_tap_ring_drop(ring, head);
  }
  writer->limited = at_limit(writer, 0);
  return writer->limited;
}

/* The time until which each ring has been emptied. Call `settled` before fill, this after it. */
static uint64_t settled(const struct sonde_tap_writer *writer) {
  uint64_t turned = UINT64_MAX;
  for (uint32_t i = 0; i < writer->ring_count; i++) {
    uint64_t one = atomic_load_explicit(&writer->rings[i].turned_ns, memory_order_acquire);
    turned = one < turned ? one : turned;
  }
  return writer->live && turned > SETTLED_NS ? turned - SETTLED_NS : 0;
}

static void note_through(struct sonde_tap_writer *writer, uint64_t through) {
  const struct sonde_tap_head *head = NULL;
  if (oldest_ring(writer, &head) && (head->time_ns < through || !writer->live))
    through = head->time_ns;
  else if (!writer->live)
    through = writer->message.last_ns;
  if (through > writer->through_ns)
    writer->through_ns = through;
}

static void push(struct sonde_tap_writer *writer, bool last) {
  struct sonde_tap_message *message = &writer->message;
  message->through_ns = writer->through_ns;
  message->interfaces = writer->interface_count;
  message->last = last;
  message->limited = writer->limited;
  writer->pushed_ms = sonde_clock_ms();
  atomic_store_explicit(&writer->ready, true, memory_order_release);
  eventfd_write(writer->ready_fd, 1);
}

/* One step of the thread. Returns false after the last message. */
static bool step(struct sonde_tap_writer *writer) {
  if (atomic_load_explicit(&writer->ready, memory_order_acquire))
    return true;
  bool finishing = atomic_load_explicit(&writer->finishing, memory_order_acquire);
  uint64_t through = settled(writer);
  bool full = fill(writer);
  note_through(writer, through);
  const struct sonde_tap_head *head = NULL;
  bool last = writer->limited || (finishing && !oldest_ring(writer, &head));
  uint64_t now = sonde_clock_ms();
  bool aged = writer->message.packets && now - writer->began_ms >= AGE_MS;
  if (full || last || aged || now - writer->pushed_ms >= IDLE_MS)
    push(writer, last);
  return !last;
}

/* Returns the time to sleep. A thread that polls while no packet comes takes the processor, and its
 * caches, from a capture thread. */
static int sleep_ms(struct sonde_tap_writer *writer) {
  if (atomic_load_explicit(&writer->ready, memory_order_acquire) || writer->message.packets)
    return POLL_MS;
  const struct sonde_tap_head *head = NULL;
  atomic_store(&writer->idle, true);
  atomic_thread_fence(memory_order_seq_cst); /* a worker stores its packet before it reads `idle` */
  if (oldest_ring(writer, &head)) {
    atomic_store_explicit(&writer->idle, false, memory_order_relaxed);
    return POLL_MS;
  }
  uint64_t quiet_ms = sonde_clock_ms() - writer->pushed_ms;
  return quiet_ms < IDLE_MS ? (int)(IDLE_MS - quiet_ms) : 0;
}

static void *run(void *argument) {
  struct sonde_tap_writer *writer = argument;
  pthread_setname_np(pthread_self(), "sonde-tap");
  writer->tokens_ns = sonde_clock_ns(CLOCK_MONOTONIC);
  writer->pushed_ms = sonde_clock_ms();
  while (!atomic_load(&writer->ends)) {
    sonde_wake_arm(&writer->wake);
    if (!step(writer))
      break;
    struct pollfd polled = {.fd = writer->wake.fd, .events = POLLIN};
    if (poll(&polled, 1, sleep_ms(writer)) > 0) {
      eventfd_t value;
      eventfd_read(writer->wake.fd, &value);
    }
    atomic_store_explicit(&writer->idle, false, memory_order_relaxed);
  }
  return NULL;
}

/* ---- for other threads --------------------------------------------------------------------- */

struct sonde_tap_ring *sonde_tap_writer_ring(struct sonde_tap_writer *writer, uint32_t worker) {
  return &writer->rings[worker];
}

void sonde_tap_writer_turn(struct sonde_tap_writer *writer, struct sonde_tap_ring *ring,
                           uint64_t now_ns) {
  atomic_store_explicit(&ring->turned_ns, now_ns, memory_order_release);
  if (sonde_tap_ring_is_empty(ring))
    return;
  atomic_thread_fence(memory_order_seq_cst); /* see sleep_ms */
  if (sonde_tap_ring_used(ring) >= SONDE_TAP_MESSAGE_BYTES / 2 ||
      atomic_load_explicit(&writer->idle, memory_order_relaxed))
    sonde_wake_signal(&writer->wake);
}

int sonde_tap_writer_take(struct sonde_tap_writer *writer, uint8_t *buffer,
                          struct sonde_tap_message *message) {
  if (!atomic_load_explicit(&writer->ready, memory_order_acquire))
    return 0;
  *message = writer->message;
  memcpy(buffer, writer->data, message->bytes);
  writer->message = (struct sonde_tap_message){0};
  atomic_store_explicit(&writer->ready, false, memory_order_release);
  sonde_wake_write(&writer->wake);
  return 1;
}

void sonde_tap_writer_choice_set(struct sonde_tap_writer *writer, struct sonde_tap_choice choice) {
  writer->choice = choice;
}

void sonde_tap_writer_counts(struct sonde_tap_writer *writer, struct sonde_tap_counts *counts) {
  /* First: a packet is matched before it is left out. */
  uint64_t left_packets = atomic_load_explicit(&writer->left_packets, memory_order_acquire);
  uint64_t left_bytes = atomic_load_explicit(&writer->left_bytes, memory_order_acquire);
  *counts = (struct sonde_tap_counts){
      .lost_rate_packets = atomic_load_explicit(&writer->rate_packets, memory_order_relaxed),
      .lost_rate_bytes = atomic_load_explicit(&writer->rate_bytes, memory_order_relaxed),
  };
  for (uint32_t i = 0; i < writer->ring_count; i++) {
    const struct sonde_tap_ring *ring = &writer->rings[i];
    counts->matched_packets += atomic_load_explicit(&ring->matched_packets, memory_order_relaxed);
    counts->matched_bytes += atomic_load_explicit(&ring->matched_bytes, memory_order_relaxed);
    counts->lost_ring_packets += atomic_load_explicit(&ring->lost_packets, memory_order_relaxed);
    counts->lost_ring_bytes += atomic_load_explicit(&ring->lost_bytes, memory_order_relaxed);
  }
  counts->matched_packets -= left_packets;
  counts->matched_bytes -= left_bytes;
}

uint32_t sonde_tap_writer_interfaces(struct sonde_tap_writer *writer,
                                     struct sonde_tap_interface *out, uint32_t max) {
  pthread_mutex_lock(&writer->lock);
  uint32_t count = writer->interface_count < max ? writer->interface_count : max;
  memcpy(out, writer->interfaces, count * sizeof *out);
  pthread_mutex_unlock(&writer->lock);
  return count;
}

void sonde_tap_writer_rate_set(struct sonde_tap_writer *writer, uint64_t rate) {
  atomic_store_explicit(&writer->rate, rate, memory_order_relaxed);
}

int sonde_tap_writer_fd(const struct sonde_tap_writer *writer) {
  return writer->ready_fd;
}

void sonde_tap_writer_finish(struct sonde_tap_writer *writer) {
  atomic_store_explicit(&writer->finishing, true, memory_order_release);
  sonde_wake_write(&writer->wake);
}

/* ---- lifetime -------------------------------------------------------------------------------- */

/* The share of each worker: a power of two. */
static uint32_t ring_bytes(uint32_t workers) {
  uint32_t bytes = SONDE_TAP_RING_BYTES;
  while (bytes > SONDE_TAP_RING_MIN && bytes > SONDE_TAP_RING_BYTES / workers)
    bytes /= 2;
  return bytes;
}

static int allocate(struct sonde_tap_writer *writer, const struct sonde_tap_config *config) {
  uint32_t bytes = ring_bytes(writer->ring_count);
  writer->memory_bytes = (uint64_t)bytes * writer->ring_count;
  void *memory = mmap(NULL, writer->memory_bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED)
    return SONDE_NO_MEMORY;
  writer->memory = memory;
  for (uint32_t i = 0; i < writer->ring_count; i++) {
    writer->rings[i].data = writer->memory + (uint64_t)i * bytes;
    writer->rings[i].bytes = bytes;
    writer->rings[i].snaplen = config->snaplen;
  }
  return SONDE_OK;
}

int sonde_tap_writer_create(const struct sonde_tap_config *config, uint32_t workers, bool live,
                            struct sonde_tap_writer **writer, struct sonde_error *error) {
  size_t size = sizeof(struct sonde_tap_writer) + workers * sizeof(struct sonde_tap_ring);
  struct sonde_tap_writer *made = aligned_alloc(64, (size + 63) & ~(size_t)63);
  if (!made)
    return sonde_fail(error, SONDE_NO_MEMORY, 0, "no memory for the tap");
  memset(made, 0, size);
  made->ring_count = workers;
  made->live = live;
  made->max_packets = config->max_packets;
  made->max_bytes = config->max_bytes;
  atomic_store(&made->rate, config->rate);
  for (; made->interface_count < config->interface_count &&
         made->interface_count < SONDE_TAP_INTERFACES_MAX;
       made->interface_count++)
    made->interfaces[made->interface_count] = config->interfaces[made->interface_count];
  pthread_mutex_init(&made->lock, NULL);
  made->wake.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  made->ready_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  int status = allocate(made, config);
  int failed = made->wake.fd < 0 || made->ready_fd < 0 ? errno : 0;
  if (status == SONDE_OK && !failed)
    failed = sonde_thread_start(&made->thread, run, made);
  if (status < 0 || failed) {
    sonde_tap_writer_destroy(made);
    return status < 0 ? sonde_fail(error, status, 0, "no memory for the tap")
                      : sonde_fail(error, SONDE_SYSTEM, failed, "%s", strerror(failed));
  }
  made->running = true;
  *writer = made;
  return SONDE_OK;
}

void sonde_tap_writer_destroy(struct sonde_tap_writer *writer) {
  if (!writer)
    return;
  if (writer->running) {
    atomic_store(&writer->ends, true);
    sonde_wake_write(&writer->wake);
    pthread_join(writer->thread, NULL);
  }
  if (writer->memory)
    munmap(writer->memory, writer->memory_bytes);
  if (writer->wake.fd >= 0)
    close(writer->wake.fd);
  if (writer->ready_fd >= 0)
    close(writer->ready_fd);
  pthread_mutex_destroy(&writer->lock);
  free(writer);
}
