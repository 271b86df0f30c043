/* writer.h - the thread of a tap: from the workers' rings to messages of pcapng packet blocks.
 *
 * One message at a time waits to be taken. While it waits, packets stay in the rings, and a full
 * ring counts what it loses. So a slow reader costs memory for one message and the rings.
 */
#ifndef SONDE_TAP_WRITER_H
#define SONDE_TAP_WRITER_H

#include "host/wake.h"
#include "ring.h"
#include "tap.h"

struct sonde_tap_writer;

/* Chooses packets after the ring, on the writer's thread, 20 ms after their capture, or as soon as
 * `ready` after that. */
struct sonde_tap_choice {
  void *context;
  bool (*wanted)(void *context, const struct sonde_packet *packet); /* NULL: all packets */
  /* Whether packets of this time can be chosen. NULL: always. It is not asked for longer than a
   * second. */
  bool (*ready)(void *context, uint64_t time_ns);
};

/* Starts the thread. config: only what concerns rings and messages is used. live: packet times are
 * those of the present. Errors: NO_MEMORY, SYSTEM. */
int sonde_tap_writer_create(const struct sonde_tap_config *config, uint32_t workers, bool live,
                            struct sonde_tap_writer **writer, struct sonde_error *error);
/* Before the first packet. */
void sonde_tap_writer_choice_set(struct sonde_tap_writer *writer, struct sonde_tap_choice choice);
/* The worker's ring. Packets may be put into it until `finish`. */
struct sonde_tap_ring *sonde_tap_writer_ring(struct sonde_tap_writer *writer, uint32_t worker);
/* For workers, after each batch: wakes the thread for the first packet, and if the ring has enough
 * for a message. */
void sonde_tap_writer_turn(struct sonde_tap_writer *writer, struct sonde_tap_ring *ring,
                           uint64_t now_ns);
/* No worker puts packets any more. */
void sonde_tap_writer_finish(struct sonde_tap_writer *writer);
void sonde_tap_writer_destroy(struct sonde_tap_writer *writer); /* NULL is allowed */

int sonde_tap_writer_fd(const struct sonde_tap_writer *writer);
int sonde_tap_writer_take(struct sonde_tap_writer *writer, uint8_t *buffer,
                          struct sonde_tap_message *message);
void sonde_tap_writer_counts(struct sonde_tap_writer *writer, struct sonde_tap_counts *counts);
uint32_t sonde_tap_writer_interfaces(struct sonde_tap_writer *writer,
                                     struct sonde_tap_interface *out, uint32_t max);
void sonde_tap_writer_rate_set(struct sonde_tap_writer *writer, uint64_t rate);

#endif
