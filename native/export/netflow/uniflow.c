/* uniflow.c - see uniflow.h. */
#include "uniflow.h"

#include "ip_protocol.h"

/* A flow with packets both ways has a paired type, and its ports are the pair: the reply's type is
 * the other port, its code 0. */
static void fill_icmp(struct sonde_uniflow *uniflow, const struct sonde_record *record, int way) {
  uint8_t type = way == SONDE_UNIFLOW_FORWARD ? record->icmp_type : (uint8_t)record->dest_port;
  uint8_t code = way == SONDE_UNIFLOW_FORWARD ? record->icmp_code : 0;
  uniflow->icmp = 1;
  uniflow->source_port = 0;
  uniflow->dest_port = (uint16_t)(type << 8 | code);
}

static void fill_addresses(struct sonde_uniflow *uniflow, const struct sonde_record *record,
                           int way) {
  int forward = way == SONDE_UNIFLOW_FORWARD;
  uniflow->source_ip = forward ? record->source_ip : record->dest_ip;
  uniflow->dest_ip = forward ? record->dest_ip : record->source_ip;
  uniflow->source_mac = forward ? record->source_mac : record->dest_mac;
  uniflow->dest_mac = forward ? record->dest_mac : record->source_mac;
  uniflow->icmp = 0;
  uniflow->source_port = forward ? record->source_port : record->dest_port;
  uniflow->dest_port = forward ? record->dest_port : record->source_port;
  if (sonde_ip_is_icmp(record->protocol))
    fill_icmp(uniflow, record, way);
}

/* The upper octet is the type. Of IANA's registry, records can only have VXLAN, 1. */
static uint64_t name_segment(const struct sonde_record *record) {
  return record->tunnel_type == SONDE_TUNNEL_VXLAN ? 1ull << 56 | (record->tunnel_id & 0xffffff)
                                                   : 0;
}

static uint32_t spread_extensions(uint32_t ipv6) {
  uint32_t bits = ipv6 >> 20;
  return (bits & 0x7f) | (bits & 0x780) << 5;
}

void sonde_uniflow_fill(struct sonde_uniflow *uniflow, const struct sonde_record *record, int way,
                        uint32_t ifindex) {
  uint64_t last_ns = record->last_ns;
  uint64_t first_ns = record->first_ns < last_ns ? record->first_ns : last_ns;
  uniflow->record = record;
  fill_addresses(uniflow, record, way);
  uniflow->packets = record->packets[way];
  uniflow->octets = record->bytes[way];
  uniflow->l2_octets = record->l2_bytes[way];
  uniflow->tcp_flags = record->tcp_flags[way];
  uniflow->first_ms = first_ns / 1000000;
  uniflow->last_ms = last_ns / 1000000;
  /* An unknown direction counts as ingress, because the observation point received the packets. */
  uniflow->egress = record->direction == SONDE_DIRECTION_EGRESS;
  if (way == SONDE_UNIFLOW_REVERSE && record->direction != SONDE_DIRECTION_UNKNOWN)
    uniflow->egress = !uniflow->egress;
  uniflow->input_ifindex = uniflow->egress ? 0 : ifindex;
  uniflow->output_ifindex = uniflow->egress ? ifindex : 0;
  uniflow->initiator = (uint8_t)(1 + way);
  uniflow->vlan_outer = record->vlan_depth > 0 ? record->vlan[0] : 0;
  uniflow->vlan_inner = record->vlan_depth > 1 ? record->vlan[record->vlan_depth - 1] : 0;
  uniflow->mpls = record->mpls_label == UINT32_MAX ? 0 : record->mpls_label << 4;
  uniflow->flow_label = record->ipv6 & SONDE_FLOW_LABEL_MASK;
  uniflow->extensions = spread_extensions(record->ipv6);
  uniflow->segment_id = name_segment(record);
}
