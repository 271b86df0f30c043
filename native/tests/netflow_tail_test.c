/* netflow_tail_test.c - labels and owners at the end of IPFIX records, in messages of every size.
 *
 * Each text of the longest owner and label is exported whole or empty. The decoder finds the fields
 * by the template alone.
 */
#include <stdbool.h>
#include <stdlib.h>

#include "check.h"
#include "export.h"
#include "export/netflow/tail.h"
#include "export/rendering.h"

enum { RECORDS = 60, BUFFER_BYTES = 4 << 20, MESSAGES = 4096, ENTERPRISE = 65000 };
static const uint64_t SECOND = 1000000000, START = 1700000000000000000;
enum { NGINX = 100, CURL = 101, LONGEST = 102 };

static struct sonde_owner owners[] = {
    {.pid = 42,
     .uid = 33,
     .start_ticks = 1234567890123,
     .how = SONDE_OWNER_LISTENER,
     .shared = 1,
     .name = "nginx",
     .exe = "/usr/sbin/nginx",
     .cgroup = "/system.slice/nginx.service",
     .unit = "nginx.service",
     .container = "4f1c",
     .pod = "0b6f"},
    {.pid = UINT32_MAX, .uid = UINT32_MAX, .how = SONDE_OWNER_UNKNOWN, .reason = SONDE_OWNER_NAT},
    {.pid = UINT32_MAX - 1, .how = SONDE_OWNER_FOUND},
};
static struct sonde_app_label labels[] = {
    {.state = SONDE_LABEL_NOT_SEEN},
    {.app = SONDE_APP_TLS,
     .name_source = SONDE_NAME_SNI,
     .state = SONDE_LABEL_COMPLETE,
     .alpns = 2,
     .has_hello = 1,
     .tls_version = 0x0304,
     .alpn = {"h2", "http/1.1"},
     .name = "www.example.com"},
    {.app = SONDE_APP_QUIC,
     .name_source = SONDE_NAME_SNI,
     .state = SONDE_LABEL_PARTIAL,
     .alpns = 2,
     .ech = 1,
     .has_hello = 1},
};

static void read_owner(void *context, uint32_t reference, struct sonde_owner *into) {
  (void)context;
  *into = owners[reference - NGINX];
}

static int read_label(void *context, uint32_t label, uint16_t generation,
                      struct sonde_app_label *into) {
  (void)context, (void)generation;
  *into = labels[label - 1];
  return 1;
}

static void fill(char *text, size_t bytes) {
  memset(text, 'x', bytes);
  text[bytes] = 0;
}

static void make_longest(void) {
  struct sonde_owner *owner = &owners[2];
  fill(owner->name, SONDE_OWNER_NAME_MAX);
  fill(owner->exe, SONDE_OWNER_EXE_MAX);
  fill(owner->cgroup, SONDE_OWNER_CGROUP_MAX);
  fill(owner->unit, SONDE_OWNER_UNIT_MAX);
  fill(owner->container, SONDE_OWNER_CONTAINER_MAX);
  fill(owner->pod, SONDE_OWNER_POD_MAX);
  fill(labels[2].name, SONDE_LABEL_NAME_MAX);
  fill(labels[2].alpn[0], SONDE_LABEL_ALPN_MAX);
  fill(labels[2].alpn[1], SONDE_LABEL_ALPN_MAX);
}

/* Record i: 0 all of nginx and curl, 1 without label and owner, 2 the longest. */
static struct sonde_record record(uint32_t i) {
  return (struct sonde_record){
      .flow_id = i + 1,
      .first_ns = START,
      .last_ns = START,
      .packets = {1, 1},
      .bytes = {60, 60},
      .source_ip = {10, 0, 0, 1},
      .dest_ip = {10, 0, 0, 2},
      .source_port = (uint16_t)(1000 + i),
      .dest_port = 443,
      .ip_version = i % 2 ? 4 : 6,
      .protocol = i % 5 ? 6 : 58,
      .end_reason = SONDE_END_IDLE,
      .mpls_label = UINT32_MAX,
      .sampling_interval = 1,
      .label = i % 3 == 0   ? 2
               : i % 3 == 2 ? 3
                            : 0,
      .process = i % 3 == 0   ? NGINX
                 : i % 3 == 2 ? LONGEST
                              : 0,
      .peer_process = i % 3 == 0   ? CURL
                      : i % 3 == 2 ? LONGEST
                                   : 0,
      .process_side = i % 3 == 1 ? 0 : SONDE_SIDE_DEST,
  };
}

static const char plain_label[] =
    ",\"app\":\"tls\",\"name\":\"www.example.com\",\"name_source\":\"sni\",\"alpn\":\"h2,http/"
    "1.1\","
    "\"tls_version\":\"1.3\",\"ech\":false,\"label_state\":\"complete\"";
static const char no_label[] = ",\"app\":\"\",\"name\":\"\",\"name_source\":null,\"alpn\":\"\","
                               "\"tls_version\":null,\"ech\":null,\"label_state\":\"off\"";
static const char plain_owners[] =
    ",\"process_pid\":42,\"process_start_ticks\":1234567890123,\"process_name\":\"nginx\","
    "\"process_exe\":\"/usr/sbin/nginx\",\"process_uid\":33,"
    "\"process_cgroup\":\"/system.slice/nginx.service\",\"process_unit\":\"nginx.service\","
    "\"process_container\":\"4f1c\",\"process_pod\":\"0b6f\",\"process_how\":\"listener\","
    "\"process_reason\":null,\"process_shared\":true,\"process_side\":\"%s\","
    "\"peer_process_pid\":0,\"peer_process_start_ticks\":0,\"peer_process_name\":\"\","
    "\"peer_process_exe\":\"\",\"peer_process_uid\":4294967295,\"peer_process_cgroup\":\"\","
    "\"peer_process_unit\":\"\",\"peer_process_container\":\"\",\"peer_process_pod\":\"\","
    "\"peer_process_how\":\"unknown\",\"peer_process_reason\":\"nat\","
    "\"peer_process_shared\":null}";

/* Is the text after this name whole or empty? */
static void check_whole(const char *line, const char *name, size_t whole) {
  char key[64];
  snprintf(key, sizeof key, ",\"%s\":\"", name);
  const char *found = strstr(line, key);
  CHECK(found != NULL);
  size_t bytes = found ? strcspn(found + strlen(key), "\"") : 1;
  CHECK(bytes == whole || bytes == 0);
}

static void check_line(const char *line, bool with_labels) {
  bool forward = strstr(line, "\"dest_port\":443,") != NULL;
  if (!strstr(line, "\"source_ip\"") || !strstr(line, "\"protocol_number\":6,"))
    return;
  char expected[2048];
  snprintf(expected, sizeof expected, plain_owners, forward ? "dest" : "source");
  if (strstr(line, "\"process_pid\":4294967294")) {
    if (with_labels)
      check_whole(line, "name", SONDE_LABEL_NAME_MAX);
    check_whole(line, "process_exe", SONDE_OWNER_EXE_MAX);
    check_whole(line, "process_cgroup", SONDE_OWNER_CGROUP_MAX);
    check_whole(line, "peer_process_unit", SONDE_OWNER_UNIT_MAX);
  } else if (strstr(line, "\"process_pid\":42")) {
    CHECK(strstr(line, expected) != NULL);
    CHECK(!with_labels || strstr(line, plain_label) != NULL);
  } else {
    CHECK(!with_labels || strstr(line, no_label) != NULL);
  }
}

/* Returns whether the lines have a tail. */
static bool tails_are_whole(uint32_t bytes, int biflow, int version, bool with_labels) {
  static uint8_t buffer[BUFFER_BYTES];
  static struct sonde_message list[MESSAGES];
  struct sonde_render_sources sources = {.owners = {NULL, read_owner},
                                         .labels = {NULL, with_labels ? read_label : NULL}};
  struct sonde_encoder_config config = {
      .version = version,
      .profile = SONDE_PROFILE_FULL,
      .biflow = biflow,
      .message_bytes_max = bytes,
      .template_refresh_sec = 60,
      .template_refresh_messages = 3,
      .observation_domain = 7,
      .interface = "an-interface-15",
      .start_ns = START,
      .sources = &sources,
      .enterprise = ENTERPRISE,
  };
  struct sonde_messages messages = {
      .buffer = buffer, .capacity = BUFFER_BYTES, .list = list, .max = MESSAGES};
  struct sonde_export_decoder *decoder = sonde_export_decoder_create();
  struct sonde_encoder *encoder = NULL;
  struct sonde_error error;
  uint64_t lines = 0, tails = 0;
  sonde_export_decoder_enterprise_set(decoder, ENTERPRISE);
  CHECK_EQ(sonde_encoder_create(&config, &encoder, &error), 0);
  for (uint32_t i = 0; i < RECORDS; i++) {
    struct sonde_record one = record(i);
    CHECK_EQ(sonde_encoder_add(encoder, &one, 1, START + SECOND, &messages), 1);
  }
  for (uint32_t i = 0; i < messages.count; i++) {
    struct sonde_decoded_message decoded;
    CHECK(list[i].bytes <= bytes);
    CHECK_EQ(sonde_export_decode(decoder, 0, buffer + list[i].offset, list[i].bytes, &decoded), 0);
    CHECK_EQ(decoded.malformed, 0);
    CHECK_EQ(decoded.sets_unknown, 0);
    char *text = strndup(decoded.text, decoded.text_bytes), *rest = text, *line;
    while ((line = strsep(&rest, "\n"))) {
      bool tail = strstr(line, "\"process_how\":") != NULL;
      lines += line[0] != 0;
      tails += tail;
      if (tail)
        check_line(line, with_labels);
    }
    free(text);
  }
  CHECK_EQ(lines, biflow && version == 10 ? RECORDS : 2 * RECORDS);
  CHECK(tails == 0 || tails == lines);
  sonde_export_decoder_destroy(decoder);
  sonde_encoder_destroy(encoder);
  return tails > 0;
}

/* With enough room for all of it, nothing is empty. */
static void the_longest_texts_fit_a_large_message(void) {
  struct sonde_tail_values values = {
      .label = labels[2], .process = owners[2], .peer = owners[2], .side = 1};
  uint32_t parts = SONDE_TAIL_LABEL | SONDE_TAIL_OWNERS;
  uint8_t tail[SONDE_TAIL_BYTES_MAX];
  uint32_t texts = 4 + 255 + 63 + 2 * (15 + 191 + 255 + 95 + 64 + 36), lengths = 3 * 2;
  uint32_t bytes = (uint32_t)(sonde_tail_put(tail, parts, &values, sizeof tail) - tail);
  CHECK_EQ(bytes, sonde_tail_bytes_min(parts) + texts + lengths);
  CHECK_EQ(sonde_tail_put(tail, parts, &values, bytes) - tail, bytes);
  uint32_t less = (uint32_t)(sonde_tail_put(tail, parts, &values, bytes - 1) - tail);
  CHECK_EQ(less, bytes - SONDE_OWNER_EXE_MAX); /* the peer's program */
  uint32_t least = sonde_tail_bytes_min(parts);
  CHECK_EQ(sonde_tail_put(tail, parts, &values, least) - tail, least);
}

int main(void) {
  static const uint32_t sizes[] = {512, 600, 700, 800, 1000, 1400, 1472, 65507};
  make_longest();
  for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
    for (int biflow = 0; biflow < 2; biflow++) {
      bool has = tails_are_whole(sizes[i], biflow, 10, true);
      CHECK(has == (sizes[i] >= 1000) || (sizes[i] > 600 && sizes[i] < 1000));
      CHECK(sizes[i] < 1000 || tails_are_whole(sizes[i], biflow, 10, false));
      CHECK(!tails_are_whole(sizes[i], biflow, 9, true));
    }
  }
  the_longest_texts_fit_a_large_message();
  return check_report();
}
