/* decode.c - decodes captured v5, v9 and IPFIX messages into JSON lines.
 *
 * The bytes are untrusted. Every length is checked before use. A malformed set is counted and
 * its rest skipped. templates.h and members.h limit the memory that a message can take.
 */
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "export.h"
#include "members.h"

enum {
  V5_HEADER = 24,
  V5_RECORD = 48,
  V9_HEADER = 20,
  IPFIX_HEADER = 16,
  SET_HEADER = 4,
  MESSAGE_MAX = 65535,
  TEMPLATE_ID_MIN = 256
};

struct sonde_export_decoder {
  struct sonde_templates *templates;
  struct sonde_lines lines;
};

/* One call's state. */
struct decoding {
  struct sonde_export_decoder *decoder;
  struct sonde_decoded_message *message;
  uint64_t source;
  uint64_t base_ms; /* v5, v9: SysUptime 0 */
};

struct sonde_export_decoder *sonde_export_decoder_create(void) {
  struct sonde_export_decoder *decoder = calloc(1, sizeof *decoder);
  if (!decoder)
    return NULL;
  decoder->lines.enterprise = SONDE_ENTERPRISE_DEFAULT;
  decoder->templates = sonde_templates_create();
  if (decoder->templates)
    return decoder;
  free(decoder);
  return NULL;
}

void sonde_export_decoder_enterprise_set(struct sonde_export_decoder *decoder,
                                         uint32_t enterprise) {
  decoder->lines.enterprise = enterprise;
}

void sonde_export_decoder_destroy(struct sonde_export_decoder *decoder) {
  if (!decoder)
    return;
  sonde_templates_destroy(decoder->templates);
  free(decoder->lines.text);
  free(decoder);
}

/* ---- records -------------------------------------------------------------------------- */

static void begin_line(struct decoding *decoding, uint32_t template_id, bool options) {
  const struct sonde_decoded_message *message = decoding->message;
  struct sonde_lines *lines = &decoding->decoder->lines;
  sonde_lines_print(lines, "{\"version\":%d,\"domain\":%u,\"sequence\":%u", message->version,
                    message->domain, message->sequence);
  sonde_lines_put_time(lines, "export_time", message->export_ns);
  sonde_lines_print(lines, ",\"template\":%u,\"kind\":\"%s\"", template_id,
                    options ? "options" : "flow");
}

/* Ends the line, or removes it if it did not fit. */
static bool end_line(struct decoding *decoding, size_t before) {
  struct sonde_lines *lines = &decoding->decoder->lines;
  sonde_lines_print(lines, "}\n");
  if (lines->full) {
    lines->bytes = before;
    return false;
  }
  decoding->message->records++;
  return true;
}

/* Gets the length of the field and skips its length octets. Returns false if it does not fit. */
static bool measure(const struct sonde_template_field *field, const uint8_t **data,
                    const uint8_t *end, uint32_t *bytes) {
  *bytes = field->bytes;
  if (field->bytes == SONDE_FIELD_VARIABLE) { /* RFC 7011 §7 */
    if (end - *data < 1)
      return false;
    *bytes = *(*data)++;
    if (*bytes == 255) {
      if (end - *data < 2)
        return false;
      *bytes = read_u16(*data);
      *data += 2;
    }
  }
  return end - *data >= (int64_t)*bytes;
}

/* Returns the record's end, or NULL. */
static const uint8_t *read_record(struct decoding *decoding, const struct sonde_template *template,
                                  const uint8_t *data, const uint8_t *end) {
  struct sonde_lines *lines = &decoding->decoder->lines;
  size_t before = lines->bytes;
  begin_line(decoding, template->key.id, template->scope_count > 0);
  for (uint32_t i = 0; i < template->field_count; i++) {
    uint32_t bytes;
    if (!measure(&template->fields[i], &data, end, &bytes)) {
      lines->bytes = before;
      return NULL;
    }
    bool scope = i < template->scope_count && template->key.version == 9;
    if (template->key.version != 5 || template->fields[i].element != 0)
      sonde_lines_put_field(lines, &template->fields[i], data, bytes, decoding->base_ms, scope);
    data += bytes;
  }
  return end_line(decoding, before) ? data : NULL;
}

static void read_data_set(struct decoding *decoding, uint16_t id, const uint8_t *data,
                          const uint8_t *end) {
  const struct sonde_decoded_message *message = decoding->message;
  struct sonde_template_key key = {decoding->source, message->domain, id,
                                   (uint16_t)message->version};
  const struct sonde_template *template = sonde_templates_find(decoding->decoder->templates, &key);
  if (!template) {
    decoding->message->sets_unknown++;
    return;
  }
  while (data && end - data >= (int64_t)template->bytes_min)
    data = read_record(decoding, template, data, end);
  decoding->message->malformed += !data;
}

/* ---- templates ------------------------------------------------------------------------ */

/* Reads `count` field specifiers. Returns their end, or NULL. */
static const uint8_t *read_fields(struct sonde_template *template, uint32_t count, bool enterprises,
                                  const uint8_t *data, const uint8_t *end) {
  for (uint32_t i = 0; i < count; i++) {
    struct sonde_template_field field = {0};
    if (end - data < 4)
      return NULL;
    field.element = read_u16(data);
    field.bytes = read_u16(data + 2);
    data += 4;
    if (enterprises && field.element & 0x8000) {
      if (end - data < 4)
        return NULL;
      field.element &= 0x7fff;
      field.enterprise = read_u32(data);
      data += 4;
    }
    template->bytes_min += field.bytes == SONDE_FIELD_VARIABLE ? 1 : field.bytes;
    if (template->field_count < SONDE_TEMPLATE_FIELDS_MAX)
      template->fields[template->field_count] = field;
    template->field_count++;
  }
  return data;
}

static void store(struct decoding *decoding, const struct sonde_template *template) {
  if (template->key.id < TEMPLATE_ID_MIN || (template->field_count && template->bytes_min == 0))
    decoding->message->malformed++;
  else if (sonde_templates_store(decoding->decoder->templates, template))
    decoding->message->templates++;
  else
    decoding->message->templates_refused++;
}

static void withdraw_all(struct decoding *decoding, bool options) {
  struct sonde_template_key key = {decoding->source, decoding->message->domain, 0,
                                   (uint16_t)decoding->message->version};
  sonde_templates_withdraw_all(decoding->decoder->templates, &key, options);
}

/* Reads one template record. Returns its end, or NULL. */
static const uint8_t *read_template(struct decoding *decoding, bool options, const uint8_t *data,
                                    const uint8_t *end) {
  struct sonde_template_field fields[SONDE_TEMPLATE_FIELDS_MAX];
  bool ipfix = decoding->message->version == 10;
  struct sonde_template template = {.fields = fields};
  uint16_t id = read_u16(data);
  uint32_t count = read_u16(data + 2);
  data += 4;
  template.key = (struct sonde_template_key){decoding->source, decoding->message->domain, id,
                                             (uint16_t)decoding->message->version};
  if (ipfix && count == 0) { /* withdrawal, RFC 7011 §8.1 */
    if (id < TEMPLATE_ID_MIN)
      withdraw_all(decoding, options);
    else
      store(decoding, &template);
    return data;
  }
  if (options) {
    if (end - data < 2)
      return NULL;
    uint32_t second = read_u16(data);
    data += 2;
    /* IPFIX has the counts of all fields and of scope fields, v9 the bytes of both kinds. */
    template.scope_count = (uint16_t)(ipfix ? second : count / 4);
    count = ipfix ? count : count / 4 + second / 4;
    if (template.scope_count == 0 || template.scope_count > count)
      return NULL;
  }
  if (count == 0)
    return NULL;
  data = read_fields(&template, count, ipfix, data, end);
  if (data)
    store(decoding, &template);
  return data;
}

static void read_template_set(struct decoding *decoding, bool options, const uint8_t *data,
                              const uint8_t *end) {
  while (data && end - data >= 4 && read_u16(data) != 0) /* 0: padding */
    data = read_template(decoding, options, data, end);
  decoding->message->malformed += !data;
}

/* ---- messages ------------------------------------------------------------------------- */

/* Returns false if no set begins here. */
static bool read_set(struct decoding *decoding, const uint8_t *data, uint32_t left,
                     uint32_t *bytes) {
  bool ipfix = decoding->message->version == 10;
  uint16_t templates = ipfix ? 2 : 0, id = read_u16(data);
  *bytes = read_u16(data + 2);
  if (id > templates + 1 && id < TEMPLATE_ID_MIN && !ipfix)
    return false; /* in a file of v9 messages: the version of the next message */
  if (*bytes < SET_HEADER || *bytes > left) {
    decoding->message->malformed++;
    return false;
  }
  if (id >= TEMPLATE_ID_MIN)
    read_data_set(decoding, id, data + SET_HEADER, data + *bytes);
  else if (id == templates || id == templates + 1)
    read_template_set(decoding, id == templates + 1, data + SET_HEADER, data + *bytes);
  else
    decoding->message->malformed++;
  return true;
}

static uint32_t read_sets(struct decoding *decoding, const uint8_t *data, uint32_t at,
                          uint32_t end) {
  uint32_t bytes;
  while (end - at >= SET_HEADER && read_set(decoding, data + at, end - at, &bytes))
    at += bytes;
  return at;
}

static int read_v9(struct decoding *decoding, const uint8_t *data, uint32_t bytes) {
  struct sonde_decoded_message *message = decoding->message;
  if (bytes < V9_HEADER)
    return SONDE_FORMAT;
  message->domain = read_u32(data + 16);
  message->sequence = read_u32(data + 12);
  message->export_ns = (uint64_t)read_u32(data + 8) * 1000000000;
  decoding->base_ms = (uint64_t)read_u32(data + 8) * 1000 - read_u32(data + 4);
  message->bytes = read_sets(decoding, data, V9_HEADER, bytes);
  if (message->malformed)
    message->bytes = bytes; /* the start of the next message is unknown */
  return SONDE_OK;
}

static int read_ipfix(struct decoding *decoding, const uint8_t *data, uint32_t bytes) {
  struct sonde_decoded_message *message = decoding->message;
  if (bytes < IPFIX_HEADER || read_u16(data + 2) < IPFIX_HEADER)
    return SONDE_FORMAT;
  uint32_t length = read_u16(data + 2);
  message->domain = read_u32(data + 12);
  message->sequence = read_u32(data + 8);
  message->export_ns = (uint64_t)read_u32(data + 4) * 1000000000;
  message->malformed += length > bytes;
  message->bytes = length < bytes ? length : bytes;
  read_sets(decoding, data, IPFIX_HEADER, message->bytes);
  return SONDE_OK;
}

/* The fixed layout of v5 as a template. Element 0 is not shown. */
static struct sonde_template_field v5_fields[] = {
    {0, 8, 4},  {0, 12, 4}, {0, 0, 4},  {0, 10, 2}, {0, 14, 2}, {0, 2, 4}, {0, 1, 4}, {0, 22, 4},
    {0, 21, 4}, {0, 7, 2},  {0, 11, 2}, {0, 0, 1},  {0, 6, 1},  {0, 4, 1}, {0, 5, 1}, {0, 0, 8},
};
static const struct sonde_template v5_template = {
    .key.version = 5,
    .field_count = sizeof v5_fields / sizeof v5_fields[0],
    .fields = v5_fields,
};

static int read_v5(struct decoding *decoding, const uint8_t *data, uint32_t bytes) {
  struct sonde_decoded_message *message = decoding->message;
  if (bytes < V5_HEADER)
    return SONDE_FORMAT;
  uint32_t count = read_u16(data + 2);
  message->domain = data[21];
  message->sequence = read_u32(data + 16);
  message->export_ns = (uint64_t)read_u32(data + 8) * 1000000000 + read_u32(data + 12);
  decoding->base_ms = message->export_ns / 1000000 - read_u32(data + 4);
  const uint8_t *record = data + V5_HEADER, *end = data + bytes;
  for (; record && count > 0 && end - record >= V5_RECORD; count--)
    record = read_record(decoding, &v5_template, record, end);
  bool whole = record && count == 0;
  message->malformed += !whole;
  message->bytes = whole ? (uint32_t)(record - data) : bytes;
  return SONDE_OK;
}

int sonde_export_decode(struct sonde_export_decoder *decoder, uint64_t source, const uint8_t *data,
                        uint32_t bytes, struct sonde_decoded_message *message) {
  struct decoding decoding = {.decoder = decoder, .message = message, .source = source};
  int status = SONDE_FORMAT;
  *message = (struct sonde_decoded_message){0};
  decoder->lines.bytes = 0;
  decoder->lines.full = false;
  bytes = bytes < MESSAGE_MAX ? bytes : MESSAGE_MAX;
  message->version = bytes >= 2 ? read_u16(data) : 0;
  if (message->version == 5)
    status = read_v5(&decoding, data, bytes);
  else if (message->version == 9)
    status = read_v9(&decoding, data, bytes);
  else if (message->version == 10)
    status = read_ipfix(&decoding, data, bytes);
  if (decoder->lines.full)
    message->malformed++;
  message->text = decoder->lines.text ? decoder->lines.text : "";
  message->text_bytes = (uint32_t)decoder->lines.bytes;
  return status;
}
