/* decode_fuzz.c - libFuzzer target of the decoder.
 *
 *   byte 0   link type, an index         byte 1   bit 0 inner mode, bit 1 two frames
 *   byte 2-3 gso_size, big-endian        then     [u16 length of the first frame,] bytes
 *
 * Each frame is decoded from a heap copy of its exact size: whole, as a super-packet, and
 * cut in half. The target aborts if the fields of a flow are inconsistent.
 *
 * With NETSONDE_TRACES, the directory of the shared traces, their frames are seeds too. They
 * are written to a temporary corpus that is removed at the end of the run.
 */
#include <dirent.h>
#include <pcap/pcap.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "parse/decode.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { HEAD_BYTES = 4, SEEDS_PER_TRACE_MAX = 200 };

static const uint16_t linktypes[] = {
    SONDE_LINKTYPE_ETHERNET,
    SONDE_LINKTYPE_RAW,
    SONDE_LINKTYPE_IPV4,
    SONDE_LINKTYPE_IPV6,
    SONDE_LINKTYPE_NULL,
    SONDE_LINKTYPE_LOOP,
    SONDE_LINKTYPE_SLL,
    SONDE_LINKTYPE_SLL2,
    SONDE_LINKTYPE_PPP,
    SONDE_LINKTYPE_PPP_HDLC,
    SONDE_LINKTYPE_C_HDLC,
    SONDE_LINKTYPE_WLAN,
    SONDE_LINKTYPE_RADIOTAP,
    SONDE_LINKTYPE_PPI,
    SONDE_LINKTYPE_NFLOG,
    SONDE_LINKTYPE_PFLOG,
    SONDE_LINKTYPE_FDDI,
    SONDE_LINKTYPE_PRISM,
    SONDE_LINKTYPE_AVS,
    SONDE_LINKTYPE_FRAME_RELAY,
    SONDE_LINKTYPE_TOKEN_RING,
    SONDE_LINKTYPE_ENC,
    SONDE_LINKTYPE_PPPOE,
    SONDE_LINKTYPE_ATM_LLC,
    SONDE_LINKTYPE_IPOIB,
    SONDE_LINKTYPE_FIREWIRE,
    SONDE_LINKTYPE_PPP_DIRECTION,
    SONDE_LINKTYPE_C_HDLC_DIRECTION,
    SONDE_LINKTYPE_FRAME_RELAY_DIRECTION,
};
enum { LINKTYPES = sizeof(linktypes) / sizeof(linktypes[0]) };

static char seed_dir[] = "/tmp/decode_fuzz_seeds.XXXXXX";

static void require(int holds) {
  if (!holds)
    abort();
}

static int is_inside(const uint8_t *pointer, size_t bytes, const struct sonde_packet *packet) {
  return pointer >= packet->data && pointer + bytes <= packet->data + packet->caplen;
}

static void check_flow(const struct sonde_packet *packet, const struct sonde_decoded *out) {
  const struct sonde_key *key = &out->key;
  int addresses = memcmp(key->lo_ip, key->hi_ip, sizeof(key->lo_ip));
  require(addresses < 0 || (addresses == 0 && key->lo_port <= key->hi_port));
  require(key->ip_version == 4 || key->ip_version == 6);
  require(key->vlan_depth <= SONDE_VLAN_DEPTH_MAX);
  for (int i = key->vlan_depth; i < SONDE_VLAN_DEPTH_MAX; i++)
    require(key->vlan[i] == 0);
  require(key->one_way <= 2 && (key->one_way == 0 || key->protocol == 1 || key->protocol == 58));
  require(out->packets >= 1 && (packet->gso_size != 0 || out->packets == 1));
  require(out->ip_bytes >= (key->ip_version == 4 ? 20 : 40) && out->ip_bytes <= out->l2_bytes);
  require(out->l2_bytes >= packet->wirelen &&
          (out->packets > 1 || out->l2_bytes == packet->wirelen));
  require(!(out->flags & SONDE_DECODED_TCP) ||
          (key->protocol == 6 && out->tcp_payload <= packet->wirelen));
  require(!(out->flags & SONDE_DECODED_MAC) ||
          (is_inside(out->source_mac, 6, packet) && is_inside(out->dest_mac, 6, packet)));
  if (out->tunnel_type != SONDE_TUNNEL_NONE) {
    size_t bytes = out->tunnel_ip_version == 4 ? 4 : 16;
    require(is_inside(out->tunnel_source_ip, bytes, packet));
    require(is_inside(out->tunnel_dest_ip, bytes, packet));
  }
}

static void decode(struct sonde_decoder *decoder, struct sonde_packet packet) {
  struct sonde_decoded out;
  uint8_t *copy = malloc(packet.caplen ? packet.caplen : 1);
  require(copy != NULL);
  memcpy(copy, packet.data, packet.caplen);
  packet.data = copy;
  int result = sonde_decode(decoder, &packet, &out);
  require(result >= -1 && result < SONDE_NON_FLOW_COUNT);
  require(out.time_ns == packet.time_ns && out.packets >= 1);
  if (result == -1)
    check_flow(&packet, &out);
  free(copy);
}

static void decode_variants(struct sonde_decoder *decoder, const uint8_t *data, size_t size,
                            uint16_t linktype, uint16_t gso_size) {
  struct sonde_packet packet = {
      .data = data,
      .time_ns = 1,
      .caplen = (uint32_t)size,
      .wirelen = (uint32_t)size,
      .linktype = linktype,
  };
  decode(decoder, packet);
  packet.gso_size = gso_size;
  packet.wirelen += gso_size;
  decode(decoder, packet);
  packet.caplen /= 2;
  packet.gso_size = 0;
  decode(decoder, packet);
}

/* Returns the mode's decoder. It is created again for inputs of two frames: only those use the
 * fragment table, and clearing the table takes longer than everything else. */
static struct sonde_decoder *get_decoder(int inner, int fresh) {
  static struct sonde_decoder *decoders[2];
  if (fresh) {
    sonde_decoder_destroy(decoders[inner]);
    decoders[inner] = NULL;
  }
  if (decoders[inner] == NULL)
    decoders[inner] = sonde_decoder_create(inner, NULL);
  require(decoders[inner] != NULL);
  return decoders[inner];
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < HEAD_BYTES)
    return 0;
  struct sonde_decoder *decoder = get_decoder(data[1] & 1, data[1] & 2);
  uint16_t linktype = linktypes[data[0] % LINKTYPES];
  uint16_t gso_size = (uint16_t)(data[2] << 8 | data[3]);
  const uint8_t *frame = data + HEAD_BYTES;
  size_t left = size - HEAD_BYTES;
  if (data[1] & 2 && left >= 2) {
    size_t first = (size_t)(frame[0] << 8 | frame[1]);
    frame += 2;
    left -= 2;
    if (first > left)
      first = left;
    decode_variants(decoder, frame, first, linktype, gso_size);
    frame += first;
    left -= first;
  }
  decode_variants(decoder, frame, left, linktype, gso_size);
  return 0;
}

/* ---- seeds from the shared traces --------------------------------------------------- */

static void write_seed(uint8_t index, uint8_t mode, const uint8_t *frame, size_t bytes) {
  static unsigned seeds;
  char path[sizeof(seed_dir) + 16];
  const uint8_t head[HEAD_BYTES] = {index, mode, 5, 0xa8};
  snprintf(path, sizeof(path), "%s/%u", seed_dir, seeds++);
  FILE *file = fopen(path, "wb");
  require(file != NULL);
  require(fwrite(head, 1, sizeof(head), file) == sizeof(head));
  require(fwrite(frame, 1, bytes, file) == bytes);
  require(fclose(file) == 0);
}

static void write_trace_seeds(const char *path) {
  char error[PCAP_ERRBUF_SIZE];
  struct pcap_pkthdr *header;
  const uint8_t *frame;
  pcap_t *trace = pcap_open_offline(path, error);
  if (trace == NULL) /* the directory holds other files as well */
    return;
  int linktype = pcap_datalink(trace);
  for (uint8_t index = 0; index < LINKTYPES; index++)
    if (linktypes[index] == linktype)
      for (int count = 0; count < SEEDS_PER_TRACE_MAX && pcap_next_ex(trace, &header, &frame) == 1;
           count++)
        write_seed(index, count & 1, frame, header->caplen);
  pcap_close(trace);
}

static void remove_seeds(void) {
  DIR *dir = opendir(seed_dir);
  if (dir == NULL)
    return;
  for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
    unlinkat(dirfd(dir), entry->d_name, 0);
  closedir(dir);
  rmdir(seed_dir);
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
  static char *arguments[64];
  const char *traces = getenv("NETSONDE_TRACES");
  DIR *dir = traces == NULL ? NULL : opendir(traces);
  if (dir == NULL || *argc > 62) {
    fprintf(stderr, "decode_fuzz: no trace seeds, NETSONDE_TRACES names no directory\n");
    return 0;
  }
  require(mkdtemp(seed_dir) != NULL);
  atexit(remove_seeds);
  for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
    char path[4096];
    snprintf(path, sizeof(path), "%s/%s", traces, entry->d_name);
    write_trace_seeds(path);
  }
  closedir(dir);
  memcpy(arguments, *argv, (size_t)*argc * sizeof(char *));
  arguments[(*argc)++] = seed_dir;
  *argv = arguments;
  return 0;
}
