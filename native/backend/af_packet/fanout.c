/* fanout.c - the fanout program: which queue a packet belongs to.
 *
 * The hash covers only the unordered address pair of the outermost IP header. So both
 * directions of a conversation, every fragment (only the first has ports) and all packets of a
 * tunnel reach one worker. The kernel's own flow hash splits all three. Packets without a
 * reachable IP header go to queue 0. The cost: traffic between two hosts stays on one queue.
 *
 * Offsets count from the MAC or network header. When this program runs, the packet starts at
 * the network header on the receive path and at the MAC header on the transmit path.
 */
#include <linux/if_ether.h>
#include <stdbool.h>

#include "packet.h"
#include "program.h"

enum { TAGS_MAX = 3, HASH_ONE = 0x9e3779b1, HASH_TWO = 0x85ebca6b };

struct assembly {
  struct sock_filter *out;
  uint16_t length;
};

static void emit(struct assembly *assembly, uint16_t code, uint32_t k) {
  assembly->out[assembly->length++] = (struct sock_filter){.code = code, .k = k};
}

/* Emits a test of the accumulator that, when it fails, jumps to where land() is called. */
static uint16_t unless_equal(struct assembly *assembly, uint32_t value) {
  emit(assembly, BPF_JMP | BPF_JEQ | BPF_K, value);
  return (uint16_t)(assembly->length - 1);
}

static void land(struct assembly *assembly, uint16_t test) {
  assembly->out[test].jf = (uint8_t)(assembly->length - test - 1);
}

/* A = A ^ A >> bits */
static void fold(struct assembly *assembly, uint32_t bits) {
  emit(assembly, BPF_MISC | BPF_TAX, 0);
  emit(assembly, BPF_ALU | BPF_RSH | BPF_K, bits);
  emit(assembly, BPF_ALU | BPF_XOR | BPF_X, 0);
}

/* Leaves a hash of the address at `at` in the accumulator. */
static void hash_address(struct assembly *assembly, uint32_t at, uint32_t words) {
  emit(assembly, BPF_LD | BPF_W | BPF_ABS, at);
  for (uint32_t word = 1; word < words; word++) {
    emit(assembly, BPF_ALU | BPF_MUL | BPF_K, (uint32_t)HASH_TWO);
    emit(assembly, BPF_MISC | BPF_TAX, 0);
    emit(assembly, BPF_LD | BPF_W | BPF_ABS, at + 4 * word);
    emit(assembly, BPF_ALU | BPF_ADD | BPF_X, 0);
  }
  emit(assembly, BPF_ALU | BPF_MUL | BPF_K, (uint32_t)HASH_ONE);
  fold(assembly, 15);
  emit(assembly, BPF_ALU | BPF_MUL | BPF_K, (uint32_t)HASH_TWO);
}

/* Returns the sum of both addresses' hashes, the same for either direction. */
static void return_pair(struct assembly *assembly, uint32_t source, uint32_t words) {
  hash_address(assembly, source, words);
  emit(assembly, BPF_ST, 0);
  hash_address(assembly, source + 4 * words, words);
  emit(assembly, BPF_LDX | BPF_W | BPF_MEM, 0);
  emit(assembly, BPF_ALU | BPF_ADD | BPF_X, 0);
  fold(assembly, 16);
  emit(assembly, BPF_RET | BPF_A, 0);
}

/* The accumulator holds an ethertype or an IP version; `ip` is where the IP header begins. */
static void return_if_ip(struct assembly *assembly, uint32_t four, uint32_t six, uint32_t ip) {
  uint16_t other = unless_equal(assembly, four);
  return_pair(assembly, ip + 12, 1);
  land(assembly, other);
  other = unless_equal(assembly, six);
  return_pair(assembly, ip + 8, 4);
  land(assembly, other);
}

static void return_unless_tag(struct assembly *assembly) {
  static const uint32_t tags[] = {ETH_P_8021Q, ETH_P_8021AD, ETH_P_QINQ1, ETH_P_QINQ2};
  enum { TAGS = sizeof tags / sizeof tags[0] };
  for (uint8_t i = 0; i < TAGS; i++) {
    emit(assembly, BPF_JMP | BPF_JEQ | BPF_K, tags[i]);
    assembly->out[assembly->length - 1].jt = (uint8_t)(TAGS - i); /* past the return */
  }
  emit(assembly, BPF_RET | BPF_K, 0);
}

uint16_t program_fanout(uint16_t linktype, struct sock_filter out[PROGRAM_FANOUT_MAX]) {
  struct assembly assembly = {.out = out};
  if (linktype == SONDE_LINKTYPE_RAW) {
    emit(&assembly, BPF_LD | BPF_B | BPF_ABS, (uint32_t)SKF_NET_OFF);
    emit(&assembly, BPF_ALU | BPF_RSH | BPF_K, 4);
    return_if_ip(&assembly, 4, 6, (uint32_t)SKF_NET_OFF);
  } else {
    for (uint32_t tag = 0; tag <= TAGS_MAX; tag++) {
      uint32_t ethertype = (uint32_t)SKF_LL_OFF + 12 + 4 * tag;
      emit(&assembly, BPF_LD | BPF_H | BPF_ABS, ethertype);
      return_if_ip(&assembly, ETH_P_IP, ETH_P_IPV6, ethertype + 2);
      return_unless_tag(&assembly);
    }
  }
  emit(&assembly, BPF_RET | BPF_K, 0);
  return assembly.length;
}
