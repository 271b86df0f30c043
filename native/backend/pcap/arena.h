/* arena.h - room for the frames of one receive, copied one behind the other. */
#ifndef SONDE_PCAP_ARENA_H
#define SONDE_PCAP_ARENA_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { ARENA_BYTES = 4 << 20 };

struct arena {
  uint8_t *memory;
  uint32_t used;
  uint32_t frame_bytes_max;
};

static inline int arena_open(struct arena *arena, uint32_t frame_bytes_max) {
  *arena = (struct arena){.memory = malloc(ARENA_BYTES), .frame_bytes_max = frame_bytes_max};
  return arena->memory ? 0 : -1;
}

static inline void arena_close(struct arena *arena) {
  free(arena->memory);
  arena->memory = NULL;
}

static inline void arena_reset(struct arena *arena) {
  arena->used = 0;
}

/* How many frames fit, even if each is as long as can be. */
static inline uint32_t arena_frames(const struct arena *arena) {
  return (ARENA_BYTES - arena->used) / arena->frame_bytes_max;
}

static inline const uint8_t *arena_copy(struct arena *arena, const uint8_t *data, uint32_t length) {
  uint8_t *to = arena->memory + arena->used;
  memcpy(to, data, length);
  arena->used += length;
  return to;
}

#endif
