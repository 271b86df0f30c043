/* names_test.c - each packet in an answer or a segment has its own interface's name.
 *
 * Slots, a slot that changes its name, several sessions in one directory, and segments of
 * version 1, which have no names.
 */
#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include "store/names.h"
#include "store/segment.h"
#include "stored_packets.h"

static struct store_events store_events;
static struct sonde_decoder *decoder;
static char directory[] = "/tmp/netsonde-names-XXXXXX"; /* for mkdtemp */

static struct sonde_store *open_store(const char *host, const char *dir) {
  struct sonde_store *store = NULL;
  struct sonde_error error = {0};
  struct sonde_store_config config = {.bytes = 8 << 20,
                                      .workers = 2,
                                      .host = host,
                                      .dir = dir,
                                      .disk_bytes = 64 << 20,
                                      .raise = note_event,
                                      .context = &store_events};
  CHECK_EQ(sonde_store_open(&config, &store, &error), SONDE_OK);
  return store;
}

static void set_name(struct sonde_store *store, uint32_t slot, const char *name) {
  struct sonde_error error = {0};
  CHECK_EQ(sonde_store_name_set(store, slot, name, &error), SONDE_OK);
}

static void append_from(struct sonde_store *store, uint16_t slot, uint64_t from, uint64_t to) {
  struct sonde_appender *appender = sonde_store_appender(store, slot % 2);
  for (uint64_t number = from; number < to; number++) {
    struct made made;
    struct sonde_decoded decoded;
    make_packet(&made, slot % 2, number);
    made.packet.source = slot;
    int cause = sonde_decode(decoder, &made.packet, &decoded);
    sonde_appender_add(appender, &made.packet, cause < 0 ? &decoded : NULL, made.packet.time_ns);
  }
  sonde_appender_cut(appender, 0);
}

/* One answer's packets by interface name. */
struct counted {
  uint32_t interfaces;
  char name[64][SONDE_NAME_BYTES];
  uint32_t packets[64];
};

static void count_blocks(const struct answer *answer, struct counted *counted) {
  for (size_t at = 0; at < answer->length; at += answer_u32(answer, at + 4)) {
    uint32_t type = answer_u32(answer, at);
    if (type == 6)
      counted->packets[answer_u32(answer, at + 8)]++;
    if (type != 1)
      continue;
    uint32_t option = answer_u32(answer, at + 16);
    if ((option & 0xffff) == 2)
      memcpy(counted->name[counted->interfaces], answer->bytes + at + 20, option >> 16);
    counted->interfaces++;
  }
}

static uint32_t packets_of(const struct counted *counted, const char *name) {
  uint32_t packets = 0;
  for (uint32_t i = 0; i < counted->interfaces; i++)
    packets += strcmp(counted->name[i], name) == 0 ? counted->packets[i] : 0;
  return packets;
}

static struct counted query_all(struct sonde_store *store) {
  struct sonde_query *query;
  struct sonde_error error = {0};
  struct sonde_query_config config = {.end_ns = UINT64_MAX};
  struct counted counted = {0};
  CHECK_EQ(sonde_query_open(store, &config, &query, &error), SONDE_OK);
  struct answer answer = read_answer(query);
  CHECK_EQ(answer.status, SONDE_END);
  count_blocks(&answer, &counted);
  free(answer.bytes);
  sonde_query_close(query);
  return counted;
}

static void test_memory(void) {
  struct sonde_store *store = open_store("web-1", NULL);
  set_name(store, 0, "eth0");
  set_name(store, 1, "eth1");
  set_name(store, 63, "eth1.5");
  append_from(store, 0, 0, 10);
  append_from(store, 1, 10, 30);
  append_from(store, 63, 30, 60);
  set_name(store, 1, "wlan0"); /* another interface gets the slot */
  append_from(store, 1, 60, 100);
  set_name(store, 2, "eth1"); /* the first one returns, in another slot */
  append_from(store, 2, 100, 105);
  struct counted counted = query_all(store);
  CHECK_EQ(counted.interfaces, 4);
  CHECK_EQ(packets_of(&counted, "web-1/eth0"), 10);
  CHECK_EQ(packets_of(&counted, "web-1/eth1"), 25);
  CHECK_EQ(packets_of(&counted, "web-1/eth1.5"), 30);
  CHECK_EQ(packets_of(&counted, "web-1/wlan0"), 40);
  struct sonde_error error = {0};
  CHECK_EQ(sonde_store_name_set(store, 64, "x", &error), SONDE_INVALID);
  sonde_store_close(store);
}

/* A worker stores a batch of one interface after later packets of another. */
static void test_order(const char *dir) {
  struct sonde_store *store = open_store("web-1", dir);
  set_name(store, 0, "eth0");
  set_name(store, 2, "eth1");
  for (uint64_t start = 0; start < 300; start += 50) {
    append_from(store, 2, 3000 + start, 3000 + start + 50);
    append_from(store, 0, 3000 + start / 2, 3000 + start / 2 + 25);
  }
  wait_until_idle(store);
  struct sonde_query *query;
  struct sonde_error error = {0};
  struct sonde_query_config config = {.start_ns = made_start_ns + 3000 * made_step_ns,
                                      .end_ns = UINT64_MAX};
  CHECK_EQ(sonde_query_open(store, &config, &query, &error), SONDE_OK);
  struct answer answer = read_answer(query);
  uint64_t newest_ns = 0;
  uint32_t packets = 0;
  for (struct sonde_packet packet; next_answer(&answer, &packet); packets++) {
    CHECK(packet.time_ns >= newest_ns);
    newest_ns = packet.time_ns;
  }
  CHECK_EQ(packets, 450); /* one chunk */
  free(answer.bytes);
  sonde_query_close(query);
  sonde_store_close(store);
}

/* The names of all packets in the directory's segments, as `netsonde decrypt` writes them. */
static struct counted export_all(const char *fallback) {
  struct counted counted = {0};
  static uint8_t buffer[SONDE_PACKETS_READ_MIN];
  DIR *dir = opendir(directory);
  for (struct dirent *entry = readdir(dir); entry; entry = readdir(dir)) {
    struct sonde_segment *segment;
    struct sonde_error error = {0};
    if (!strstr(entry->d_name, ".segment"))
      continue;
    int fd = openat(dirfd(dir), entry->d_name, O_RDONLY);
    CHECK_EQ(sonde_segment_open(fd, NULL, fallback, &segment, &error), SONDE_OK);
    struct counted one = {0};
    int status;
    while ((status = sonde_segment_read(segment, buffer, sizeof buffer, &error)) >= 0) {
      struct answer answer = {.bytes = buffer, .length = (size_t)status};
      count_blocks(&answer, &one);
    }
    CHECK_EQ(status, SONDE_END);
    for (uint32_t i = 0; i < one.interfaces; i++) {
      memcpy(counted.name[counted.interfaces], one.name[i], SONDE_NAME_BYTES);
      counted.packets[counted.interfaces++] = one.packets[i];
    }
    sonde_segment_close(segment);
    close(fd);
  }
  closedir(dir);
  return counted;
}

/* The names of an earlier session, whose numbers the next session uses for others. */
static void test_segments(void) {
  struct sonde_store *store = open_store("web-1", directory);
  set_name(store, 0, "eth0");
  set_name(store, 1, "eth1");
  append_from(store, 0, 0, 100);
  append_from(store, 1, 100, 150);
  sonde_store_close(store);
  store = open_store("web-2", directory);
  set_name(store, 0, "wlan0");
  append_from(store, 0, 1000, 1007);
  wait_until_idle(store);
  struct counted counted = query_all(store);
  CHECK_EQ(packets_of(&counted, "web-1/eth0"), 100);
  CHECK_EQ(packets_of(&counted, "web-1/eth1"), 50);
  CHECK_EQ(packets_of(&counted, "web-2/wlan0"), 7);
  sonde_store_close(store);
  counted = export_all("");
  CHECK_EQ(packets_of(&counted, "web-1/eth0"), 100);
  CHECK_EQ(packets_of(&counted, "web-1/eth1"), 50);
  CHECK_EQ(packets_of(&counted, "web-2/wlan0"), 7);
}

/* Makes the directory's segments files of version 1. */
static void turn_into_version_1(void) {
  static uint8_t clear[SONDE_FRAME_PAYLOAD_MAX], sealed[SONDE_FRAME_BYTES_MAX];
  DIR *dir = opendir(directory);
  for (struct dirent *entry = readdir(dir); entry; entry = readdir(dir)) {
    struct sonde_segment_reader reader;
    struct sonde_segment_frame frame;
    if (!strstr(entry->d_name, ".segment"))
      continue;
    int fd = openat(dirfd(dir), entry->d_name, O_RDWR);
    CHECK_EQ(sonde_segment_reader_open(&reader, fd, NULL), SONDE_OK);
    struct sonde_segment_header header = reader.header;
    uint64_t at = sizeof header;
    header.version = SONDE_SEGMENT_VERSION_UNNAMED;
    int status;
    do {
      status = sonde_segment_reader_next(&reader, &frame);
      if (status == SONDE_OK)
        CHECK_EQ(sonde_segment_reader_load(&reader, &frame, clear), SONDE_OK);
      frame.payload_bytes -= frame.name_bytes;
      frame.name_bytes = 0;
      struct sonde_packet packet;
      for (uint32_t offset = 0, start = 0;
           sonde_packet_layout_next(clear, frame.payload_bytes, &offset, &packet); start = offset)
        memset(clear + start + offsetof(struct sonde_packet_layout, name), 0, 2);
      CHECK_EQ(sonde_frame_seal(&header, NULL, &frame, clear, sealed), SONDE_OK);
      uint32_t bytes = sonde_frame_bytes(frame.payload_bytes);
      CHECK_EQ(pwrite(fd, sealed, bytes, (off_t)at), bytes);
      at += bytes;
    } while (status == SONDE_OK);
    CHECK_EQ(status, SONDE_END);
    CHECK_EQ(pwrite(fd, &header, sizeof header, 0), sizeof header);
    CHECK_EQ(ftruncate(fd, (off_t)at), 0);
    sonde_segment_reader_close(&reader);
    close(fd);
  }
  closedir(dir);
}

static void test_version_1(void) {
  turn_into_version_1();
  struct counted counted = export_all("given");
  CHECK_EQ(packets_of(&counted, "given"), 157);
  struct sonde_store *store = open_store("web-3", directory);
  set_name(store, 0, "eth9");
  append_from(store, 0, 2000, 2003);
  wait_until_idle(store);
  counted = query_all(store);
  CHECK_EQ(packets_of(&counted, ""), 157);
  CHECK_EQ(packets_of(&counted, "web-3/eth9"), 3);
  sonde_store_close(store);
}

/* More names than numbers: an old name is replaced, never one in a slot. */
static void test_many_names(void) {
  struct sonde_names names = {0};
  char name[SONDE_NAME_BYTES];
  CHECK(sonde_names_init(&names));
  CHECK(sonde_names_set(&names, 0, "stays"));
  names.name = realloc(names.name, SONDE_NAMES_MAX * sizeof *names.name);
  for (; names.count < SONDE_NAMES_MAX; names.count++) /* set's search is linear */
    snprintf(names.name[names.count], sizeof *names.name, "veth%u", names.count);
  for (int i = 0; i < 3; i++) {
    snprintf(name, sizeof name, "new%d", i);
    CHECK(sonde_names_set(&names, 1, name));
    CHECK_EQ(names.number_of[1], 2 + i); /* 1 is the slot's of "stays" */
    sonde_names_copy(&names, names.number_of[1], name);
    CHECK(name[0] == 'n' && name[3] == '0' + i);
  }
  CHECK(sonde_names_set(&names, 1, "veth9"));
  CHECK_EQ(names.number_of[1], 9);
  CHECK(sonde_names_set(&names, 1, "new3")); /* does not replace the name of a moment ago */
  CHECK_EQ(names.number_of[1], 5);
  sonde_names_copy(&names, 4, name);
  CHECK(strcmp(name, "new2") == 0);
  sonde_names_copy(&names, names.number_of[0], name);
  CHECK(strcmp(name, "stays") == 0);
  CHECK_EQ(names.count, SONDE_NAMES_MAX);
  sonde_names_release(&names);
}

/* The block takes whole names only. */
static void test_room(void) {
  static const char *const texts[] = {"a-name-of-forty-bytes-that-fits-into-64.",
                                      "second-with-twenty-4byte"};
  struct sonde_names names = {0};
  uint8_t data[1024] = {0}, block[192];
  char name[SONDE_NAME_BYTES];
  uint32_t bytes = 0;
  CHECK(sonde_names_init(&names));
  for (uint32_t slot = 0; slot < 2; slot++) {
    CHECK(sonde_names_set(&names, slot, texts[slot]));
    struct sonde_packet_layout head = {.caplen = 60, .wirelen = 60, .name = names.number_of[slot]};
    memcpy(data + bytes, &head, sizeof head);
    bytes += sonde_packet_layout_bytes(head.caplen);
  }
  for (uint32_t capacity = 0; capacity <= 128; capacity += SONDE_NAMES_ALIGN) {
    memset(block, 0x5a, sizeof block);
    uint32_t used = sonde_names_write(&names, data, bytes, block, capacity);
    CHECK_EQ(used, capacity);
    for (uint32_t at = capacity; at < sizeof block; at++)
      CHECK_EQ(block[at], 0x5a);
    for (uint32_t slot = 0; slot < 2; slot++) {
      sonde_names_find(block, used, names.number_of[slot], name);
      CHECK(strcmp(name, capacity > slot * SONDE_NAMES_ALIGN ? texts[slot] : "") == 0);
    }
  }
  sonde_names_release(&names);
}

int main(void) {
  decoder = sonde_decoder_create(1, NULL);
  CHECK(mkdtemp(directory) != NULL);
  test_memory();
  test_order(NULL);
  test_segments();
  test_version_1();
  test_many_names();
  test_room();
  DIR *dir = opendir(directory);
  for (struct dirent *entry = readdir(dir); entry; entry = readdir(dir))
    if (strstr(entry->d_name, "netsonde-"))
      unlinkat(dirfd(dir), entry->d_name, 0);
  closedir(dir);
  CHECK_EQ(rmdir(directory), 0);
  sonde_decoder_destroy(decoder);
  return check_report();
}
