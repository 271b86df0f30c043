/* filter_glance.c - see filter_glance.h. Finds the marks as a minimum cut.
 *
 * The steps are a graph from the first step to ACCEPT, without cycles. A test's two outcomes are
 * its edges. An edge that is taken only for one value of some bytes is a mark, and its weight
 * estimates how many packets have the value. Other edges weigh too much to be cut. Every accepted
 * packet passes each cut, so the marks of the lightest cut are those that the fewest packets have.
 */
#include "core/filter_glance.h"

#include <stdlib.h>

#include "core/filter_step.h"

enum {
  STEPS_MAX = 128,
  WAYS_MAX = 2 * STEPS_MAX, /* bounds the time: an expression comes from the network */
  ALL = 1 << 16,            /* weight: every packet */
  HEAVY = 1 << 24,          /* weight of an edge that cannot be a mark */
  MARK = 1,                 /* each further mark costs time */
};

struct mark {
  uint32_t at;
  uint32_t mask; /* 0: the edge is no mark */
  uint32_t value;
};

/* edges[2 * step]: to `taken`; edges[2 * step + 1]: to `passed`. */
struct edge {
  uint32_t to;
  uint32_t room; /* weight that is left in its direction; 0 if the step has no such edge */
  uint32_t back; /* and in the other */
  struct mark mark;
};

/* The load that a step's A is from. */
struct origin {
  uint32_t at;
  uint32_t shift;
  uint32_t keep;
  enum { UNSEEN, SEEN, UNCERTAIN } state;
};

struct graph {
  uint32_t count;
  struct edge edges[2 * STEPS_MAX];
  struct origin origins[STEPS_MAX]; /* before the step */
  bool accepts[STEPS_MAX];
  uint32_t way[STEPS_MAX]; /* search: the edge by which a step was found, or UINT32_MAX */
};

/* ---- marks --------------------------------------------------------------------------------- */

/* (A & mask) == value, as a test of the packet. */
static struct mark mark_of(const struct origin *origin, uint32_t mask, uint32_t value) {
  uint32_t kept = mask & origin->keep & UINT32_MAX >> origin->shift;
  struct mark mark = {.at = origin->at,
                      .mask = htobe32(kept << origin->shift),
                      .value = htobe32(value << origin->shift)};
  bool possible = origin->state == SEEN && (value & ~kept) == 0;
  return possible ? mark : (struct mark){0};
}

static bool is_one_bit(uint32_t mask) {
  return mask && !(mask & (mask - 1));
}

static struct mark taken_mark(const struct sonde_filter_step *step, const struct origin *origin) {
  return step->span == 0 ? mark_of(origin, step->mask, step->low) : (struct mark){0};
}

static struct mark passed_mark(const struct sonde_filter_step *step, const struct origin *origin) {
  if (step->span == UINT32_MAX - 1) /* all but one value are taken */
    return mark_of(origin, step->mask, step->low - 1);
  if (step->span == 0 && step->low == 0 && is_one_bit(step->mask))
    return mark_of(origin, step->mask, step->mask);
  return (struct mark){0};
}

/* Bytes that are 0, such as a fragment's offset, are so in most packets. */
static uint32_t weight_of(const struct mark *mark) {
  int bits = __builtin_popcount(mark->mask);
  if (bits == 0)
    return HEAVY;
  return MARK + (mark->value == 0 ? ALL : bits < 16 ? ALL >> bits : 1);
}

/* ---- the graph ------------------------------------------------------------------------------- */

static void meet(struct origin *one, const struct origin *other) {
  if (one->state == UNSEEN)
    *one = *other;
  else if (other->state != SEEN || one->at != other->at || one->shift != other->shift ||
           one->keep != other->keep)
    one->state = UNCERTAIN;
}

/* False: the step leads outside the graph or back. */
static bool add_edge(struct graph *graph, uint32_t from, bool taken, uint32_t to,
                     const struct origin *origin, struct mark mark) {
  if (to <= from || to >= STEPS_MAX)
    return false;
  graph->edges[2 * from + !taken] = (struct edge){.to = to, .room = weight_of(&mark), .mark = mark};
  meet(&graph->origins[to], origin);
  graph->count = to + 1 > graph->count ? to + 1 : graph->count;
  return true;
}

static bool add_edges(struct graph *graph, uint32_t at, const struct sonde_filter_step *step) {
  struct origin origin = graph->origins[at];
  switch (step->code) {
  case SONDE_STEP_LOAD:
  case SONDE_STEP_LOAD_KEEP:
    origin = (struct origin){.at = step->at, .shift = step->shift, .keep = step->keep, SEEN};
    break;
  case SONDE_STEP_TEST:
    break;
  default: /* changes A, or tests something else */
    return false;
  }
  uint32_t taken = at + (uint32_t)(step->jump / (int32_t)sizeof *step);
  if (step->span == UINT32_MAX)
    return add_edge(graph, at, true, taken, &origin, (struct mark){0});
  return add_edge(graph, at, true, taken, &origin, taken_mark(step, &origin)) &&
         add_edge(graph, at, false, at + 1, &origin, passed_mark(step, &origin));
}

/* Steps that no edge leads to are not visited: they follow an end. */
static bool build(struct graph *graph, const struct sonde_filter_step *steps) {
  graph->count = 1;
  graph->origins[0].state = UNCERTAIN;
  for (uint32_t at = 0; at < graph->count; at++) {
    uint8_t code = steps[at].code;
    graph->accepts[at] = code == SONDE_STEP_ACCEPT && graph->origins[at].state != UNSEEN;
    if (code == SONDE_STEP_ACCEPT || code == SONDE_STEP_REJECT ||
        graph->origins[at].state == UNSEEN)
      continue;
    if (!add_edges(graph, at, &steps[at]))
      return false;
  }
  return true;
}

/* ---- the cut --------------------------------------------------------------------------------- */

static bool visit(struct graph *graph, uint32_t *queue, uint32_t *queued, uint32_t step,
                  uint32_t edge) {
  if (graph->way[step] != UINT32_MAX)
    return false;
  graph->way[step] = edge;
  queue[(*queued)++] = step;
  return graph->accepts[step];
}

/* Searches a way with room to an accepting step. Returns it, or UINT32_MAX. */
static uint32_t search(struct graph *graph) {
  uint32_t queue[STEPS_MAX], queued = 0;
  memset(graph->way, 0xff, sizeof graph->way);
  if (visit(graph, queue, &queued, 0, 2 * STEPS_MAX))
    return 0;
  for (uint32_t i = 0; i < queued; i++) {
    for (uint32_t edge = 0; edge < 2 * graph->count; edge++) {
      const struct edge *one = &graph->edges[edge];
      if (edge / 2 == queue[i] && one->room && visit(graph, queue, &queued, one->to, edge))
        return one->to;
      if (one->back && one->to == queue[i])
        visit(graph, queue, &queued, edge / 2, edge);
    }
  }
  return UINT32_MAX;
}

/* Calls for each edge of the way that ends at `step`. Returns the least room. */
static uint32_t follow(struct graph *graph, uint32_t step, uint32_t flow) {
  uint32_t least = UINT32_MAX;
  while (step != 0) {
    struct edge *edge = &graph->edges[graph->way[step]];
    uint32_t from = graph->way[step] / 2;
    bool forward = edge->to == step;
    uint32_t room = forward ? edge->room : edge->back;
    least = room < least ? room : least;
    edge->room = forward ? edge->room - flow : edge->room + flow;
    edge->back = forward ? edge->back + flow : edge->back - flow;
    step = forward ? from : edge->to;
  }
  return least;
}

/* Returns false if the cut is not lighter than all packets. */
static bool fill_edges(struct graph *graph) {
  uint32_t total = 0, ways = 0, end;
  while ((end = search(graph)) != UINT32_MAX) {
    uint32_t flow = end == 0 ? ALL : follow(graph, end, 0);
    total = flow < ALL ? total + flow : ALL;
    if (total >= ALL || ++ways == WAYS_MAX)
      return false;
    follow(graph, end, flow);
  }
  return true;
}

static bool add_mark(struct sonde_filter_glance *glance, const struct mark *mark) {
  for (uint32_t i = 0; i < glance->count; i++)
    if (glance->marks[i].at == mark->at && glance->marks[i].mask == mark->mask &&
        glance->marks[i].value == mark->value)
      return true;
  if (glance->count == SONDE_GLANCE_MARKS)
    return false;
  glance->marks[glance->count].at = mark->at;
  glance->marks[glance->count].mask = mark->mask;
  glance->marks[glance->count++].value = mark->value;
  return true;
}

struct sonde_filter_glance sonde_filter_glance_make(const struct sonde_filter_step *steps,
                                                    uint32_t reach) {
  struct sonde_filter_glance glance = {.reach = reach};
  struct graph *graph = calloc(1, sizeof *graph);
  bool found = graph && build(graph, steps) && fill_edges(graph);
  /* The last search has found the steps before the cut. */
  for (uint32_t edge = 0; found && edge < 2 * graph->count; edge++) {
    const struct edge *one = &graph->edges[edge];
    bool exists = one->room || one->back;
    if (exists && graph->way[edge / 2] != UINT32_MAX && graph->way[one->to] == UINT32_MAX)
      found = add_mark(&glance, &one->mark);
  }
  free(graph);
  return found ? glance : sonde_filter_no_glance;
}
