/* filter_program_test.c - the fast form of a BPF program has libpcap's result for every packet,
 * and its glance rejects only packets that libpcap rejects.
 *
 * Random programs have every instruction, on random bytes and lengths. Expressions are those that
 * users write, compiled with and without the optimizer, on frames that are changed at random.
 */
#include <pcap/pcap.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "core/filter_program.h"
#include "random_draw.h"

enum {
  PROGRAMS = 60000,
  INSTRUCTIONS_MAX = 40,
  PACKET_BYTES = 128,
  FRAME_BYTES = 200,
  PACKETS = 30
};

/* Copies to an array of this size, so that ASan sees a load beyond it. */
static void compare(const struct bpf_program *program, const struct sonde_filter_program *fast,
                    const struct sonde_filter_glance *glance, const uint8_t *data, uint32_t caplen,
                    uint32_t wirelen, const char *what) {
  uint8_t *packet = malloc(caplen ? caplen : 1);
  memcpy(packet, data, caplen);
  bool wanted = bpf_filter(program->bf_insns, packet, wirelen, caplen) != 0;
  bool found = sonde_filter_program_run(fast, packet, caplen, wirelen);
  CHECK_EQ(found, wanted);
  CHECK(!wanted || !sonde_filter_glance_rejects(glance, packet, caplen));
  if (found != wanted)
    fprintf(stderr, "%s: caplen %u\n", what, caplen);
  free(packet);
}

/* ---- random programs ------------------------------------------------------------------- */

static uint32_t draw_number(void) {
  static const uint32_t numbers[] = {0, 1, 2, 3, 12, 14, 0x800, 0xff, 0xffff, ~0u, ~0u - 3};
  uint32_t count = sizeof numbers / sizeof numbers[0], at = draw(3 * count);
  return at < count ? numbers[at] : draw(PACKET_BYTES);
}

/* Draws mostly bytes that filters read. */
static uint32_t draw_offset(void) {
  static const uint8_t offsets[] = {12, 13, 14, 14, 12, 20, 23, 11, 15};
  return draw(3) ? offsets[draw(sizeof offsets)] : draw(40);
}

static uint32_t draw_value(void) {
  static const uint32_t values[] = {0x800, 8, 0, 0x45, 0x4500, 0x08004500, 17, 6, 1, 0xff, 0x86dd};
  return values[draw(sizeof values / sizeof values[0])];
}

/* plain: an instruction that the fast loop executes, as in the programs of most expressions. */
static struct bpf_insn draw_instruction(uint32_t left, bool plain) {
  static const uint16_t codes[] = {BPF_LD | BPF_B | BPF_ABS,
                                   BPF_LD | BPF_H | BPF_ABS,
                                   BPF_LD | BPF_W | BPF_ABS,
                                   BPF_LD | BPF_B | BPF_IND,
                                   BPF_LD | BPF_H | BPF_IND,
                                   BPF_LD | BPF_W | BPF_IND,
                                   BPF_LDX | BPF_MSH | BPF_B,
                                   BPF_RET | BPF_K,
                                   BPF_JMP | BPF_JA, /* plain ones end here */
                                   BPF_LD | BPF_IMM,
                                   BPF_LDX | BPF_IMM,
                                   BPF_LD | BPF_LEN,
                                   BPF_LDX | BPF_LEN,
                                   BPF_LD | BPF_MEM,
                                   BPF_LDX | BPF_MEM,
                                   BPF_ST,
                                   BPF_STX,
                                   BPF_MISC | BPF_TAX,
                                   BPF_MISC | BPF_TXA,
                                   BPF_ALU | BPF_NEG,
                                   BPF_RET | BPF_A,
                                   BPF_ALU | BPF_AND | BPF_K};
  static const uint16_t compared[] = {BPF_JEQ, BPF_JGT, BPF_JGE, BPF_JSET};
  static const uint16_t operations[] = {BPF_ADD, BPF_SUB, BPF_MUL, BPF_DIV, BPF_OR,
                                        BPF_AND, BPF_LSH, BPF_RSH, BPF_MOD, BPF_XOR};
  uint32_t count = plain ? 9 : sizeof codes / sizeof codes[0];
  uint32_t kind = draw(count + (plain ? 12 : 24));
  struct bpf_insn insn = {.k = plain ? draw_offset() : draw_number()};
  if (kind < count)
    insn.code = codes[kind];
  else if (kind < count + 12)
    insn.code = (uint16_t)(BPF_JMP | compared[draw(4)] | (plain || draw(3) ? BPF_K : BPF_X));
  else
    insn.code = (uint16_t)(BPF_ALU | operations[draw(10)] | (draw(2) ? BPF_K : BPF_X));
  uint16_t class = BPF_CLASS(insn.code), operation = BPF_OP(insn.code);
  bool loads = class == BPF_LD || class == BPF_LDX;
  if (class == BPF_ST || class == BPF_STX || (loads && BPF_MODE(insn.code) == BPF_MEM))
    insn.k %= BPF_MEMWORDS;
  if (class == BPF_ALU && (operation == BPF_LSH || operation == BPF_RSH))
    insn.k %= 32;
  if (class == BPF_ALU && (operation == BPF_DIV || operation == BPF_MOD) && insn.k == 0)
    insn.k = 3;
  if (class == BPF_JMP) {
    insn.jt = (uint8_t)draw(left < 6 ? left : 6);
    insn.jf = (uint8_t)draw(left < 6 ? left : 6);
    insn.k = operation == BPF_JA ? draw(left) : draw(4) ? draw_value() : insn.k;
  }
  return insn;
}

/* Sometimes all words of memory are set first: libpcap does not clear them. */
static struct bpf_program draw_program(struct bpf_insn *insns, bool plain) {
  uint32_t at = 0, length = 2 + draw(INSTRUCTIONS_MAX);
  if (!plain) {
    insns[at++] = (struct bpf_insn){.code = BPF_LD | BPF_W | BPF_ABS, .k = draw(8)};
    for (uint32_t word = 0; word < BPF_MEMWORDS; word++)
      insns[at++] = (struct bpf_insn){.code = BPF_ST, .k = word};
    length += BPF_MEMWORDS;
  }
  for (; at < length - 1; at++) {
    insns[at] = draw_instruction(length - at - 1, plain);
    bool loads = plain && insns[at].code != BPF_LDX && BPF_CLASS(insns[at].code) == BPF_LD;
    if (loads && at + 3 < length && draw(4) == 0)
      insns[++at] = (struct bpf_insn){.code = BPF_ALU | BPF_AND | BPF_K, .k = draw_number()};
  }
  insns[at++] = (struct bpf_insn){.code = BPF_RET | BPF_K, .k = draw(2)};
  return (struct bpf_program){.bf_len = at, .bf_insns = insns};
}

static void check_random_programs(void) {
  struct bpf_insn insns[BPF_MEMWORDS + 2 + INSTRUCTIONS_MAX + 1];
  uint32_t matched = 0, runs = 0, glances = 0;
  for (uint32_t i = 0; i < PROGRAMS; i++) {
    struct bpf_program program = draw_program(insns, i % 2);
    struct sonde_filter_program *fast = sonde_filter_program_make(&program, true);
    CHECK(fast != NULL);
    struct sonde_filter_glance glance =
        fast ? sonde_filter_program_glance(fast) : sonde_filter_no_glance;
    glances += glance.reach != UINT32_MAX;
    for (uint32_t j = 0; fast && j < 4; j++) {
      uint8_t data[PACKET_BYTES];
      for (uint32_t at = 0; at < PACKET_BYTES; at++)
        data[at] = (uint8_t)(draw(2) ? draw(256) : draw(3));
      if (draw(2)) /* IPv4 without options */
        memcpy(data + 12, "\x08\0\x45", 3);
      uint32_t caplen = draw(4) ? 8 + draw(PACKET_BYTES - 8) : draw(12);
      compare(&program, fast, &glance, data, caplen, caplen + draw(100), "a random program");
      matched += sonde_filter_program_run(fast, data, caplen, caplen);
      runs++;
    }
    sonde_filter_program_destroy(fast);
  }
  CHECK(glances > PROGRAMS / 100);
  CHECK(matched > runs / 20 && matched < runs - runs / 20);
}

/* ---- expressions --------------------------------------------------------------------------- */

static const char *const expressions[] = {
    "",
    "ip",
    "arp",
    "ip6",
    "tcp",
    "udp port 4999",
    "tcp port 443",
    "port 53",
    "not port 22",
    "host 10.0.0.1",
    "host 10.0.0.1 and tcp",
    "src net 10.0.0.0/8 and not dst net 192.168.0.0/16",
    "tcp[tcpflags] & (tcp-syn|tcp-fin) != 0",
    "udp portrange 50-60",
    "portrange 1000-2000",
    "less 60 or greater 1000",
    "ip[8] < 5",
    "ip[2:2] > 576",
    "icmp or icmp6",
    "ip proto 47",
    "vlan",
    "vlan 42 and udp port 53",
    "vlan and vlan and tcp",
    "mpls 5 and ip",
    "pppoes and ip",
    "ether host 02:00:00:00:00:01",
    "ether broadcast",
    "ip6 host fe80::1 and tcp port 80",
    "ip6 net 2001:db8::/32",
    "ip6 protochain 6",
    "ip protochain 17",
    "tcp[((tcp[12] & 0xf0) >> 2):4] = 0x47455420",
    "udp[4:2] * 2 + 3 - len / 7 = ip[4] ^ 5",
    "ip[0] & 0xf > 5 and (tcp or udp)",
    "not ip",
    "(tcp or udp) and (src port 53 or dst portrange 100-200) and not host 10.0.0.9",
    "geneve",
    "ether proto 0x88cc",
    "ip[6:2] & 0x1fff != 0",
    "sctp",
    "len % 3 = 1",
    "ip multicast"};

static const uint8_t ipv4[] = {
    2,  0,   0, 0,  0, 1,  2, 0, 0,  0,  0, 2, 0x08, 0x00,                     /* Ethernet */
    69, 0,   0, 48, 0, 1,  0, 0, 64, 17, 0, 0, 10,   0,    0,  1, 10, 0, 0, 2, /* IPv4 */
    4,  210, 0, 53, 0, 28, 0, 0, 80, 2,  3, 4, 71,   69,   84, 32};            /* UDP 1234 > 53 */
static const uint8_t ipv6[] = {
    2,    0,    0,    0,    0, 1,  2, 0,  0, 0, 0, 2, 0x86, 0xdd,          /* Ethernet */
    0x60, 0,    0,    0,    0, 20, 6, 64,                                  /* IPv6 */
    0xfe, 0x80, 0,    0,    0, 0,  0, 0,  0, 0, 0, 0, 0,    0,    0,    1, /* from */
    0x20, 1,    0x0d, 0xb8, 0, 0,  0, 0,  0, 0, 0, 0, 0,    0,    0,    2, /* to */
    4,    210,  0,    80,   0, 0,  0, 1,  0, 0, 0, 1, 0x50, 2,    0x20, 0, 0, 0, 0, 0};
static const uint8_t tagged[] = {
    2, 0,  0,  0, 0, 1,  2, 0, 0, 0,  0, 2, 0x81, 0, 0,   42, 0x08, 0x00, 69, 0, 0, 32, 0, 1, 0,
    0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,    4, 210, 0,  53,   0,    12, 0, 0, 1,  2, 3, 4};

/* Changes some bytes, mostly those that filters read. */
static uint32_t draw_packet(uint8_t *data) {
  static const struct {
    const uint8_t *data;
    uint32_t bytes;
  } frames[] = {{ipv4, sizeof ipv4}, {ipv6, sizeof ipv6}, {tagged, sizeof tagged}};
  static const uint8_t values[] = {0, 1, 4, 6, 8, 17, 53, 69, 70, 80, 0x81, 0x86, 0xdd, 0xff};
  uint32_t frame = draw(3), skip = draw(3) ? 0 : 14;
  uint32_t bytes = frames[frame].bytes - skip;
  memcpy(data, frames[frame].data + skip, bytes);
  for (uint32_t changes = draw(5); changes; changes--)
    data[draw(bytes)] = draw(2) ? values[draw(sizeof values)] : (uint8_t)draw(256);
  uint32_t more = draw(2) ? FRAME_BYTES - bytes : 0; /* long enough that no load can fail */
  for (uint32_t at = bytes; at < bytes + more; at++)
    data[at] = (uint8_t)draw(256);
  return draw(3) ? bytes + more : draw(bytes + more + 1);
}

static void check_expression(int linktype, const char *expression, int optimize) {
  struct bpf_program program;
  pcap_t *compiler = pcap_open_dead(linktype, 262144);
  if (pcap_compile(compiler, &program, expression, optimize, PCAP_NETMASK_UNKNOWN) == 0) {
    struct sonde_filter_program *fast = sonde_filter_program_make(&program, linktype == DLT_EN10MB);
    CHECK(fast != NULL);
    struct sonde_filter_glance glance =
        fast ? sonde_filter_program_glance(fast) : sonde_filter_no_glance;
    for (uint32_t i = 0; fast && i < PACKETS * 10; i++) {
      uint8_t data[FRAME_BYTES];
      uint32_t caplen = draw_packet(data);
      compare(&program, fast, &glance, data, caplen, draw(3) ? caplen : caplen + draw(1400),
              expression);
    }
    sonde_filter_program_destroy(fast);
    pcap_freecode(&program);
  }
  pcap_close(compiler);
}

static void check_expressions(void) {
  static const int linktypes[] = {DLT_EN10MB, DLT_RAW, DLT_LINUX_SLL, DLT_NULL, DLT_PPP};
  for (uint32_t i = 0; i < sizeof expressions / sizeof expressions[0]; i++)
    for (uint32_t j = 0; j < sizeof linktypes / sizeof linktypes[0]; j++)
      for (int optimize = 0; optimize < 2; optimize++)
        check_expression(linktypes[j], expressions[i], optimize);
}

/* An unknown instruction, and a jump beyond the end, leave the program to libpcap. */
static void check_unknown(void) {
  struct bpf_insn insns[] = {{.code = BPF_MISC | 0x40}, {.code = BPF_RET | BPF_K, .k = 1}};
  struct bpf_program program = {.bf_len = 2, .bf_insns = insns};
  CHECK(sonde_filter_program_make(&program, true) == NULL);
  insns[0] = (struct bpf_insn){.code = BPF_JMP | BPF_JA, .k = 7};
  CHECK(sonde_filter_program_make(&program, true) == NULL);
}

int main(void) {
  check_random_programs();
  check_expressions();
  check_unknown();
  return check_report();
}
