/* tail.c - see tail.h. */
#include "tail.h"

#include <assert.h>
#include <stdbool.h>
#include <string.h>

#include "bytes.h"
#include "export/labels.h"

enum { VARIABLE = 65535, ENTERPRISE_BIT = 0x8000, APPLICATION_NAME = 96 };
enum { RANKS = 5, RANK_NUMBER = RANKS }; /* texts of rank 0 get room first */

struct field {
  uint16_t element;
  uint8_t bytes; /* 0: a text */
  uint8_t rank;
};

static const struct field label_fields[] = {
    {APPLICATION_NAME, 0, 0}, /* IANA's */
    {SONDE_ELEMENT_NAME, 0, 0},
    {SONDE_ELEMENT_NAME_SOURCE, 1, RANK_NUMBER},
    {SONDE_ELEMENT_ALPN, 0, 2},
    {SONDE_ELEMENT_TLS_VERSION, 2, RANK_NUMBER},
    {SONDE_ELEMENT_ECH, 1, RANK_NUMBER},
    {SONDE_ELEMENT_LABEL_STATE, 1, RANK_NUMBER},
};

/* Elements from SONDE_ELEMENT_PROCESS or _PEER on. The last one is that of `process` alone. */
static const struct field owner_fields[] = {
    {0, 4, RANK_NUMBER},  /* pid */
    {1, 8, RANK_NUMBER},  /* start_ticks */
    {2, 0, 1},            /* name */
    {3, 0, 4},            /* exe */
    {4, 4, RANK_NUMBER},  /* uid */
    {5, 0, 3},            /* cgroup */
    {6, 0, 1},            /* unit */
    {7, 0, 1},            /* container */
    {8, 0, 1},            /* pod */
    {9, 1, RANK_NUMBER},  /* how */
    {10, 1, RANK_NUMBER}, /* reason */
    {11, 1, RANK_NUMBER}, /* shared */
    {12, 1, RANK_NUMBER}, /* side */
};

enum {
  LABEL_FIELDS = sizeof label_fields / sizeof label_fields[0],
  OWNER_FIELDS = sizeof owner_fields / sizeof owner_fields[0],
};
_Static_assert(LABEL_FIELDS + 2 * OWNER_FIELDS <= SONDE_TAIL_FIELDS_MAX, "room for all fields");

/* ---- fields ---------------------------------------------------------------------------- */

static uint32_t list_fields(uint32_t parts, struct field fields[SONDE_TAIL_FIELDS_MAX]) {
  uint32_t count = 0;
  for (uint32_t i = 0; (parts & SONDE_TAIL_LABEL) && i < LABEL_FIELDS; i++)
    fields[count++] = label_fields[i];
  for (uint32_t peer = 0; (parts & SONDE_TAIL_OWNERS) && peer < 2; peer++) {
    for (uint32_t i = 0; i < OWNER_FIELDS - peer; i++) {
      fields[count] = owner_fields[i];
      fields[count++].element += peer ? SONDE_ELEMENT_PEER : SONDE_ELEMENT_PROCESS;
    }
  }
  return count;
}

uint32_t sonde_tail_count(uint32_t parts) {
  struct field fields[SONDE_TAIL_FIELDS_MAX];
  return list_fields(parts, fields);
}

uint8_t *sonde_tail_put_template(uint8_t *p, uint32_t parts, uint32_t enterprise) {
  struct field fields[SONDE_TAIL_FIELDS_MAX];
  uint32_t count = list_fields(parts, fields);
  for (uint32_t i = 0; i < count; i++) {
    bool own = fields[i].element != APPLICATION_NAME;
    p = put_u16(p, (uint16_t)(fields[i].element | (own ? ENTERPRISE_BIT : 0)));
    p = put_u16(p, fields[i].bytes ? fields[i].bytes : VARIABLE);
    if (own)
      p = put_u32(p, enterprise);
  }
  return p;
}

uint32_t sonde_tail_bytes_min(uint32_t parts) {
  struct field fields[SONDE_TAIL_FIELDS_MAX];
  uint32_t count = list_fields(parts, fields), bytes = 0;
  for (uint32_t i = 0; i < count; i++)
    bytes += fields[i].bytes ? fields[i].bytes : 1;
  return bytes;
}

/* ---- values ---------------------------------------------------------------------------- */

struct value {
  uint64_t number;
  const char *text;
  uint32_t bytes; /* the text's */
};

static struct value number(uint64_t value) {
  return (struct value){.number = value};
}

static struct value text(const char *value) {
  return (struct value){.text = value, .bytes = (uint32_t)strlen(value)};
}

/* RFC 7011 §6.1.5. */
static struct value truth(bool known, bool value) {
  return number(!known ? 0 : value ? 1 : 2);
}

enum { ALPN_BYTES = SONDE_LABEL_ALPNS * (SONDE_LABEL_ALPN_MAX + 1) };

/* Joins the protocols with commas. */
static struct value join_alpn(const struct sonde_app_label *label, char into[ALPN_BYTES + 1]) {
  char *p = into;
  for (uint32_t i = 0; i < label->alpns && i < SONDE_LABEL_ALPNS; i++) {
    if (i > 0)
      *p++ = ',';
    p = stpcpy(p, label->alpn[i]);
  }
  *p = 0;
  return text(into);
}

static uint32_t list_label(const struct sonde_app_label *label, char alpn[ALPN_BYTES + 1],
                           struct value *values) {
  const struct value list[LABEL_FIELDS] = {
      text(sonde_app_name(label->app)->text),
      text(label->name),
      number(label->name_source),
      join_alpn(label, alpn),
      number(label->tls_version),
      truth(label->has_hello, label->ech),
      number(label->state),
  };
  memcpy(values, list, sizeof list);
  return LABEL_FIELDS;
}

static uint32_t list_owner(const struct sonde_owner *owner, uint32_t side, struct value *values) {
  static const struct sonde_owner nobody = {.pid = UINT32_MAX, .uid = UINT32_MAX};
  owner = owner->how == SONDE_OWNER_NOTHING ? &nobody : owner;
  const struct value list[OWNER_FIELDS] = {
      number(owner->pid == UINT32_MAX ? 0 : owner->pid),
      number(owner->start_ticks),
      text(owner->name),
      text(owner->exe),
      number(owner->uid),
      text(owner->cgroup),
      text(owner->unit),
      text(owner->container),
      text(owner->pod),
      number(owner->how),
      number(owner->reason),
      truth(owner->how > SONDE_OWNER_UNKNOWN, owner->shared),
      number(side),
  };
  memcpy(values, list, sizeof list);
  return OWNER_FIELDS;
}

/* Empties the texts that do not fit, those of the highest rank first. */
static void fit(const struct field *fields, struct value *values, uint32_t count, uint32_t room) {
  for (uint32_t rank = 0; rank < RANKS; rank++) {
    for (uint32_t i = 0; i < count; i++) {
      if (fields[i].rank != rank)
        continue;
      uint32_t more = values[i].bytes + (values[i].bytes < 255 ? 0 : 2);
      if (more > room)
        values[i].bytes = 0;
      else
        room -= more;
    }
  }
}

static uint8_t *put_text(uint8_t *p, const struct value *value) {
  p = value->bytes < 255 ? put_u8(p, (uint8_t)value->bytes)
                         : put_u16(put_u8(p, 255), (uint16_t)value->bytes);
  return put_octets(p, value->bytes, (const uint8_t *)value->text);
}

uint8_t *sonde_tail_put(uint8_t *p, uint32_t parts, const struct sonde_tail_values *values,
                        uint32_t room) {
  struct field fields[SONDE_TAIL_FIELDS_MAX];
  struct value list[SONDE_TAIL_FIELDS_MAX];
  char alpn[ALPN_BYTES + 1];
  uint32_t count = list_fields(parts, fields), filled = 0, least = sonde_tail_bytes_min(parts);
  if (parts & SONDE_TAIL_LABEL)
    filled += list_label(&values->label, alpn, list + filled);
  if (parts & SONDE_TAIL_OWNERS) {
    filled += list_owner(&values->process, values->side, list + filled);
    filled += list_owner(&values->peer, 0, list + filled) - 1; /* without the side */
  }
  assert(filled == count && room >= least);
  fit(fields, list, count, room - least);
  for (uint32_t i = 0; i < count; i++)
    p = fields[i].bytes ? put_number(p, fields[i].bytes, list[i].number) : put_text(p, &list[i]);
  return p;
}
