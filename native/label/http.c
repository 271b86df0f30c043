/* http.c - the host of an HTTP/1 request; see parsers.h. Reads no other header and no path. */
#include <string.h>
#include <strings.h>

#include "label/parsers.h"

static const char *const methods[] = {"GET ",   "POST ",    "HEAD ",  "PUT ",    "DELETE ",
                                      "PATCH ", "OPTIONS ", "TRACE ", "CONNECT "};

struct text {
  const uint8_t *data;
  uint32_t bytes;
};

/* Returns the method that the stream starts with, also if it ends inside it, or NULL. */
static const char *find_method(const uint8_t *stream, uint32_t bytes) {
  for (uint32_t i = 0; i < sizeof methods / sizeof methods[0]; i++) {
    uint32_t length = (uint32_t)strlen(methods[i]);
    if (bytes > 0 && memcmp(stream, methods[i], bytes < length ? bytes : length) == 0)
      return methods[i];
  }
  return NULL;
}

bool sonde_http_begins(const uint8_t *stream, uint32_t bytes) {
  return find_method(stream, bytes) != NULL;
}

/* Takes a line without its end from `rest`. Returns false if its end is not there. */
static bool take_line(struct text *rest, struct text *line) {
  const uint8_t *end = rest->bytes ? memchr(rest->data, '\n', rest->bytes) : NULL;
  if (!end)
    return false;
  uint32_t bytes = (uint32_t)(end - rest->data);
  *line = (struct text){rest->data, bytes};
  if (bytes > 0 && line->data[bytes - 1] == '\r')
    line->bytes--;
  rest->data += bytes + 1;
  rest->bytes -= bytes + 1;
  return true;
}

static bool is_blank(uint8_t byte) {
  return byte == ' ' || byte == '\t';
}

static struct text trimmed(struct text text) {
  while (text.bytes > 0 && is_blank(text.data[0]))
    text.data++, text.bytes--;
  while (text.bytes > 0 && is_blank(text.data[text.bytes - 1]))
    text.bytes--;
  return text;
}

/* The part between the method and the version; empty if the line is malformed. */
static struct text find_target(struct text line, const char *method) {
  static const char version[] = " HTTP/1.";
  uint32_t before = (uint32_t)strlen(method), after = sizeof version; /* and a digit */
  if (line.bytes <= before + after ||
      memcmp(line.data + line.bytes - after, version, sizeof version - 1) != 0)
    return (struct text){line.data, 0};
  return (struct text){line.data + before, line.bytes - before - after};
}

/* The authority of an absolute target, or of CONNECT; empty for other forms. RFC 9112 §3.2. */
static struct text find_authority(struct text target, const char *method) {
  static const char scheme[] = "http://";
  uint32_t bytes = sizeof scheme - 1;
  if (strcmp(method, "CONNECT ") == 0)
    return target;
  if (target.bytes <= bytes || strncasecmp((const char *)target.data, scheme, bytes) != 0)
    return (struct text){target.data, 0};
  struct text authority = {target.data + bytes, 0};
  while (authority.bytes < target.bytes - bytes &&
         !memchr("/?#", authority.data[authority.bytes], 3))
    authority.bytes++;
  const uint8_t *user = authority.bytes ? memrchr(authority.data, '@', authority.bytes) : NULL;
  if (user) { /* never record a user name or a password */
    authority.bytes -= (uint32_t)(user + 1 - authority.data);
    authority.data = user + 1;
  }
  return authority;
}

enum sonde_parse_result sonde_http_request(const uint8_t *stream, uint32_t bytes,
                                           struct sonde_app_label *label) {
  static const char host[] = "host:";
  struct text rest = {stream, bytes}, line;
  const char *method = find_method(stream, bytes);
  if (!method)
    return SONDE_PARSE_NOT;
  if (!take_line(&rest, &line))
    return SONDE_PARSE_MORE;
  struct text target = find_target(line, method);
  if (target.bytes == 0)
    return SONDE_PARSE_NOT;
  struct text name = find_authority(target, method);
  while (name.bytes == 0) {
    if (!take_line(&rest, &line))
      return SONDE_PARSE_MORE;
    if (line.bytes == 0)
      return SONDE_PARSE_DONE; /* a request without a host */
    if (line.bytes >= sizeof host - 1 &&
        strncasecmp((const char *)line.data, host, sizeof host - 1) == 0) {
      name = trimmed((struct text){line.data + 5, line.bytes - 5});
      if (name.bytes == 0)
        return SONDE_PARSE_DONE;
    }
  }
  sonde_name_set(label, SONDE_NAME_HOST, name.data, name.bytes);
  return SONDE_PARSE_DONE;
}
