/* layout.c - the fields of every data record, RFC 3954 §8, RFC 7012, RFC 5103.
 *
 * X(condition on `traits`, enterprise, element, bytes, value of `uniflow`). NAME is the interface's
 * name and comes last. Some collectors misread these elements, so they must not be added: 85/86
 * together with 1/2, 23/24, 154/155, 6 in two bytes, and in v9 139 and 148. In v9, 32 is ICMP_TYPE
 * for ICMP and ICMPv6.
 */
#include "layout.h"

#include "bytes.h"

enum { VARIABLE = 65535, REVERSE_ENTERPRISE = 29305, ENTERPRISE_BIT = 0x8000 };

#define HAS(trait) (traits & SONDE_LAYOUT_##trait)

/* clang-format off */
#define FIELD_LIST(NUMBER, OCTETS, NAME)                                                           \
  OCTETS(!HAS(IPV6), 0, 8, 4, uniflow->source_ip)                  /* sourceIPv4Address */            \
  OCTETS(!HAS(IPV6), 0, 12, 4, uniflow->dest_ip)                   /* destinationIPv4Address */       \
  OCTETS(HAS(IPV6), 0, 27, 16, uniflow->source_ip)                 /* sourceIPv6Address */            \
  OCTETS(HAS(IPV6), 0, 28, 16, uniflow->dest_ip)                   /* destinationIPv6Address */       \
  NUMBER(1, 0, 7, 2, uniflow->source_port)                         /* sourceTransportPort */          \
  NUMBER(1, 0, 11, 2, uniflow->dest_port)                          /* destinationTransportPort */     \
  NUMBER(1, 0, 4, 1, uniflow->record->protocol)                    /* protocolIdentifier */           \
  NUMBER(1, 0, 60, 1, HAS(IPV6) ? 6 : 4)                        /* ipVersion */                    \
  NUMBER(1, 0, 5, 1, uniflow->record->tos)                         /* ipClassOfService */             \
  NUMBER(1, 0, 6, 1, uniflow->tcp_flags)                           /* tcpControlBits */               \
  NUMBER(1, 0, 1, 8, uniflow->octets)                              /* octetDeltaCount */              \
  NUMBER(1, 0, 2, 8, uniflow->packets)                             /* packetDeltaCount */             \
  NUMBER(HAS(IPFIX), 0, 152, 8, uniflow->first_ms)                 /* flowStartMilliseconds */        \
  NUMBER(HAS(IPFIX), 0, 153, 8, uniflow->last_ms)                  /* flowEndMilliseconds */          \
  NUMBER(!HAS(IPFIX), 0, 22, 4, uniflow->first_uptime)             /* FIRST_SWITCHED */               \
  NUMBER(!HAS(IPFIX), 0, 21, 4, uniflow->last_uptime)              /* LAST_SWITCHED */                \
  NUMBER(1, 0, 10, 4, uniflow->input_ifindex)                      /* ingressInterface */             \
  NUMBER(1, 0, 14, 4, uniflow->output_ifindex)                     /* egressInterface */              \
  NUMBER(1, 0, 61, 1, uniflow->egress)                             /* flowDirection */                \
  NUMBER(1, 0, 136, 1, uniflow->record->end_reason)                /* flowEndReason */                \
  NUMBER(1, 0, 58, 2, uniflow->vlan_outer)                         /* vlanId */                       \
  NUMBER(HAS(ICMP) && !(HAS(IPFIX) && HAS(IPV6)), 0, 32, 2, uniflow->dest_port) /* icmpTypeCodeIPv4 */ \
  NUMBER(HAS(ICMP) && HAS(IPV6) && HAS(IPFIX), 0, 139, 2, uniflow->dest_port)  /* …IPv6 */            \
  NUMBER(HAS(FULL) && HAS(IPFIX), 0, 148, 8, uniflow->record->flow_id)                                \
  OCTETS(HAS(FULL), 0, 56, 6, uniflow->source_mac)                 /* sourceMacAddress */             \
  OCTETS(HAS(FULL), 0, 80, 6, uniflow->dest_mac)                   /* destinationMacAddress */        \
  NUMBER(HAS(FULL), 0, 243, 2, uniflow->vlan_outer)                /* dot1qVlanId */                  \
  NUMBER(HAS(FULL), 0, 245, 2, uniflow->vlan_inner)                /* dot1qCustomerVlanId */          \
  NUMBER(HAS(FULL), 0, 244, 1, uniflow->record->vlan_priority)     /* dot1qPriority */                \
  NUMBER(HAS(FULL), 0, 52, 1, uniflow->record->ttl_min)            /* minimumTTL */                   \
  NUMBER(HAS(FULL), 0, 53, 1, uniflow->record->ttl_max)            /* maximumTTL */                   \
  NUMBER(HAS(FULL), 0, 31, 4, uniflow->flow_label)                 /* flowLabelIPv6 */                \
  NUMBER(HAS(FULL), 0, 64, 4, uniflow->extensions)                 /* ipv6ExtensionHeaders */         \
  NUMBER(HAS(FULL), 0, 70, 3, uniflow->mpls)                       /* mplsTopLabelStackSection */     \
  NUMBER(HAS(FULL), 0, 352, 8, uniflow->l2_octets)                 /* layer2OctetDeltaCount */        \
  NUMBER(HAS(FULL), 0, 351, 8, uniflow->segment_id)                /* layer2SegmentId */              \
  NUMBER(HAS(FULL), 0, 88, 2, uniflow->record->fragment_offset)    /* fragmentOffset */               \
  NUMBER(HAS(FULL), 0, 197, 1, uniflow->record->fragment_flags)    /* fragmentFlags */                \
  NUMBER(HAS(FULL), 0, 239, 1, uniflow->initiator)                 /* biflowDirection */              \
  NUMBER(HAS(BIFLOW), REVERSE_ENTERPRISE, 1, 8, uniflow->record->bytes[1])                            \
  NUMBER(HAS(BIFLOW), REVERSE_ENTERPRISE, 2, 8, uniflow->record->packets[1])                          \
  NUMBER(HAS(BIFLOW), REVERSE_ENTERPRISE, 6, 1, uniflow->record->tcp_flags[1])                        \
  NUMBER(HAS(BIFLOW) && HAS(FULL), REVERSE_ENTERPRISE, 352, 8, uniflow->record->l2_bytes[1])          \
  NAME(HAS(FULL) && HAS(IPFIX), 0, 82, VARIABLE, uniflow->name)    /* interfaceName */
/* clang-format on */

/* ---- records -------------------------------------------------------------------------- */

#define PUT_NUMBER(condition, enterprise, element, bytes, value)                                   \
  if (condition)                                                                                   \
    p = put_number(p, bytes, value);
#define PUT_OCTETS(condition, enterprise, element, bytes, value)                                   \
  if (condition)                                                                                   \
    p = put_octets(p, bytes, value);
/* RFC 7011 §7: one length octet below 255. */
#define PUT_NAME(condition, enterprise, element, bytes, value)                                     \
  if (condition)                                                                                   \
    p = put_octets(put_u8(p, uniflow->name_bytes), uniflow->name_bytes, (const uint8_t *)(value));

static inline __attribute__((always_inline))
uint8_t *put_fields(uint8_t *p, const struct sonde_uniflow *uniflow, const uint32_t traits) {
  FIELD_LIST(PUT_NUMBER, PUT_OCTETS, PUT_NAME)
  return p;
}

/* X(traits): 8…15 and 24…31 are IPFIX. v9 has no biflows, so 16…23 do not exist. */
/* clang-format off */
#define LAYOUT_LIST(X)                                                                             \
  X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)                                                          \
  X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)                                                    \
  X(24) X(25) X(26) X(27) X(28) X(29) X(30) X(31)
/* clang-format on */

#define DEFINE_WRITER(traits)                                                                      \
  static uint8_t *put_layout_##traits(uint8_t *p, const struct sonde_uniflow *uniflow) {           \
    return put_fields(p, uniflow, traits);                                                         \
  }
LAYOUT_LIST(DEFINE_WRITER)

#define WRITER_ROW(traits) [traits] = put_layout_##traits,
sonde_layout_writer *const sonde_layout_writers[SONDE_LAYOUTS] = {LAYOUT_LIST(WRITER_ROW)};

/* ---- templates ------------------------------------------------------------------------ */

struct field {
  uint32_t enterprise;
  uint16_t element;
  uint16_t bytes;
};

#define LIST_FIELD(condition, enterprise_number, element_number, length, value)                    \
  if (condition)                                                                                   \
    fields[count++] = (struct field){enterprise_number, element_number, length};

static uint32_t list_fields(uint32_t traits, struct field fields[SONDE_LAYOUT_FIELDS_MAX]) {
  uint32_t count = 0;
  FIELD_LIST(LIST_FIELD, LIST_FIELD, LIST_FIELD)
  return count;
}

uint8_t *sonde_layout_put_template(uint8_t *p, uint32_t traits) {
  struct field fields[SONDE_LAYOUT_FIELDS_MAX];
  uint32_t count = list_fields(traits, fields);
  p = put_u16(p, (uint16_t)(SONDE_LAYOUT_TEMPLATE_ID + traits));
  p = put_u16(p, (uint16_t)count);
  for (uint32_t i = 0; i < count; i++) {
    uint16_t flag = fields[i].enterprise ? ENTERPRISE_BIT : 0;
    p = put_u16(p, fields[i].element | flag);
    p = put_u16(p, fields[i].bytes);
    if (flag)
      p = put_u32(p, fields[i].enterprise);
  }
  return p;
}

uint32_t sonde_layout_template_bytes(uint32_t traits) {
  uint8_t template[4 + 8 * SONDE_LAYOUT_FIELDS_MAX];
  return (uint32_t)(sonde_layout_put_template(template, traits) - template);
}

uint32_t sonde_layout_record_bytes(uint32_t traits, uint32_t name_bytes) {
  struct field fields[SONDE_LAYOUT_FIELDS_MAX];
  uint32_t count = list_fields(traits, fields), bytes = 0;
  for (uint32_t i = 0; i < count; i++)
    bytes += fields[i].bytes == VARIABLE ? 1 + name_bytes : fields[i].bytes;
  return bytes;
}
