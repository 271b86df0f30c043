/* filter_program.c - see filter_program.h. Runs the steps that filter_translate.c makes.
 *
 * A load beyond the captured bytes, and a division by zero, end the program without a match, as in
 * libpcap. An interpreter spends its time on the indirect jump to the code of each instruction. The
 * loop here has none: nearly all steps are the same load with other numbers, and the processor
 * predicts the branches between them. A compiler to machine code would be faster, but the agent's
 * unit forbids writable code.
 */
#include "core/filter_program.h"

#include <pcap/pcap.h>
#include <stdlib.h>
#include <string.h>

#include "core/filter_step.h"

static const struct sonde_filter_guess ipv4 = {
    .at = SONDE_GLANCE_AT, .mask = SONDE_GLANCE_MASK, .value = SONDE_GLANCE_VALUE};

struct form {
  struct sonde_filter_step *steps;
  uint32_t reach; /* bytes of a packet, so that no load fails */
};

struct sonde_filter_program {
  struct form any;
  struct form ipv4; /* steps NULL: none */
};

struct sonde_filter_program *sonde_filter_program_make(const struct bpf_program *program,
                                                       bool ethernet) {
  struct sonde_filter_program *made = calloc(1, sizeof *made);
  if (!made)
    return NULL;
  made->any.steps = sonde_filter_translate(program, NULL, &made->any.reach);
  if (!made->any.steps) {
    free(made);
    return NULL;
  }
  if (ethernet)
    made->ipv4.steps = sonde_filter_translate(program, &ipv4, &made->ipv4.reach);
  if (!made->ipv4.steps || made->ipv4.reach < ipv4.at + 4)
    made->ipv4.reach = made->ipv4.steps ? ipv4.at + 4 : UINT32_MAX;
  return made;
}

struct sonde_filter_glance sonde_filter_program_glance(const struct sonde_filter_program *program) {
  return program->ipv4.steps ? sonde_filter_glance_make(program->ipv4.steps, program->ipv4.reach)
                             : sonde_filter_no_glance;
}

void sonde_filter_program_destroy(struct sonde_filter_program *program) {
  if (!program)
    return;
  free(program->any.steps);
  free(program->ipv4.steps);
  free(program);
}

/* ---- steps -------------------------------------------------------------------------------------
 */

static inline uint32_t read_word(const uint8_t *at) {
  uint32_t value;
  memcpy(&value, at, sizeof value);
  return __builtin_bswap32(value);
}

struct machine {
  uint32_t a;
  uint32_t x;
  uint32_t memory[BPF_MEMWORDS];
};

/* Reads the last bytes of a packet. False: beyond the captured bytes. */
static bool read_at_end(const uint8_t *data, uint32_t caplen, uint64_t at, uint32_t shift,
                        uint32_t *value) {
  uint32_t bytes = 4 - shift / 8;
  if (at + bytes > caplen)
    return false;
  *value = 0;
  for (uint32_t i = 0; i < bytes; i++)
    *value = *value << 8 | data[at + i];
  return true;
}

enum outcome { PASSED, TAKEN, FAILED };

static enum outcome calculate(uint32_t operation, uint32_t *a, uint32_t b) {
  switch (operation << 4) {
  case BPF_ADD:
    *a += b;
    return TAKEN;
  case BPF_SUB:
    *a -= b;
    return TAKEN;
  case BPF_MUL:
    *a *= b;
    return TAKEN;
  case BPF_DIV:
    *a = b ? *a / b : 0;
    return b ? TAKEN : FAILED;
  case BPF_MOD:
    *a = b ? *a % b : 0;
    return b ? TAKEN : FAILED;
  case BPF_OR:
    *a |= b;
    return TAKEN;
  case BPF_AND:
    *a &= b;
    return TAKEN;
  case BPF_XOR:
    *a ^= b;
    return TAKEN;
  case BPF_LSH:
    *a = b < 32 ? *a << b : 0;
    return TAKEN;
  default: /* BPF_RSH */
    *a = b < 32 ? *a >> b : 0;
    return TAKEN;
  }
}

/* Executes a step that few programs have. */
static __attribute__((noinline)) enum outcome run_rare(const struct sonde_filter_step *step,
                                                       struct machine *machine, uint32_t wirelen) {
  uint32_t *a = &machine->a, *x = &machine->x, at = step->at;
  switch (step->code) {
  case SONDE_STEP_SET_A:
    *a = at;
    return TAKEN;
  case SONDE_STEP_SET_X:
    *x = at;
    return TAKEN;
  case SONDE_STEP_LENGTH_A:
    *a = wirelen;
    return TAKEN;
  case SONDE_STEP_LENGTH_X:
    *x = wirelen;
    return TAKEN;
  case SONDE_STEP_RECALL_A:
    *a = machine->memory[at];
    return TAKEN;
  case SONDE_STEP_RECALL_X:
    *x = machine->memory[at];
    return TAKEN;
  case SONDE_STEP_STORE_A:
    machine->memory[at] = *a;
    return TAKEN;
  case SONDE_STEP_STORE_X:
    machine->memory[at] = *x;
    return TAKEN;
  case SONDE_STEP_A_TO_X:
    *x = *a;
    return TAKEN;
  case SONDE_STEP_X_TO_A:
    *a = *x;
    return TAKEN;
  case SONDE_STEP_NEGATE:
    *a = 0u - *a;
    return TAKEN;
  case SONDE_STEP_EQUAL_X:
    return *a == *x ? TAKEN : PASSED;
  case SONDE_STEP_ABOVE_X:
    return *a > *x ? TAKEN : PASSED;
  case SONDE_STEP_REACHES_X:
    return *a >= *x ? TAKEN : PASSED;
  case SONDE_STEP_SHARES_X:
    return *a & *x ? TAKEN : PASSED;
  default:
    return step->code >= SONDE_STEP_ARITHMETIC_X
               ? calculate(step->code - SONDE_STEP_ARITHMETIC_X, a, *x)
               : calculate(step->code - SONDE_STEP_ARITHMETIC, a, at);
  }
}

static inline const struct sonde_filter_step *jumped(const struct sonde_filter_step *step) {
  return (const void *)((const char *)step + step->jump);
}

/* The state of one run. */
struct run {
  const uint8_t *data;
  uint32_t caplen;
  uint32_t wirelen;
  uint64_t x;
  uint32_t a;
  struct machine *machine; /* NULL until a step needs it */
};

static bool load(struct run *run, const struct sonde_filter_step *step, uint64_t at) {
  if (at + 4 <= run->caplen)
    run->a = read_word(run->data + at) >> step->shift;
  else if (!read_at_end(run->data, run->caplen, at, step->shift, &run->a))
    return false;
  run->a &= step->keep;
  return true;
}

/* Executes a step with all checks. */
static enum outcome run_checked(struct run *run, const struct sonde_filter_step *step) {
  switch (step->code) {
  case SONDE_STEP_LOAD:
  case SONDE_STEP_LOAD_KEEP:
    if (!load(run, step, step->at))
      return FAILED;
    break;
  case SONDE_STEP_LOAD_X:
    if (!load(run, step, step->at + run->x))
      return FAILED;
    break;
  case SONDE_STEP_LOAD_HEADER:
    if (step->at >= run->caplen)
      return FAILED;
    run->x = (run->data[step->at] & 15u) << 2;
    break;
  case SONDE_STEP_TEST:
    break;
  default: {
    run->machine->a = run->a;
    run->machine->x = (uint32_t)run->x;
    enum outcome outcome = run_rare(step, run->machine, run->wirelen);
    run->a = run->machine->a;
    run->x = run->machine->x;
    return outcome;
  }
  }
  return (run->a & step->mask) - step->low <= step->span ? TAKEN : PASSED;
}

static bool ends(const struct sonde_filter_step *step) {
  return step->code >= SONDE_STEP_REJECT && step->code <= SONDE_STEP_RETURN_A;
}

/* For packets shorter than `reach`, and for programs with rare steps. */
static __attribute__((noinline)) bool run_any(const struct sonde_filter_step *step,
                                              const uint8_t *data, uint32_t caplen,
                                              uint32_t wirelen) {
  struct machine machine;
  struct run run = {.data = data, .caplen = caplen, .wirelen = wirelen, .machine = &machine};
  while (!ends(step)) {
    enum outcome outcome = run_checked(&run, step);
    if (outcome == FAILED)
      return false;
    step = outcome == TAKEN ? jumped(step) : step + 1;
  }
  return step->code == SONDE_STEP_ACCEPT || (step->code == SONDE_STEP_RETURN_A && run.a);
}

/* For packets with `reach` bytes: no load fails, and no step is rare. */
static inline bool run_fast(const struct sonde_filter_step *step, const uint8_t *data) {
  uint64_t x = 0;
  uint32_t a = 0;
  for (;;) {
    if (__builtin_expect(step->code == SONDE_STEP_LOAD, 1)) {
      a = read_word(data + step->at) >> step->shift;
    } else if (step->code >= SONDE_STEP_LOAD_KEEP) {
      uint64_t more = step->code == SONDE_STEP_LOAD_X ? x : 0;
      a = read_word(data + step->at + more) >> step->shift & step->keep;
    } else if (step->code == SONDE_STEP_LOAD_HEADER) {
      x = (data[step->at] & 15u) << 2;
      step = jumped(step);
      continue;
    } else if (step->code != SONDE_STEP_TEST) {
      return step->code == SONDE_STEP_ACCEPT || (step->code == SONDE_STEP_RETURN_A && a);
    }
    /* A branch, not a select: the processor need not wait for the comparison. */
    if (__builtin_expect_with_probability((a & step->mask) - step->low <= step->span, 1, 0.7))
      step = jumped(step);
    else
      step++;
  }
}

bool sonde_filter_program_run(const struct sonde_filter_program *program, const uint8_t *data,
                              uint32_t caplen, uint32_t wirelen) {
  if (caplen >= program->ipv4.reach && (read_word(data + ipv4.at) & ipv4.mask) == ipv4.value)
    return run_fast(program->ipv4.steps, data);
  if (caplen >= program->any.reach)
    return run_fast(program->any.steps, data);
  return run_any(program->any.steps, data, caplen, wirelen);
}
