/* view.bpf.h - the shared programs' parser: reads a packet's headers once.
 *
 * It parses only plain packets and leaves all others to the decoder in user space. Its result
 * must equal the decoder's.
 */
#ifndef SONDE_XDP_VIEW_BPF_H
#define SONDE_XDP_VIEW_BPF_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <stdbool.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "map_layout.h"

enum {
  TAGS_IN_LINE_MAX = 2,
  IPV4_BYTES = 20,
  IPV6_BYTES = 40,
  TCP_BYTES = 20,
  UDP_BYTES = 8,
  HEADERS_MAX = 14 + 8 + IPV6_BYTES + TCP_BYTES,
  PROTOCOL_TCP = 6,
  PROTOCOL_UDP = 17,
  TCP_FIN = 1,
  TCP_SYN = 2,
  TCP_RST = 4,
};

const volatile struct xdp_settings settings = {.queues = 1};

/* The parsed fields of a packet. */
struct view {
  struct sonde_key key;
  __u64 time_ns;
  __u32 wirelen; /* including the tag that the kernel stores apart */
  __u32 queue;
  __u32 gso_size;
  __u32 packets;
  __u32 ip_bytes;
  __u32 l2_bytes;
  __u32 seq;
  __u32 length;         /* TCP payload */
  __u32 payload_offset; /* UDP, in the frame on the wire */
  __u8 side;            /* the sender is the key's lo (0) or hi side (1) */
  __u8 tos;
  __u8 ttl;
  __u8 tcp_flags;
  __u8 direction;
  bool keyed;  /* key is set, so the packet can have a slot */
  bool counts; /* the packet only has to be counted */
};

static __always_inline bool is_tag(__u16 ethertype) {
  return ethertype == 0x8100 || ethertype == 0x88a8 || ethertype == 0x9100 || ethertype == 0x9200;
}

static __always_inline bool is_tunnel_port(__u16 port) {
#pragma unroll
  for (int i = 0; i < SONDE_VXLAN_PORTS_MAX; i++)
    if (settings.vxlan_ports[i] && port == settings.vxlan_ports[i])
      return true;
  return port == 4790 || port == 6081 || port == 2152 || port == 3544;
}

static __always_inline __u32 spread(__u32 word, __u32 hash) {
  hash = (hash + word) * 0x9e3779b1;
  return hash ^ hash >> 15;
}

static __always_inline __u32 spread_six(const __u32 *address) {
  return spread(address[3], spread(address[2], spread(address[1], spread(address[0], 1))));
}

/* Both directions, all fragments and all packets of a tunnel go to one queue. */
static __always_inline void choose_queue(__u32 pair, struct view *view) {
  pair = (pair ^ pair >> 16) * 0x85ebca6b;
  if (settings.queues > 1)
    view->queue = (pair ^ pair >> 13) % settings.queues;
}

static __always_inline void order_ports(struct sonde_key *key, __u16 source, __u16 dest,
                                        bool reversed) {
  key->lo_port = reversed ? dest : source;
  key->hi_port = reversed ? source : dest;
}

static __always_inline void set_ipv4(const __u8 *ip, __u16 source_port, __u16 dest_port,
                                     struct view *view) {
  __u32 source = *(__u32 *)(ip + 12);
  __u32 dest = *(__u32 *)(ip + 16);
  __u64 from = (__u64)bpf_ntohl(source) << 16 | source_port;
  __u64 to = (__u64)bpf_ntohl(dest) << 16 | dest_port;
  view->side = from > to;
  *(__u32 *)view->key.lo_ip = view->side ? dest : source;
  *(__u32 *)view->key.hi_ip = view->side ? source : dest;
  order_ports(&view->key, source_port, dest_port, view->side);
  view->key.ip_version = 4;
}

static __always_inline void set_ipv6(const __u8 *ip, __u16 source_port, __u16 dest_port,
                                     struct view *view) {
  __u64 source[2] = {*(__u64 *)(ip + 8), *(__u64 *)(ip + 16)};
  __u64 dest[2] = {*(__u64 *)(ip + 24), *(__u64 *)(ip + 32)};
  __u64 from = bpf_be64_to_cpu(source[0]), to = bpf_be64_to_cpu(dest[0]);
  if (from == to) {
    from = bpf_be64_to_cpu(source[1]);
    to = bpf_be64_to_cpu(dest[1]);
  }
  view->side = from > to || (from == to && source_port > dest_port);
  __u64 *lo = (__u64 *)view->key.lo_ip, *hi = (__u64 *)view->key.hi_ip;
  lo[0] = view->side ? dest[0] : source[0];
  lo[1] = view->side ? dest[1] : source[1];
  hi[0] = view->side ? source[0] : dest[0];
  hi[1] = view->side ? source[1] : dest[1];
  order_ports(&view->key, source_port, dest_port, view->side);
  view->key.ip_version = 6;
}

/* A super-packet is several packets on the wire, each with the headers before `headers_end`. */
static __always_inline void weigh(__u32 octets, __u32 ip_offset, __u32 headers_end,
                                  struct view *view) {
  view->packets = 1;
  view->ip_bytes = octets;
  view->l2_bytes = view->wirelen;
  if (view->gso_size == 0 || view->wirelen <= headers_end)
    return;
  __u32 more = (view->wirelen - headers_end + view->gso_size - 1) / view->gso_size - 1;
  view->packets += more;
  view->ip_bytes += more * (headers_end - ip_offset);
  view->l2_bytes += more * headers_end;
}

/* `ip` is at `ip_offset` of the frame on the wire, `transport` follows it. */
static __always_inline void parse_transport(const __u8 *ip, const __u8 *transport, const void *end,
                                            __u32 ip_offset, __u32 ip_header, __u32 octets,
                                            struct view *view) {
  __u8 protocol = view->key.protocol;
  __u32 least = protocol == PROTOCOL_TCP ? TCP_BYTES : UDP_BYTES;
  if (octets < ip_header + least || octets > view->wirelen - ip_offset)
    return; /* truncated, clamped, or without a length: left to the decoder */
  if ((void *)transport + UDP_BYTES > end)
    return;
  __u16 source = bpf_ntohs(*(__u16 *)transport), dest = bpf_ntohs(*(__u16 *)(transport + 2));
  __u32 header = UDP_BYTES;
  if (protocol == PROTOCOL_TCP) {
    if ((void *)transport + TCP_BYTES > end)
      return;
    header = (transport[12] >> 4) * 4;
    if (header < TCP_BYTES)
      header = TCP_BYTES;
    view->tcp_flags = transport[13];
    view->seq = bpf_ntohl(*(__u32 *)(transport + 4));
    view->length = octets > ip_header + header ? octets - ip_header - header : 0;
  } else if ((settings.tunnels || view->gso_size) &&
             (is_tunnel_port(source) || is_tunnel_port(dest))) {
    return;
  }
  if (view->key.ip_version == 4)
    set_ipv4(ip, source, dest, view);
  else
    set_ipv6(ip, source, dest, view);
  view->payload_offset = ip_offset + ip_header + header;
  weigh(octets, ip_offset, ip_offset + ip_header + header, view);
  view->keyed = true;
  view->counts = !(view->tcp_flags & (TCP_FIN | TCP_SYN | TCP_RST));
}

static __always_inline void parse_ip(const __u8 *ip, const void *end, __u32 ip_offset,
                                     struct view *view) {
  if ((void *)ip + IPV4_BYTES > end)
    return;
  __u8 version = view->key.ip_version;
  if (version == 4 && ip[0] >> 4 == 4) {
    choose_queue(spread(*(__u32 *)(ip + 12), 1) + spread(*(__u32 *)(ip + 16), 1), view);
    __u8 protocol = ip[9];
    if (ip[0] != 0x45 || (*(__u16 *)(ip + 6) & bpf_htons(0x3fff)) ||
        (protocol != PROTOCOL_TCP && protocol != PROTOCOL_UDP))
      return;
    view->key.protocol = protocol;
    view->tos = ip[1];
    view->ttl = ip[8];
    __u32 octets = bpf_ntohs(*(__u16 *)(ip + 2));
    parse_transport(ip, ip + IPV4_BYTES, end, ip_offset, IPV4_BYTES, octets, view);
  } else if (version == 6 && ip[0] >> 4 == 6) {
    if ((void *)ip + IPV6_BYTES > end)
      return;
    choose_queue(spread_six((__u32 *)(ip + 8)) + spread_six((__u32 *)(ip + 24)), view);
    __u8 protocol = ip[6];
    __u32 payload = bpf_ntohs(*(__u16 *)(ip + 4));
    if ((protocol != PROTOCOL_TCP && protocol != PROTOCOL_UDP) || payload == 0)
      return;
    view->key.protocol = protocol;
    view->tos = bpf_ntohs(*(__u16 *)ip) >> 4;
    view->ttl = ip[7];
    parse_transport(ip, ip + IPV6_BYTES, end, ip_offset, IPV6_BYTES, IPV6_BYTES + payload, view);
  }
}

/* Id 0 is a priority without a VLAN. */
static __always_inline void add_vlan(__u16 id, struct view *view) {
  if (id == 0)
    return;
  if (view->key.vlan_depth == 0)
    view->key.vlan[0] = id;
  else if (view->key.vlan_depth == 1)
    view->key.vlan[1] = id;
  else
    view->key.vlan[2] = id;
  view->key.vlan_depth++;
}

/* How many bytes must be contiguous: only those that are read. A super-packet's headers already
 * are and its payload is not. TCP keeps a copy of sent data, so pulling one payload byte would
 * allocate a new header for every super-packet. */
static __always_inline __u32 headers_bytes(struct __sk_buff *skb) {
  const __u8 *at = (void *)(long)skb->data;
  const void *end = (void *)(long)skb->data_end;
  if (settings.bare || (void *)at + ETH_HLEN + IPV4_BYTES > end)
    return HEADERS_MAX;
  __u16 ethertype = bpf_ntohs(*(__u16 *)(at + 12));
  if (ethertype == ETH_P_IP)
    return ETH_HLEN + IPV4_BYTES + (at[ETH_HLEN + 9] == PROTOCOL_UDP ? UDP_BYTES : TCP_BYTES);
  if (ethertype == ETH_P_IPV6)
    return ETH_HLEN + IPV6_BYTES + (at[ETH_HLEN + 6] == PROTOCOL_UDP ? UDP_BYTES : TCP_BYTES);
  return HEADERS_MAX;
}

/* Finds the IP header after up to TAGS_IN_LINE_MAX tags and one stored apart from the frame. */
static __always_inline void parse(struct __sk_buff *skb, struct view *view) {
  __u32 headers = headers_bytes(skb);
  __u32 needed = skb->len < headers ? skb->len : headers;
  if ((void *)(long)skb->data + needed > (void *)(long)skb->data_end)
    bpf_skb_pull_data(skb, needed); /* the stack is about to do the same */
  const __u8 *at = (void *)(long)skb->data;
  const void *end = (void *)(long)skb->data_end;
  __u32 offset = view->wirelen - skb->len;
  if (settings.bare) {
    if ((void *)at + 1 > end)
      return;
    view->key.ip_version = at[0] >> 4;
    parse_ip(at, end, 0, view);
    return;
  }
  if ((void *)at + ETH_HLEN > end)
    return;
  if (skb->vlan_present)
    add_vlan(skb->vlan_tci & 0x0fff, view);
  __u16 ethertype = bpf_ntohs(*(__u16 *)(at + 12));
  at += ETH_HLEN;
  offset += ETH_HLEN;
#pragma unroll
  for (int i = 0; i < TAGS_IN_LINE_MAX; i++) {
    if (!is_tag(ethertype))
      break;
    if ((void *)at + 4 > end)
      return;
    __u16 id = bpf_ntohs(*(__u16 *)at) & 0x0fff;
    add_vlan(id, view);
    ethertype = bpf_ntohs(*(__u16 *)(at + 2));
    at += 4;
    offset += 4;
  }
  view->key.ip_version = ethertype == ETH_P_IP ? 4 : ethertype == ETH_P_IPV6 ? 6 : 0;
  parse_ip(at, end, offset, view);
}

#endif
