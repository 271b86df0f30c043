/* filter.c - see filter.h. The compiler and the interpreter are libpcap's.
 *
 * Expressions come from the network: their length is bounded, and a program longer than the
 * kernel takes is refused everywhere, so that an expression good here is good on every
 * backend.
 */
#include "filter.h"

#include <errno.h>
#include <linux/filter.h>
#include <pcap/pcap.h>
#include <stdlib.h>
#include <string.h>

#include "failure.h"
#include "netsonde.h"

/* libpcap's optimizer takes cubic time: two seconds for this much, minutes for 16 KiB. */
enum { EXPRESSION_BYTES_MAX = 4096, SNAPLEN_MAX = 262144 };

struct sonde_filter {
  struct bpf_program program;
};

/* libpcap's compiler wants the platform's own numbers where they differ from the file's. */
static int linktype_dlt(uint16_t linktype) {
  switch (linktype) {
  case SONDE_LINKTYPE_RAW:
    return DLT_RAW;
  case SONDE_LINKTYPE_PPP_HDLC:
    return DLT_PPP_SERIAL;
  default:
    return linktype;
  }
}

static int compile(uint16_t linktype, uint32_t snaplen, const char *expression,
                   struct sonde_filter **filter, struct sonde_error *error) {
  const char *text = expression ? expression : "";
  if (strnlen(text, EXPRESSION_BYTES_MAX + 1) > EXPRESSION_BYTES_MAX) {
    return sonde_fail(error, SONDE_FILTER_INVALID, 0, "the expression is longer than %d bytes",
                      EXPRESSION_BYTES_MAX);
  }
  struct sonde_filter *made = calloc(1, sizeof *made);
  pcap_t *compiler = pcap_open_dead(linktype_dlt(linktype), (int)snaplen);
  int status = 0;
  if (!made || !compiler) {
    status = sonde_fail(error, SONDE_NO_MEMORY, ENOMEM, "%s", strerror(ENOMEM));
  } else if (pcap_compile(compiler, &made->program, text, 1, PCAP_NETMASK_UNKNOWN)) {
    status = sonde_fail(error, SONDE_FILTER_INVALID, 0, "%s", pcap_geterr(compiler));
  } else if (made->program.bf_len > BPF_MAXINSNS) {
    status = sonde_fail(error, SONDE_FILTER_INVALID, 0,
                        "the expression needs %u instructions, the kernel takes %d",
                        made->program.bf_len, BPF_MAXINSNS);
  } else {
    *filter = made;
    made = NULL;
  }
  if (compiler)
    pcap_close(compiler);
  sonde_filter_destroy(made);
  return status;
}

/* `inbound` and its like load from beyond the packet, where only a kernel has something: in user
 * space such a load ends the program with no match. */
static bool asks_kernel(const struct bpf_program *program) {
  for (uint32_t i = 0; i < program->bf_len; i++) {
    const struct bpf_insn *insn = &program->bf_insns[i];
    if (BPF_CLASS(insn->code) == BPF_LD && BPF_MODE(insn->code) == BPF_ABS &&
        insn->k >= (uint32_t)SKF_AD_OFF)
      return true;
  }
  return false;
}

int sonde_filter_compile(uint16_t linktype, uint32_t snaplen, const char *expression,
                         struct sonde_filter **filter, struct sonde_error *error) {
  struct sonde_filter *made = NULL;
  int status = compile(linktype, snaplen, expression, &made, error);
  if (status == 0 && asks_kernel(&made->program)) {
    sonde_filter_destroy(made);
    return sonde_fail(error, SONDE_FILTER_INVALID, 0,
                      "only a kernel can tell inbound from outbound; it filters for af_packet");
  }
  *filter = made;
  return status;
}

bool sonde_filter_match(const struct sonde_filter *filter, const uint8_t *data, uint32_t caplen,
                        uint32_t wirelen) {
  return bpf_filter(filter->program.bf_insns, data, wirelen, caplen) != 0;
}

/* Families are small numbers: with zeros in front they are in network order, and libpcap's
 * program for NULL asks for this host's. */
uint16_t sonde_filter_linktype(const struct sonde_packet *packet) {
  bool network_order = packet->linktype == SONDE_LINKTYPE_NULL && packet->caplen >= 4 &&
                       packet->data[0] == 0 && packet->data[1] == 0;
  return network_order ? SONDE_LINKTYPE_LOOP : packet->linktype;
}

void sonde_filter_destroy(struct sonde_filter *filter) {
  if (filter) {
    pcap_freecode(&filter->program);
    free(filter);
  }
}

int sonde_filter_check(const char *expression, struct sonde_error *error) {
  struct sonde_filter *filter = NULL;
  int status = compile(SONDE_LINKTYPE_ETHERNET, SNAPLEN_MAX, expression, &filter, error);
  sonde_filter_destroy(filter);
  return status;
}

int sonde_filter_check_here(const char *expression, struct sonde_error *error) {
  struct sonde_filter *filter = NULL;
  int status =
      sonde_filter_compile(SONDE_LINKTYPE_ETHERNET, SNAPLEN_MAX, expression, &filter, error);
  sonde_filter_destroy(filter);
  return status;
}
