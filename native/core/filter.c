/* filter.c - see filter.h. libpcap compiles the programs, filter_program.c runs them.
 *
 * Expressions come from the network, so their length is bounded. A program longer than the
 * kernel's limit is rejected: a valid expression is valid for every backend.
 */
#include "filter.h"

#include <errno.h>
#include <linux/filter.h>
#include <pcap/pcap.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "core/filter_program.h"
#include "failure.h"
#include "netsonde.h"

/* libpcap's optimizer takes cubic time: two seconds for this much, minutes for 16 KiB. */
enum { EXPRESSION_BYTES_MAX = 4096, SNAPLEN_MAX = 262144 };

/* The link types in which an expression may make sense that makes none in Ethernet: of cooked
 * frames and of 802.11 (DLT 105, 119, 127, 163, 192). */
static const uint16_t other_linktypes[] = {
    SONDE_LINKTYPE_SLL2, SONDE_LINKTYPE_SLL, 127, 105, 119, 192, 163,
    SONDE_LINKTYPE_PPP,  SONDE_LINKTYPE_RAW};

enum { OTHER_LINKTYPES = sizeof other_linktypes / sizeof other_linktypes[0] };

struct sonde_filter {
  struct bpf_program program;
  struct sonde_filter_program *fast; /* its faster form, or NULL */
  _Atomic uint32_t holders;
};

/* libpcap's compiler expects DLT numbers, which differ from file link types. */
static int linktype_dlt(uint16_t linktype) {
  switch (linktype) {
  case SONDE_LINKTYPE_RAW:
    return DLT_RAW;
  case SONDE_LINKTYPE_PPP_HDLC:
    return DLT_PPP_SERIAL;
  case SONDE_LINKTYPE_ATM_LLC:
    return DLT_ATM_RFC1483;
  case 102: /* these have no other name in this tree */
    return DLT_SLIP_BSDOS;
  case 103:
    return DLT_PPP_BSDOS;
  case 106:
    return DLT_ATM_CLIP;
  default:
    return linktype;
  }
}

const char *sonde_linktype_name(uint32_t linktype) {
  return linktype > UINT16_MAX ? NULL : pcap_datalink_val_to_name(linktype_dlt((uint16_t)linktype));
}

const char *sonde_linktype_description(uint32_t linktype) {
  return linktype > UINT16_MAX ? NULL
                               : pcap_datalink_val_to_description(linktype_dlt((uint16_t)linktype));
}

static int compile(uint16_t linktype, uint32_t snaplen, const char *expression, bool optimize,
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
  } else if (pcap_compile(compiler, &made->program, text, optimize, PCAP_NETMASK_UNKNOWN)) {
    status = sonde_fail(error, SONDE_FILTER_INVALID, 0, "%s", pcap_geterr(compiler));
  } else if (optimize && made->program.bf_len > BPF_MAXINSNS) {
    status = sonde_fail(error, SONDE_FILTER_INVALID, 0,
                        "the expression needs %u instructions, the kernel's limit is %d",
                        made->program.bf_len, BPF_MAXINSNS);
  } else {
    atomic_init(&made->holders, 1);
    *filter = made;
    made = NULL;
  }
  if (compiler)
    pcap_close(compiler);
  sonde_filter_destroy(made);
  return status;
}

/* `inbound` and `outbound` load kernel data beyond the packet. In user space such a load
 * ends the program without a match. */
static bool needs_kernel(const struct bpf_program *program) {
  for (uint32_t i = 0; i < program->bf_len; i++) {
    const struct bpf_insn *insn = &program->bf_insns[i];
    if (BPF_CLASS(insn->code) == BPF_LD && BPF_MODE(insn->code) == BPF_ABS &&
        insn->k >= (uint32_t)SKF_AD_OFF)
      return true;
  }
  return false;
}

static int compile_userspace(uint16_t linktype, uint32_t snaplen, const char *expression,
                             bool optimize, struct sonde_filter **filter,
                             struct sonde_error *error) {
  struct sonde_filter *made = NULL;
  int status = compile(linktype, snaplen, expression, optimize, &made, error);
  if (status == 0 && needs_kernel(&made->program)) {
    sonde_filter_destroy(made);
    return sonde_fail(error, SONDE_FILTER_INVALID, 0,
                      "inbound and outbound need a kernel filter: use the af_packet backend");
  }
  if (status == 0)
    made->fast = sonde_filter_program_make(&made->program, linktype == SONDE_LINKTYPE_ETHERNET);
  *filter = made;
  return status;
}

int sonde_filter_compile(uint16_t linktype, uint32_t snaplen, const char *expression,
                         struct sonde_filter **filter, struct sonde_error *error) {
  return compile_userspace(linktype, snaplen, expression, true, filter, error);
}

bool sonde_filter_match(const struct sonde_filter *filter, const uint8_t *data, uint32_t caplen,
                        uint32_t wirelen) {
  if (__builtin_expect(filter->fast != NULL, 1))
    return sonde_filter_program_run(filter->fast, data, caplen, wirelen);
  return bpf_filter(filter->program.bf_insns, data, wirelen, caplen) != 0;
}

/* A NULL header holds a small family number: leading zeros mean network order, but libpcap's
 * program for NULL expects host order. */
uint16_t sonde_filter_linktype(const struct sonde_packet *packet) {
  bool network_order = packet->linktype == SONDE_LINKTYPE_NULL && packet->caplen >= 4 &&
                       packet->data[0] == 0 && packet->data[1] == 0;
  return network_order ? SONDE_LINKTYPE_LOOP : packet->linktype;
}

void sonde_filter_destroy(struct sonde_filter *filter) {
  if (filter && atomic_fetch_sub(&filter->holders, 1) <= 1) {
    pcap_freecode(&filter->program);
    sonde_filter_program_destroy(filter->fast);
    free(filter);
  }
}

static const struct sonde_filter *filter_for(struct sonde_filter_set *set, uint16_t linktype) {
  for (uint32_t i = 0; i < set->count; i++)
    if (set->filters[i].linktype == linktype)
      return set->filters[i].filter;
  if (set->count == SONDE_FILTER_LINKTYPES)
    return NULL;
  struct sonde_filter *filter = NULL;
  compile_userspace(linktype, SNAPLEN_MAX, set->expression, false, &filter, NULL);
  set->filters[set->count].linktype = linktype;
  set->filters[set->count++].filter = filter;
  return filter;
}

/* An expression that is invalid for Ethernet can be valid for other link types of a file. */
static bool is_valid_elsewhere(const char *expression) {
  for (uint32_t i = 0; i < OTHER_LINKTYPES; i++)
    if (sonde_filter_check_for(other_linktypes[i], false, expression, NULL) == SONDE_OK)
      return true;
  return false;
}

int sonde_filter_set_prepare(struct sonde_filter_set *set, const char *expression, bool any,
                             struct sonde_error *error) {
  set->expression = strdup(expression);
  if (!set->expression)
    return sonde_fail(error, SONDE_NO_MEMORY, ENOMEM, "no memory for the filter");
  set->filters[0].linktype = SONDE_LINKTYPE_ETHERNET;
  set->count = 1;
  int status = sonde_filter_compile(SONDE_LINKTYPE_ETHERNET, SNAPLEN_MAX, expression,
                                    &set->filters[0].filter, error);
  return status == SONDE_FILTER_INVALID && any && is_valid_elsewhere(expression) ? SONDE_OK
                                                                                 : status;
}

int sonde_filter_set_share(struct sonde_filter_set *set, const struct sonde_filter_set *from) {
  set->expression = strdup(from->expression);
  if (!set->expression)
    return SONDE_NO_MEMORY;
  set->filters[0] = from->filters[0];
  set->count = 1;
  if (set->filters[0].filter)
    atomic_fetch_add(&set->filters[0].filter->holders, 1);
  return SONDE_OK;
}

bool sonde_filter_set_match(struct sonde_filter_set *set, const struct sonde_packet *packet) {
  const struct sonde_filter *filter = filter_for(set, sonde_filter_linktype(packet));
  return filter && sonde_filter_match(filter, packet->data, packet->caplen, packet->wirelen);
}

struct sonde_filter_glance sonde_filter_set_glance(const struct sonde_filter_set *set) {
  const struct sonde_filter *filter = set->filters[0].filter; /* for Ethernet */
  return filter && filter->fast ? sonde_filter_program_glance(filter->fast)
                                : sonde_filter_no_glance;
}

void sonde_filter_set_release(struct sonde_filter_set *set) {
  for (uint32_t i = 0; i < set->count; i++)
    sonde_filter_destroy(set->filters[i].filter);
  free(set->expression);
}

int sonde_filter_check_for(uint16_t linktype, bool kernel, const char *expression,
                           struct sonde_error *error) {
  struct sonde_filter *filter = NULL;
  int status = kernel ? compile(linktype, SNAPLEN_MAX, expression, true, &filter, error)
                      : sonde_filter_compile(linktype, SNAPLEN_MAX, expression, &filter, error);
  sonde_filter_destroy(filter);
  return status;
}

int sonde_filter_check(const char *expression, struct sonde_error *error) {
  return sonde_filter_check_for(SONDE_LINKTYPE_ETHERNET, true, expression, error);
}
