/* names.c - see names.h. */
#include "names.h"

#include <stdlib.h>
#include <string.h>

#include "packet_layout.h"

enum { ENTRY_BYTES = 4 };

bool sonde_names_init(struct sonde_names *names) {
  names->name = calloc(1, sizeof *names->name);
  names->count = names->name ? 1 : 0;
  names->oldest = 1;
  pthread_mutex_init(&names->lock, NULL);
  return names->name != NULL;
}

void sonde_names_release(struct sonde_names *names) {
  free(names->name);
  pthread_mutex_destroy(&names->lock);
}

static bool is_in_slot(struct sonde_names *names, uint32_t number) {
  for (uint32_t slot = 0; slot < SONDE_SOURCES_MAX; slot++)
    if (atomic_load_explicit(&names->number_of[slot], memory_order_relaxed) == number)
      return true;
  return false;
}

/* Returns a number whose name may be written; 0 without memory. The lock is held. */
static uint32_t new_number(struct sonde_names *names) {
  if (names->count < SONDE_NAMES_MAX) {
    void *grown = realloc(names->name, (names->count + 1) * sizeof *names->name);
    if (!grown)
      return 0;
    names->name = grown;
    return names->count++;
  }
  while (names->oldest == 0 || is_in_slot(names, names->oldest))
    names->oldest = (names->oldest + 1) % SONDE_NAMES_MAX;
  uint32_t number = names->oldest;
  names->oldest = (number + 1) % SONDE_NAMES_MAX;
  return number;
}

bool sonde_names_set(struct sonde_names *names, uint32_t slot, const char *name) {
  char kept[SONDE_NAME_BYTES] = "";
  strncpy(kept, name, sizeof kept - 1);
  pthread_mutex_lock(&names->lock);
  uint32_t number = 0;
  while (number < names->count && strcmp(names->name[number], kept) != 0)
    number++;
  bool known = number < names->count;
  if (!known)
    number = new_number(names);
  if (!known && number)
    memcpy(names->name[number], kept, sizeof kept);
  atomic_store_explicit(&names->number_of[slot], (uint16_t)number, memory_order_release);
  pthread_mutex_unlock(&names->lock);
  return known || number;
}

void sonde_names_copy(struct sonde_names *names, uint16_t number, char into[SONDE_NAME_BYTES]) {
  pthread_mutex_lock(&names->lock);
  if (number < names->count)
    memcpy(into, names->name[number], SONDE_NAME_BYTES);
  else
    into[0] = '\0';
  pthread_mutex_unlock(&names->lock);
}

/* Appends an entry. Returns its bytes; 0 if the name is empty or does not fit. */
static uint32_t write_entry(struct sonde_names *names, uint16_t number, uint8_t *into,
                            uint32_t capacity) {
  char name[SONDE_NAME_BYTES];
  sonde_names_copy(names, number, name);
  uint16_t length = (uint16_t)strlen(name);
  if (length == 0 || capacity < (uint32_t)ENTRY_BYTES + length)
    return 0;
  memcpy(into, &number, sizeof number);
  memcpy(into + 2, &length, sizeof length);
  memcpy(into + ENTRY_BYTES, name, length);
  return (uint32_t)ENTRY_BYTES + length;
}

uint32_t sonde_names_write(struct sonde_names *names, const uint8_t *data, uint32_t bytes,
                           uint8_t *into, uint32_t capacity) {
  uint8_t seen[SONDE_NAMES_MAX / 8] = {0};
  uint32_t offset = 0, used = 0;
  capacity &= ~(uint32_t)(SONDE_NAMES_ALIGN - 1);
  for (struct sonde_packet packet; sonde_packet_layout_next(data, bytes, &offset, &packet);) {
    uint8_t *byte = &seen[packet.source >> 3], bit = (uint8_t)(1 << (packet.source & 7));
    if (*byte & bit)
      continue;
    *byte |= bit;
    used += write_entry(names, packet.source, into + used, capacity - used);
  }
  uint32_t padded = (used + SONDE_NAMES_ALIGN - 1) & ~(uint32_t)(SONDE_NAMES_ALIGN - 1);
  memset(into + used, 0, padded - used);
  return padded;
}

void sonde_names_find(const uint8_t *block, uint32_t bytes, uint16_t number,
                      char into[SONDE_NAME_BYTES]) {
  uint32_t at = 0;
  into[0] = '\0';
  while (bytes - at >= ENTRY_BYTES) {
    uint16_t found, length;
    memcpy(&found, block + at, sizeof found);
    memcpy(&length, block + at + 2, sizeof length);
    at += ENTRY_BYTES;
    if (length == 0 || length >= SONDE_NAME_BYTES || length > bytes - at)
      return;
    if (found == number) {
      memcpy(into, block + at, length);
      into[length] = '\0';
      return;
    }
    at += length;
  }
}
