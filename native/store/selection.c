/* selection.c - see selection.h.
 *
 * pcap-filter(7): `and` and `or` have the same precedence and associate to the left, `not`
 * binds tightest, and a bare address or port reuses the qualifiers of the previous primitive.
 */
#include "selection.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <stdlib.h>

enum { WORD_MAX = 64, DEPTH_MAX = 16 };

enum kind { KIND_NONE, KIND_HOST, KIND_PORT };

struct parser {
  struct sonde_selection *selection;
  const uint64_t *seed;
  const char *next;
  char word[WORD_MAX]; /* the current token; "" at the end */
  bool understood;
  enum kind inherited; /* kind of the previous primitive */
};

static void advance(struct parser *parser) {
  const char *at = parser->next;
  while (isspace((unsigned char)*at))
    at++;
  size_t length = 0;
  if (at[0] && strchr("()!", at[0]))
    length = 1;
  else if ((at[0] == '&' && at[1] == '&') || (at[0] == '|' && at[1] == '|'))
    length = 2;
  else
    while (isalnum((unsigned char)at[length]) || (at[length] && strchr(".:-_", at[length])))
      length++;
  /* Brackets, comparisons, escapes and masks are not supported. */
  if (length >= WORD_MAX || (length == 0 && *at))
    parser->understood = false;
  if (!parser->understood)
    length = 0;
  memcpy(parser->word, at, length);
  parser->word[length] = 0;
  parser->next = at + length;
}

static bool at_word(const struct parser *parser, const char *const *words) {
  for (; *words; words++)
    if (strcmp(parser->word, *words) == 0)
      return true;
  return false;
}

#define AT(parser, ...) at_word(parser, (const char *const[]){__VA_ARGS__, NULL})

static void emit(struct parser *parser, int step, uint64_t hash) {
  struct sonde_selection *selection = parser->selection;
  if (selection->count == SONDE_SELECTION_STEPS_MAX) {
    parser->understood = false;
    return;
  }
  selection->steps[selection->count].step = step;
  selection->steps[selection->count++].hash = hash;
}

/* Host names, partial addresses and octal ports are not in the filter: may match. */
static void emit_name(struct parser *parser, enum kind kind) {
  uint8_t address[16] = {0};
  char *end;
  parser->inherited = kind;
  if (kind == KIND_HOST) {
    if (inet_pton(AF_INET, parser->word, address) == 1 ||
        inet_pton(AF_INET6, parser->word, address) == 1)
      emit(parser, SONDE_SELECT_ITEM, sonde_bloom_address(parser->seed, address));
    else
      emit(parser, SONDE_SELECT_TRUE, 0);
  } else {
    unsigned long port = strtoul(parser->word, &end, 10);
    if (*end == 0 && isdigit((unsigned char)parser->word[0]) && port <= UINT16_MAX &&
        (parser->word[0] != '0' || port == 0))
      emit(parser, SONDE_SELECT_ITEM, sonde_bloom_port(parser->seed, (uint16_t)port));
    else
      emit(parser, SONDE_SELECT_TRUE, 0);
  }
  advance(parser);
}

static bool is_name(const struct parser *parser) {
  return isalnum((unsigned char)parser->word[0]) &&
         !AT(parser, "and", "or", "not", "host", "port", "src", "dst", "net", "portrange", "proto",
             "gateway", "mask");
}

static void parse_primitive(struct parser *parser) {
  enum kind kind = KIND_NONE;
  bool protocol = false, direction = false;
  if (AT(parser, "ip", "ip6", "arp", "rarp", "tcp", "udp", "sctp", "icmp", "icmp6")) {
    protocol = true;
    advance(parser);
  }
  while (AT(parser, "src", "dst")) {
    direction = true;
    advance(parser);
    /* "src or dst" is one direction, "src host A or dst host B" is not. */
    struct parser ahead = *parser;
    advance(&ahead);
    if (AT(parser, "or", "and", "||", "&&") && AT(&ahead, "src", "dst"))
      *parser = ahead;
  }
  if (AT(parser, "host", "port")) {
    kind = parser->word[0] == 'h' ? KIND_HOST : KIND_PORT;
    advance(parser);
  } else if (direction) {
    kind = KIND_HOST;
  } else if (!protocol && is_name(parser) && isxdigit((unsigned char)parser->word[0])) {
    kind = parser->inherited;
    if (kind == KIND_NONE)
      parser->understood = false;
  }
  if (kind != KIND_NONE && is_name(parser)) {
    emit_name(parser, kind);
  } else if (kind == KIND_NONE && protocol) {
    parser->inherited = KIND_NONE;
    emit(parser, SONDE_SELECT_TRUE, 0);
  } else {
    parser->understood = false;
  }
}

static void parse_expression(struct parser *parser, int depth);

static void parse_term(struct parser *parser, int depth) {
  if (depth > DEPTH_MAX) {
    parser->understood = false;
  } else if (AT(parser, "not", "!")) {
    uint32_t before = parser->selection->count;
    advance(parser);
    parse_term(parser, depth + 1);
    /* The filter cannot prove that every packet holds A. */
    parser->selection->count = before;
    parser->inherited = KIND_NONE;
    emit(parser, SONDE_SELECT_TRUE, 0);
  } else if (AT(parser, "(")) {
    advance(parser);
    parse_expression(parser, depth + 1);
    parser->understood = parser->understood && AT(parser, ")");
    parser->inherited = KIND_NONE;
    advance(parser);
  } else {
    parse_primitive(parser);
  }
}

static void parse_expression(struct parser *parser, int depth) {
  parser->inherited = KIND_NONE;
  parse_term(parser, depth);
  while (parser->understood && AT(parser, "and", "or", "&&", "||")) {
    bool both = parser->word[0] == 'a' || parser->word[0] == '&';
    advance(parser);
    parse_term(parser, depth);
    emit(parser, both ? SONDE_SELECT_AND : SONDE_SELECT_OR, 0);
  }
}

void sonde_selection_compile(struct sonde_selection *selection, const char *expression,
                             const uint64_t *seed) {
  struct parser parser = {
      .selection = selection,
      .seed = seed,
      .next = expression ? expression : "",
      .understood = true,
  };
  selection->count = 0;
  advance(&parser);
  if (parser.word[0] == 0)
    return;
  parse_expression(&parser, 0);
  if (!parser.understood || parser.word[0])
    selection->count = 0;
}

bool sonde_selection_may_match(const struct sonde_selection *selection,
                               const struct sonde_bloom *bloom) {
  bool stack[SONDE_SELECTION_STEPS_MAX];
  uint32_t height = 0;
  for (uint32_t i = 0; i < selection->count; i++) {
    switch (selection->steps[i].step) {
    case SONDE_SELECT_ITEM:
      stack[height++] = sonde_bloom_may_hold(bloom, selection->steps[i].hash);
      break;
    case SONDE_SELECT_TRUE:
      stack[height++] = true;
      break;
    case SONDE_SELECT_AND:
      height--;
      stack[height - 1] = stack[height - 1] && stack[height];
      break;
    case SONDE_SELECT_OR:
      height--;
      stack[height - 1] = stack[height - 1] || stack[height];
      break;
    }
  }
  return height == 0 || stack[0];
}

#undef AT
