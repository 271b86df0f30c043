/* filter_glance_test.c - a glance rejects only what libpcap rejects, and rejects most of it.
 *
 * Random expressions have hosts and ports of the shared captures, so they match some packets of
 * them. Each is compared for each packet, whole and cut. filter_program_test.c compares glances
 * with random programs.
 */
#include <dirent.h>
#include <pcap/pcap.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "core/filter_program.h"
#include "random_draw.h"

enum {
  PACKETS_MAX = 16384,
  FILE_PACKETS_MAX = 300, /* from each file at most */
  EXPRESSIONS = 400,
  TEXT_MAX = 512,
};

static struct packet {
  uint8_t *data;
  uint32_t caplen;
  uint32_t wirelen;
} packets[PACKETS_MAX];

static uint32_t packet_count;

/* ---- packets ------------------------------------------------------------------------------- */

/* In an array of this size, so that ASan sees a load beyond it. */
static void add_packet(const uint8_t *data, uint32_t caplen, uint32_t wirelen) {
  if (packet_count == PACKETS_MAX)
    return;
  struct packet *packet = &packets[packet_count++];
  *packet = (struct packet){.data = malloc(caplen ? caplen : 1), caplen, wirelen};
  memcpy(packet->data, data, caplen);
}

static void read_file(const char *path) {
  char why[PCAP_ERRBUF_SIZE];
  struct pcap_pkthdr *head;
  const uint8_t *data;
  pcap_t *file = pcap_open_offline(path, why);
  if (!file)
    return; /* a case for the file backend alone */
  for (uint32_t i = 0; i < FILE_PACKETS_MAX && pcap_next_ex(file, &head, &data) == 1; i++) {
    add_packet(data, head->caplen, head->len);
    if (i % 4 == 0)
      add_packet(data, draw(head->caplen + 1), head->len);
  }
  pcap_close(file);
}

static void read_folder(const char *folder) {
  char path[1024];
  DIR *entries = opendir(folder);
  if (!entries) {
    fprintf(stderr, "filter_glance_test: %s is absent (set NETSONDE_TRACES)\n", folder);
    return;
  }
  for (const struct dirent *entry; (entry = readdir(entries));) {
    snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
    if (strstr(entry->d_name, ".pcap"))
      read_file(path);
  }
  closedir(entries);
}

/* Packets that always exist, one for each protocol. */
static void add_own_packets(void) {
  static const uint8_t protocols[] = {1, 2, 6, 17, 47, 50, 132};
  uint8_t data[64] = {2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 69, 0, 0, 50};
  memcpy(data + 26, "\x0a\0\0\1\x0a\0\0\2\x04\xd2\0\x35", 12);
  for (uint32_t i = 0; i < sizeof protocols; i++) {
    data[23] = protocols[i];
    for (uint32_t fragment = 0; fragment < 2; fragment++) {
      data[21] = (uint8_t)(fragment * 5);
      add_packet(data, sizeof data, sizeof data);
    }
  }
}

static void read_packets(void) {
  const char *folder = getenv("NETSONDE_TRACES");
  char path[1024];
  int here = (int)(strrchr(__FILE__, '/') - __FILE__);
  add_own_packets();
  if (folder)
    snprintf(path, sizeof path, "%s", folder);
  else /* next to the repository */
    snprintf(path, sizeof path, "%.*s/../../../shared/traces", here, __FILE__);
  read_folder(path);
  strncat(path, "/../cases", sizeof path - strlen(path) - 1);
  read_folder(path);
}

/* ---- expressions --------------------------------------------------------------------------- */

static uint32_t append(char *text, uint32_t at, const char *format, ...) {
  va_list values;
  va_start(values, format);
  int written = vsnprintf(text + at, TEXT_MAX - at, format, values);
  va_end(values);
  return at + (uint32_t)written < TEXT_MAX ? at + (uint32_t)written : TEXT_MAX - 1;
}

/* Returns a packet of IPv4 without options. */
static const uint8_t *draw_ipv4(void) {
  for (;;) {
    const struct packet *packet = &packets[draw(packet_count)];
    if (packet->caplen >= 42 && memcmp(packet->data + 12, "\x08\0\x45", 3) == 0)
      return packet->data;
  }
}

static uint32_t write_atom(char *text, uint32_t at) {
  static const char *const sides[] = {"", "src ", "dst ", "src and dst "};
  static const char *const protocols[] = {"", "tcp ", "udp ", "sctp "};
  static const char *const fixed[] = {"ip",
                                      "arp",
                                      "ip6",
                                      "tcp",
                                      "udp",
                                      "icmp",
                                      "vlan",
                                      "tcp[13] & 2 != 0",
                                      "ip[8] < 5",
                                      "len > 90",
                                      "ip[6:2] & 0x1fff = 0",
                                      "igmp",
                                      "tcp[tcpflags] = tcp-ack",
                                      "ip proto 47",
                                      "greater 200",
                                      "ip multicast",
                                      "ether broadcast",
                                      "udp[4:2] = 28"};
  const uint8_t *ip = draw_ipv4() + 14, *side = ip + 12 + 4 * draw(2),
                *port = ip + 20 + 2 * draw(2);
  uint32_t number = (uint32_t)port[0] << 8 | port[1];
  switch (draw(6)) {
  case 0:
    return append(text, at, "%shost %u.%u.%u.%u", sides[draw(4)], side[0], side[1], side[2],
                  side[3]);
  case 1:
    return append(text, at, "%snet %u.%u.0.0/16", sides[draw(4)], side[0], side[1]);
  case 2:
    return append(text, at, "%s%sportrange %u-%u", protocols[draw(4)], sides[draw(3)], number,
                  number < 65000 ? number + draw(3) : number);
  case 3:
    return append(text, at, "%s", fixed[draw(sizeof fixed / sizeof fixed[0])]);
  default:
    return append(text, at, "%s%sport %u", protocols[draw(4)], sides[draw(3)], number);
  }
}

static uint32_t write_expression(char *text, uint32_t at, uint32_t depth) {
  if (depth == 0 || draw(4) == 0)
    return write_atom(text, at);
  at = append(text, at, draw(5) ? "(" : "not (");
  at = write_expression(text, at, depth - 1);
  at = append(text, at, draw(2) ? " and " : " or ");
  at = write_expression(text, at, depth - 1);
  return append(text, at, ")");
}

static struct sonde_filter_program *compile(const char *expression, int optimize,
                                            struct bpf_program *program) {
  struct sonde_filter_program *fast = NULL;
  pcap_t *compiler = pcap_open_dead(DLT_EN10MB, 262144);
  if (pcap_compile(compiler, program, expression, optimize, PCAP_NETMASK_UNKNOWN) == 0) {
    fast = sonde_filter_program_make(program, true);
    CHECK(fast != NULL);
    if (!fast)
      pcap_freecode(program);
  }
  pcap_close(compiler);
  return fast;
}

/* Sums over all comparisons. */
static struct {
  uint64_t glances; /* that can reject */
  uint64_t matched;
  uint64_t rejected_by_glance;
  uint64_t rejected;
} met;

static void compare_packets(const char *what, const struct bpf_program *program,
                            const struct sonde_filter_program *fast) {
  struct sonde_filter_glance glance = sonde_filter_program_glance(fast);
  met.glances += glance.reach != UINT32_MAX;
  for (uint32_t i = 0; i < packet_count; i++) {
    const struct packet *one = &packets[i];
    bool wanted = bpf_filter(program->bf_insns, one->data, one->wirelen, one->caplen) != 0;
    bool rejects = sonde_filter_glance_rejects(&glance, one->data, one->caplen);
    bool found = !rejects && sonde_filter_program_run(fast, one->data, one->caplen, one->wirelen);
    met.matched += wanted;
    met.rejected += !wanted;
    met.rejected_by_glance += rejects;
    if (found != wanted)
      fprintf(stderr, "%s: packet %u\n", what, i);
    CHECK_EQ(found, wanted);
  }
}

static void compare(const char *expression, int optimize) {
  struct bpf_program program;
  struct sonde_filter_program *fast = compile(expression, optimize, &program);
  if (!fast)
    return; /* libpcap knows that nothing can match */
  compare_packets(expression, &program, fast);
  sonde_filter_program_destroy(fast);
  pcap_freecode(&program);
}

static void check_random_expressions(void) {
  for (uint32_t i = 0; i < EXPRESSIONS; i++) {
    char text[TEXT_MAX];
    write_expression(text, 0, draw(4));
    compare(text, i % 8 != 0);
  }
  CHECK(met.glances > EXPRESSIONS / 4);
  CHECK(met.matched > 0);
  CHECK(met.rejected_by_glance > met.rejected / 10);
}

/* The marks of common expressions: that the glance does what it is for. */
static void check_marks(void) {
  enum { NO_GLANCE = -1 };
  static const struct {
    const char *expression;
    int marks;
  } cases[] = {{"udp port 4999", 2},
               {"tcp port 443", 2},
               {"port 53", 2},
               {"port 53 or port 80", 4},
               {"host 10.9.9.9", 2},
               {"src host 10.9.9.9 and tcp port 443", 1},
               {"host 10.9.9.9 and tcp port 443", 2},
               {"arp", 0},
               {"ip6", 0},
               {"not ip", 0},
               {"icmp", 1},
               {"tcp", 1},
               {"udp portrange 50-60", 1},
               {"tcp[tcpflags] & tcp-syn != 0", 1},
               {"", NO_GLANCE},
               {"ip", NO_GLANCE},
               {"not port 22", NO_GLANCE},
               {"port 1 or port 2 or port 3", NO_GLANCE},
               {"greater 100", NO_GLANCE}};
  for (uint32_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    struct bpf_program program;
    struct sonde_filter_program *fast = compile(cases[i].expression, 1, &program);
    CHECK(fast != NULL);
    if (!fast)
      continue;
    struct sonde_filter_glance glance = sonde_filter_program_glance(fast);
    int marks = glance.reach == UINT32_MAX ? NO_GLANCE : (int)glance.count;
    if (marks != cases[i].marks)
      fprintf(stderr, "%s\n", cases[i].expression);
    CHECK_EQ(marks, cases[i].marks);
    sonde_filter_program_destroy(fast);
    pcap_freecode(&program);
    compare(cases[i].expression, 1);
  }
}

/* A comes from one of two loads, so the comparison is no mark. No expression compiles to this. */
static void check_two_loads(void) {
  struct bpf_insn insns[] = {
      {.code = BPF_LD | BPF_B | BPF_ABS, .k = 23},
      {.code = BPF_JMP | BPF_JEQ | BPF_K, .jt = 0, .jf = 2, .k = 17},
      {.code = BPF_LD | BPF_H | BPF_ABS, .k = 34},
      {.code = BPF_JMP | BPF_JA, .k = 2},
      {.code = BPF_LD | BPF_H | BPF_ABS, .k = 36},
      {.code = BPF_JMP | BPF_JA, .k = 0}, /* else it becomes one step with the comparison */
      {.code = BPF_JMP | BPF_JEQ | BPF_K, .jt = 0, .jf = 1, .k = 53},
      {.code = BPF_RET | BPF_K, .k = 1},
      {.code = BPF_RET | BPF_K, .k = 0},
  };
  struct bpf_program program = {.bf_len = sizeof insns / sizeof insns[0], .bf_insns = insns};
  struct sonde_filter_program *fast = sonde_filter_program_make(&program, true);
  CHECK(fast != NULL);
  if (fast)
    compare_packets("two loads", &program, fast);
  sonde_filter_program_destroy(fast);
}

int main(void) {
  read_packets();
  check_two_loads();
  check_marks();
  check_random_expressions();
  fprintf(stderr, "%llu packets matched, %llu of %llu others were rejected at a glance\n",
          (unsigned long long)met.matched, (unsigned long long)met.rejected_by_glance,
          (unsigned long long)met.rejected);
  for (uint32_t i = 0; i < packet_count; i++)
    free(packets[i].data);
  return check_report();
}
