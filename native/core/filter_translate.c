/* filter_translate.c - makes the steps of filter_step.h from a BPF program.
 *
 * Instructions are visited in order, with what is known of A and X before each. An instruction
 * whose result is known needs no step: `forward` is the one that follows it. With a guess, loads of
 * the guessed bytes are known. A value that only some ways to an instruction know, and a program
 * with loops or arithmetic, are left to the form without a guess.
 */
#include <pcap/pcap.h>
#include <stdbool.h>
#include <stdlib.h>

#include "core/filter_step.h"

enum state { UNKNOWN, KNOWN, MIXED }; /* MIXED: a register does not have it on every way */

struct value {
  enum state state;
  uint32_t number;
};

/* One instruction. Targets are numbers of instructions: a jump goes to `taken`. */
struct draft {
  struct sonde_filter_step step;
  struct value a; /* before it */
  struct value x;
  uint32_t taken;
  uint32_t passed;
  uint32_t forward; /* without a step: the next instruction */
  uint32_t place;   /* number of the step in the array */
  bool reached;
  bool drafted;
  bool has_step;
  bool passes_by_jump; /* `passed` is not the next step: a jump to it follows */
};

struct translation {
  const struct bpf_program *program;
  const struct sonde_filter_guess *guess;
  struct draft *drafts;
  uint32_t reach;
};

/* ---- codes --------------------------------------------------------------------------------- */

/* Returns -1 if the instruction does not compare with X. */
static int jump_code(uint16_t code) {
  switch (code) {
  case BPF_JMP | BPF_JEQ | BPF_X:
    return SONDE_STEP_EQUAL_X;
  case BPF_JMP | BPF_JGT | BPF_X:
    return SONDE_STEP_ABOVE_X;
  case BPF_JMP | BPF_JGE | BPF_X:
    return SONDE_STEP_REACHES_X;
  case BPF_JMP | BPF_JSET | BPF_X:
    return SONDE_STEP_SHARES_X;
  default:
    return -1;
  }
}

static int arithmetic_code(const struct bpf_insn *insn) {
  uint16_t operation = BPF_OP(insn->code);
  if (operation == BPF_NEG)
    return SONDE_STEP_NEGATE;
  if (operation > BPF_XOR)
    return -1;
  if (BPF_SRC(insn->code) == BPF_X)
    return SONDE_STEP_ARITHMETIC_X + (operation >> 4);
  bool shifts = operation == BPF_LSH || operation == BPF_RSH;
  bool divides = operation == BPF_DIV || operation == BPF_MOD;
  if ((shifts && insn->k >= 32) || (divides && insn->k == 0))
    return -1; /* no compiler makes this */
  return SONDE_STEP_ARITHMETIC + (operation >> 4);
}

static int load_code(uint16_t code) {
  bool to_a = BPF_CLASS(code) == BPF_LD;
  switch (BPF_MODE(code)) {
  case BPF_ABS:
    return to_a ? SONDE_STEP_LOAD : -1;
  case BPF_IND:
    return to_a ? SONDE_STEP_LOAD_X : -1;
  case BPF_MSH:
    return code == (BPF_LDX | BPF_MSH | BPF_B) ? SONDE_STEP_LOAD_HEADER : -1;
  case BPF_IMM:
    return to_a ? SONDE_STEP_SET_A : SONDE_STEP_SET_X;
  case BPF_LEN:
    return to_a ? SONDE_STEP_LENGTH_A : SONDE_STEP_LENGTH_X;
  case BPF_MEM:
    return to_a ? SONDE_STEP_RECALL_A : SONDE_STEP_RECALL_X;
  default:
    return -1;
  }
}

static int code_of(const struct bpf_insn *insn) {
  switch (BPF_CLASS(insn->code)) {
  case BPF_LD:
  case BPF_LDX:
    return load_code(insn->code);
  case BPF_ST:
    return SONDE_STEP_STORE_A;
  case BPF_STX:
    return SONDE_STEP_STORE_X;
  case BPF_ALU:
    return arithmetic_code(insn);
  case BPF_JMP:
    return jump_code(insn->code);
  case BPF_MISC:
    return BPF_MISCOP(insn->code) == BPF_TAX   ? SONDE_STEP_A_TO_X
           : BPF_MISCOP(insn->code) == BPF_TXA ? SONDE_STEP_X_TO_A
                                               : -1;
  default: /* BPF_RET */
    if (BPF_RVAL(insn->code) == BPF_K)
      return insn->k ? SONDE_STEP_ACCEPT : SONDE_STEP_REJECT;
    return BPF_RVAL(insn->code) == BPF_A ? SONDE_STEP_RETURN_A : -1;
  }
}

static uint32_t bytes_of(uint16_t code) {
  return BPF_SIZE(code) == BPF_B ? 1 : BPF_SIZE(code) == BPF_H ? 2 : 4;
}

/* ---- one instruction ----------------------------------------------------------------------- */

/* Takes the comparison with a constant. False for another instruction. */
static bool take_test(struct draft *draft, const struct bpf_insn *insn, uint32_t at) {
  struct sonde_filter_step *step = &draft->step;
  uint32_t yes = at + 1 + insn->jt, no = at + 1 + insn->jf;
  draft->taken = yes;
  draft->passed = no;
  switch (insn->code) {
  case BPF_JMP | BPF_JEQ | BPF_K:
    step->low = insn->k;
    return true;
  case BPF_JMP | BPF_JGE | BPF_K:
    step->low = insn->k;
    step->span = UINT32_MAX - insn->k;
    return true;
  case BPF_JMP | BPF_JGT | BPF_K: /* the inverse: A <= k */
    step->span = insn->k;
    break;
  case BPF_JMP | BPF_JSET | BPF_K: /* the inverse: no such bit */
    step->mask = insn->k;
    break;
  case BPF_JMP | BPF_JA:
    step->span = UINT32_MAX;
    draft->taken = draft->passed = at + 1 + insn->k;
    return true;
  default:
    return false;
  }
  draft->taken = no;
  draft->passed = yes;
  return true;
}

static bool skip_to(struct draft *draft, uint32_t next) {
  draft->forward = next;
  return true;
}

static bool add_step(struct draft *draft, int code) {
  draft->step.code = (uint8_t)code;
  draft->has_step = true;
  return true;
}

/* Returns whether the guess has these bytes of a packet. */
static bool guess_bytes(const struct sonde_filter_guess *guess, uint64_t at, uint32_t bytes,
                        uint32_t *value) {
  if (!guess || at < guess->at || at + bytes > (uint64_t)guess->at + 4)
    return false;
  uint32_t shift = (uint32_t)(32 - 8 * (at - guess->at + bytes));
  uint32_t wanted = bytes == 4 ? UINT32_MAX : (1u << 8 * bytes) - 1;
  *value = guess->value >> shift & wanted;
  return (guess->mask >> shift & wanted) == wanted;
}

static void note_reach(struct translation *made, uint64_t end) {
  if (end > made->reach)
    made->reach = end < UINT32_MAX ? (uint32_t)end : UINT32_MAX;
}

/* A load, with the mask and the comparison behind it. */
static bool draft_load(struct translation *made, uint32_t at, struct value *a, int code) {
  struct draft *draft = &made->drafts[at];
  const struct bpf_insn *insn = &made->program->bf_insns[at], *next = insn + 1;
  const struct bpf_insn *end = made->program->bf_insns + made->program->bf_len;
  uint32_t bytes = bytes_of(insn->code);
  uint64_t offset = insn->k;
  if (code == SONDE_STEP_LOAD_X) {
    if (draft->x.state == MIXED)
      return false;
    if (draft->x.state == KNOWN) {
      offset += draft->x.number;
      code = SONDE_STEP_LOAD;
    }
  }
  if (guess_bytes(made->guess, offset, bytes, &a->number)) {
    a->state = KNOWN;
    return skip_to(draft, at + 1);
  }
  if (offset > UINT32_MAX)
    return false;
  a->state = UNKNOWN;
  draft->step.at = (uint32_t)offset;
  draft->step.shift = (uint8_t)(32 - 8 * bytes);
  /* X is at most 60 where only LOAD_HEADER sets it; a program of rare steps has no reach. */
  note_reach(made, offset + (code == SONDE_STEP_LOAD_X ? 60 : 0) + 4);
  if (next < end && next->code == (BPF_ALU | BPF_AND | BPF_K)) {
    draft->step.keep = next++->k;
    code = code == SONDE_STEP_LOAD ? SONDE_STEP_LOAD_KEEP : code;
  }
  uint32_t next_at = (uint32_t)(next - made->program->bf_insns);
  if (next == end || !take_test(draft, next, next_at)) {
    draft->step.span = UINT32_MAX;
    draft->taken = draft->passed = next_at;
  }
  return add_step(draft, code);
}

static bool draft_test(struct draft *draft) {
  struct sonde_filter_step *step = &draft->step;
  if (draft->taken == draft->passed)
    return skip_to(draft, draft->taken);
  if (draft->a.state == MIXED)
    return false;
  if (draft->a.state == UNKNOWN)
    return add_step(draft, SONDE_STEP_TEST);
  bool within = (draft->a.number & step->mask) - step->low <= step->span;
  return skip_to(draft, within ? draft->taken : draft->passed);
}

/* Drafts an instruction; a and x: in and out. False: unknown or too hard. */
static bool draft_one(struct translation *made, uint32_t at, struct value *a, struct value *x) {
  struct draft *draft = &made->drafts[at];
  const struct bpf_insn *insn = &made->program->bf_insns[at];
  draft->step = (struct sonde_filter_step){.at = insn->k, .keep = ~0u, .mask = ~0u};
  if (take_test(draft, insn, at))
    return draft_test(draft);
  int code = code_of(insn);
  if (code < 0)
    return false;
  if (code == SONDE_STEP_LOAD || code == SONDE_STEP_LOAD_X)
    return draft_load(made, at, a, code);
  uint32_t header;
  if (code == SONDE_STEP_LOAD_HEADER && guess_bytes(made->guess, insn->k, 1, &header)) {
    *x = (struct value){KNOWN, (header & 15) << 2};
    return skip_to(draft, at + 1);
  }
  bool ends = code == SONDE_STEP_ACCEPT || code == SONDE_STEP_REJECT;
  if (made->guess && !ends)
    return false;
  if (code >= SONDE_STEP_SET_A)
    made->reach = UINT32_MAX;
  if (code >= SONDE_STEP_RECALL_A && code <= SONDE_STEP_STORE_X && insn->k >= BPF_MEMWORDS)
    return false;
  if (code == SONDE_STEP_LOAD_HEADER)
    note_reach(made, (uint64_t)insn->k + 1);
  if (code < SONDE_STEP_EQUAL_X) {
    draft->step.span = UINT32_MAX;
    draft->taken = draft->passed = at + 1;
  }
  return add_step(draft, code);
}

/* ---- all instructions ------------------------------------------------------------------------ */

static bool ends(const struct draft *draft) {
  return draft->has_step && draft->step.code >= SONDE_STEP_REJECT &&
         draft->step.code <= SONDE_STEP_RETURN_A;
}

static void meet(struct value *one, const struct value *other, bool first) {
  bool equal = one->state == other->state && (one->state != KNOWN || one->number == other->number);
  if (first)
    *one = *other;
  else if (!equal)
    one->state = MIXED;
}

/* False if the target is outside, or before a guess's instruction. */
static bool reach_target(struct translation *made, uint32_t from, uint32_t target,
                         const struct value *a, const struct value *x) {
  if (target >= made->program->bf_len || (made->guess && target <= from))
    return false;
  struct draft *draft = &made->drafts[target];
  meet(&draft->a, a, !draft->reached);
  meet(&draft->x, x, !draft->reached);
  draft->reached = true;
  return true;
}

static bool write_drafts(struct translation *made) {
  made->drafts[0].reached = true;
  for (bool changed = true; changed;) { /* a jump can go back */
    changed = false;
    for (uint32_t at = 0; at < made->program->bf_len; at++) {
      struct draft *draft = &made->drafts[at];
      if (!draft->reached || draft->drafted)
        continue;
      changed = draft->drafted = true;
      struct value a = draft->a, x = draft->x;
      if (!draft_one(made, at, &a, &x))
        return false;
      if (ends(draft))
        continue;
      uint32_t taken = draft->has_step ? draft->taken : draft->forward;
      uint32_t passed = draft->has_step ? draft->passed : draft->forward;
      if (!reach_target(made, at, taken, &a, &x) ||
          (passed != taken && !reach_target(made, at, passed, &a, &x)))
        return false;
    }
  }
  return true;
}

/* Returns the instruction whose step a jump to `at` begins with; count: a loop without steps. */
static uint32_t resolve(const struct translation *made, uint32_t at) {
  for (uint32_t hops = 0; !made->drafts[at].has_step; hops++) {
    if (hops == made->program->bf_len)
      return hops;
    at = made->drafts[at].forward;
  }
  return at;
}

static uint32_t next_step(const struct translation *made, uint32_t at) {
  for (at++; at < made->program->bf_len && !made->drafts[at].has_step; at++)
    ;
  return at;
}

static bool resolve_targets(struct translation *made) {
  uint32_t count = made->program->bf_len;
  for (uint32_t at = 0; at < count; at++) {
    struct draft *draft = &made->drafts[at];
    if (!draft->has_step || ends(draft))
      continue;
    draft->taken = resolve(made, draft->taken);
    draft->passed = resolve(made, draft->passed);
    if (draft->taken == count || draft->passed == count)
      return false;
  }
  return resolve(made, 0) != count;
}

/* Makes the next step the one that follows without a jump. */
static void arrange(struct draft *draft, uint32_t next) {
  struct sonde_filter_step *step = &draft->step;
  bool constant = step->code < SONDE_STEP_EQUAL_X;
  if (ends(draft) || draft->passed == next)
    return;
  if (constant && (draft->taken == draft->passed || step->span == UINT32_MAX)) {
    step->span = UINT32_MAX;
    return;
  }
  if (!constant || draft->taken != next) {
    draft->passes_by_jump = true;
    return;
  }
  step->low += step->span + 1;
  step->span = UINT32_MAX - step->span - 1;
  draft->taken = draft->passed;
  draft->passed = next;
}

/* Returns the number of steps. The run begins with place 0, so a jump may come first. */
static uint32_t place(struct translation *made) {
  uint32_t count = made->program->bf_len, first = next_step(made, UINT32_MAX), used = 0;
  used += first != resolve(made, 0);
  for (uint32_t at = first, next; at < count; at = next) {
    next = next_step(made, at);
    arrange(&made->drafts[at], next);
    made->drafts[at].place = used;
    used += 1 + made->drafts[at].passes_by_jump;
  }
  return used;
}

static int32_t distance(const struct translation *made, uint32_t target, uint32_t place) {
  return ((int32_t)made->drafts[target].place - (int32_t)place) *
         (int32_t)sizeof(struct sonde_filter_step);
}

static struct sonde_filter_step jump_step(int32_t bytes) {
  return (struct sonde_filter_step){
      .code = SONDE_STEP_TEST, .keep = ~0u, .span = UINT32_MAX, .jump = bytes};
}

static void fill(const struct translation *made, struct sonde_filter_step *steps) {
  uint32_t count = made->program->bf_len;
  steps[0] = jump_step(distance(made, resolve(made, 0), 0));
  for (uint32_t at = next_step(made, UINT32_MAX); at < count; at = next_step(made, at)) {
    const struct draft *draft = &made->drafts[at];
    steps[draft->place] = draft->step;
    if (ends(draft))
      continue;
    steps[draft->place].jump = distance(made, draft->taken, draft->place);
    if (draft->passes_by_jump)
      steps[draft->place + 1] = jump_step(distance(made, draft->passed, draft->place + 1));
  }
}

struct sonde_filter_step *sonde_filter_translate(const struct bpf_program *program,
                                                 const struct sonde_filter_guess *guess,
                                                 uint32_t *reach) {
  struct translation made = {.program = program, .guess = guess};
  struct sonde_filter_step *steps = NULL;
  made.drafts = calloc(program->bf_len, sizeof *made.drafts);
  if (made.drafts && write_drafts(&made) && resolve_targets(&made)) {
    size_t bytes = place(&made) * sizeof *steps;
    steps = aligned_alloc(64, (bytes + 63) & ~(size_t)63);
    if (steps)
      fill(&made, steps);
  }
  *reach = made.reach;
  free(made.drafts);
  return steps;
}
