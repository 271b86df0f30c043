/* filter_step.h - the steps of a BPF program's fast form. Private to filter_program.c and
 * filter_translate.c.
 *
 * A step loads A or executes another instruction. Then it jumps if (A & mask) - low <= span, else
 * the next step of the array follows. It has the size of half a cache line.
 */
#ifndef SONDE_CORE_FILTER_STEP_H
#define SONDE_CORE_FILTER_STEP_H

#include <stdint.h>

/* The run compares with the order of these codes. */
enum sonde_filter_code {
  SONDE_STEP_LOAD,   /* A = the word at `at` >> shift */
  SONDE_STEP_TEST,   /* loads nothing */
  SONDE_STEP_REJECT, /* ends the run, like the next two */
  SONDE_STEP_ACCEPT,
  SONDE_STEP_RETURN_A,
  SONDE_STEP_LOAD_HEADER, /* X = 4 * (data[at] & 15): the length of an IPv4 header */
  SONDE_STEP_LOAD_KEEP,   /* LOAD, then A &= keep */
  SONDE_STEP_LOAD_X,      /* LOAD_KEEP at `at` + X */
  SONDE_STEP_SET_A,       /* from here on: rare ones */
  SONDE_STEP_SET_X,
  SONDE_STEP_LENGTH_A, /* A = wirelen */
  SONDE_STEP_LENGTH_X,
  SONDE_STEP_RECALL_A, /* A = memory[at] */
  SONDE_STEP_RECALL_X,
  SONDE_STEP_STORE_A,
  SONDE_STEP_STORE_X,
  SONDE_STEP_A_TO_X,
  SONDE_STEP_X_TO_A,
  SONDE_STEP_NEGATE,
  SONDE_STEP_ARITHMETIC,                                /* A = A <operation> at */
  SONDE_STEP_ARITHMETIC_X = SONDE_STEP_ARITHMETIC + 16, /* A = A <operation> X */
  SONDE_STEP_EQUAL_X = SONDE_STEP_ARITHMETIC_X + 16,    /* jumps if A = X, and so on */
  SONDE_STEP_ABOVE_X,
  SONDE_STEP_REACHES_X,
  SONDE_STEP_SHARES_X,
};

struct sonde_filter_step {
  uint8_t code;
  uint8_t shift; /* drops the bytes behind the requested ones */
  uint16_t reserved;
  uint32_t at; /* offset, constant or memory word */
  uint32_t keep;
  uint32_t mask;
  uint32_t low;
  uint32_t span;
  int32_t jump; /* in bytes */
  uint32_t reserved2;
};

struct bpf_program;

/* Bytes that a packet must have for a program that is made for them. */
struct sonde_filter_guess {
  uint32_t at;
  uint32_t mask; /* bits of the word at `at` */
  uint32_t value;
};

/* Returns an array for free(), and the bytes that a packet needs so that no load fails in `reach`;
 * UINT32_MAX: unknown. guess: the program runs only for such packets, or NULL for all. NULL: an
 * instruction is unknown or too hard for a guess, or no memory. */
struct sonde_filter_step *sonde_filter_translate(const struct bpf_program *program,
                                                 const struct sonde_filter_guess *guess,
                                                 uint32_t *reach);

#endif
