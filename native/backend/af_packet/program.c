/* program.c - filter programs, see program.h.
 *
 * The kernel removes a VLAN tag from the frame before a packet socket sees it, so a filter must
 * read the tag from the kernel. libpcap generates such code only for a handle that is active on
 * an interface. One is opened to compile, captures nothing, and is closed.
 */
#include "program.h"

#include <linux/if_packet.h>
#include <pcap/pcap.h>
#include <stdlib.h>

#include "failure.h"
#include "packet.h"

/* libpcap's optimizer is cubic: 2 s for this many bytes, minutes for 16 KiB. */
enum { EXPRESSION_BYTES_MAX = 4096, COMPILER_BUFFER_BYTES = 1 << 18 };

const struct program program_refuse_all = {
    .length = 1, .instructions = (struct sock_filter[]){BPF_STMT(BPF_RET | BPF_K, 0)}};

/* lo shows each packet twice, outgoing and incoming. Rejecting the outgoing one here works in a
 * fanout group too, where the kernel ignores the sockets' PACKET_IGNORE_OUTGOING. */
static const struct sock_filter refuse_outgoing[] = {
    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)(SKF_AD_OFF + SKF_AD_PKTTYPE)),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, PACKET_OUTGOING, 0, 1),
    BPF_STMT(BPF_RET | BPF_K, 0),
};

enum { REFUSE_OUTGOING = sizeof refuse_outgoing / sizeof refuse_outgoing[0] };

static pcap_t *open_active(const char *name, uint32_t snaplen, int *problem,
                           char words[static PCAP_ERRBUF_SIZE]) {
  pcap_t *pcap = pcap_create(name, words);
  *problem = PCAP_ERROR;
  if (!pcap)
    return NULL;
  pcap_set_snaplen(pcap, (int)snaplen);
  pcap_set_buffer_size(pcap, COMPILER_BUFFER_BYTES);
  *problem = pcap_activate(pcap);
  if (*problem < 0) {
    snprintf(words, PCAP_ERRBUF_SIZE, "%s", pcap_statustostr(*problem));
    pcap_close(pcap);
    return NULL;
  }
  return pcap;
}

/* A bare IP link has no tags, so its compiler needs no interface. An interface that is down
 * cannot be activated: lo, with the same frame format, stands in. */
static int open_compiler(const struct sonde_interface *interface, uint32_t snaplen,
                         pcap_t **compiler, struct sonde_error *error) {
  char words[PCAP_ERRBUF_SIZE] = "";
  int problem;
  if (interface->linktype == SONDE_LINKTYPE_RAW) {
    *compiler = pcap_open_dead(DLT_RAW, (int)snaplen);
    return *compiler ? 0 : sonde_fail_memory(error);
  }
  *compiler = open_active(interface->name, snaplen, &problem, words);
  if (!*compiler && problem == PCAP_ERROR_IFACE_NOT_UP)
    *compiler = open_active("lo", snaplen, &problem, words);
  if (*compiler)
    return 0;
  if (problem == PCAP_ERROR_PERM_DENIED)
    return sonde_fail(error, SONDE_PERMISSION, EPERM, "needs CAP_NET_RAW");
  return sonde_fail(error, SONDE_INTERFACE_INVALID, 0,
                    "cannot compile the filter on %s or lo: %.160s", interface->name, words);
}

static int join(const struct sonde_interface *interface, const struct bpf_program *code,
                struct program *program, struct sonde_error *error) {
  size_t before = interface->loopback ? REFUSE_OUTGOING : 0;
  if (code->bf_len + before > BPF_MAXINSNS) {
    return sonde_fail(error, SONDE_FILTER_INVALID, 0,
                      "the expression needs %u instructions, the kernel's limit is %d",
                      code->bf_len, BPF_MAXINSNS);
  }
  program->instructions = calloc(code->bf_len + before, sizeof *program->instructions);
  if (!program->instructions)
    return sonde_fail_memory(error);
  program->length = (uint16_t)(code->bf_len + before);
  memcpy(program->instructions, refuse_outgoing, before * sizeof *refuse_outgoing);
  for (uint32_t i = 0; i < code->bf_len; i++) {
    const struct bpf_insn *from = &code->bf_insns[i];
    program->instructions[before + i] =
        (struct sock_filter){.code = from->code, .jt = from->jt, .jf = from->jf, .k = from->k};
  }
  return 0;
}

int program_compile(const struct sonde_interface *interface, uint32_t snaplen,
                    const char *expression, struct program *program, struct sonde_error *error) {
  struct bpf_insn accept = BPF_STMT(BPF_RET | BPF_K, snaplen);
  struct bpf_program code = {.bf_len = 1, .bf_insns = &accept};
  pcap_t *compiler = NULL;
  if (!expression || !*expression)
    return join(interface, &code, program, error);
  if (strnlen(expression, EXPRESSION_BYTES_MAX + 1) > EXPRESSION_BYTES_MAX) {
    return sonde_fail(error, SONDE_FILTER_INVALID, 0, "the expression is longer than %d bytes",
                      EXPRESSION_BYTES_MAX);
  }
  int status = open_compiler(interface, snaplen, &compiler, error);
  if (status)
    return status;
  if (pcap_compile(compiler, &code, expression, 1, PCAP_NETMASK_UNKNOWN)) {
    status = sonde_fail(error, SONDE_FILTER_INVALID, 0, "%s", pcap_geterr(compiler));
  } else {
    status = join(interface, &code, program, error);
    pcap_freecode(&code);
  }
  pcap_close(compiler);
  return status;
}

void program_free(struct program *program) {
  free(program->instructions);
  *program = (struct program){0};
}
