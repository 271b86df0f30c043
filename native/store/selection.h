/* selection.h - checks a chunk's Bloom filter for a BPF expression, so queries can skip chunks.
 *
 * Supports `host`, `port`, `src`, `dst`, protocol names, addresses, and, or, not and
 * parentheses. An expression with any other word selects every chunk.
 */
#ifndef SONDE_STORE_SELECTION_H
#define SONDE_STORE_SELECTION_H

#include "bloom.h"

enum { SONDE_SELECTION_STEPS_MAX = 64 };

/* A program in postfix order over a stack of truth values. */
struct sonde_selection {
  uint32_t count; /* 0: everything may match */
  struct {
    enum { SONDE_SELECT_ITEM, SONDE_SELECT_TRUE, SONDE_SELECT_AND, SONDE_SELECT_OR } step;
    uint64_t hash;
  } steps[SONDE_SELECTION_STEPS_MAX];
};

/* expression: valid BPF, or NULL. seed: the store's. */
void sonde_selection_compile(struct sonde_selection *selection, const char *expression,
                             const uint64_t *seed);
bool sonde_selection_may_match(const struct sonde_selection *selection,
                               const struct sonde_bloom *bloom);

#endif
