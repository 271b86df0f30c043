/* pages.h - zeroed memory for large tables. Pages that are never written take no memory. */
#ifndef SONDE_HOST_PAGES_H
#define SONDE_HOST_PAGES_H

#include <stdint.h>
#include <sys/mman.h>

static inline void *sonde_pages_map(uint64_t bytes) { /* NULL without address space */
  void *memory =
      mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return memory == MAP_FAILED ? NULL : memory;
}

static inline void sonde_pages_unmap(void *memory, uint64_t bytes) { /* NULL is allowed */
  if (memory)
    munmap(memory, bytes);
}

#endif
