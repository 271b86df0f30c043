/* payloads.bpf.h - finds the packets whose payload can name a flow. They go to the ring.
 *
 * TCP: the first payloads after a SYN, which is noted in `openings`. Another connection may take
 * its entry; the flow then stays without a name. UDP: Initial packets of QUIC, and DNS. Whether a
 * packet goes to the ring never changes the counts.
 */
#ifndef SONDE_XDP_PAYLOADS_BPF_H
#define SONDE_XDP_PAYLOADS_BPF_H

#include "app_label.h"
#include "view.bpf.h"

enum {
  PORT_DNS = 53,
  PORT_MDNS = 5353,
  OPENING_BITS = 4, /* the payloads left; the rest of an entry is from the flow's hash */
  OPENING_LEFT = (1 << OPENING_BITS) - 1,
  QUIC_LONG = 0xc0, /* long header and fixed bit */
  QUIC_TYPE = 0x30,
  QUIC_INITIAL_2 = 0x10, /* Initial in version 2; 0 in the others */
};

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, __u32);
} openings SEC(".maps");

static __always_inline bool has_port(const struct view *view, __u16 port) {
  return view->key.lo_port == port || view->key.hi_port == port;
}

static __always_inline __u32 opening_of(__u64 hash) {
  return (__u32)(hash >> 32) & ~OPENING_LEFT;
}

static __always_inline __u32 *find_opening(__u64 hash) {
  __u32 index = (__u32)hash & (XDP_OPENINGS - 1);
  return bpf_map_lookup_elem(&openings, &index);
}

/* Both directions write without a lock: at worst, another payload goes to the ring. */
static __always_inline bool needs_stream(const struct view *view, __u64 hash) {
  if (has_port(view, PORT_DNS))
    return (settings.labels & SONDE_LABEL_DNS) && view->length;
  if (!(settings.labels & (SONDE_LABEL_TLS | SONDE_LABEL_HTTP)))
    return false;
  if (!(view->tcp_flags & TCP_SYN) && view->length == 0)
    return false;
  volatile __u32 *opening = find_opening(hash);
  if (!opening)
    return false;
  __u32 known = *opening;
  if (view->tcp_flags & TCP_SYN)
    known = opening_of(hash) | XDP_OPENING_PAYLOADS;
  if ((known & ~OPENING_LEFT) != opening_of(hash) || (known & OPENING_LEFT) == 0)
    return false;
  *opening = known - (view->length != 0);
  return view->length != 0;
}

static __always_inline bool is_initial(__u8 first, __u32 version) {
  if ((first & QUIC_LONG) != QUIC_LONG)
    return false;
  if (version == 0x6b3343cf)
    return (first & QUIC_TYPE) == QUIC_INITIAL_2;
  bool known = version == 1 || (version >= 0xff00001d && version <= 0xff000022);
  return known && (first & QUIC_TYPE) == 0;
}

static __always_inline bool needs_datagram(struct __sk_buff *skb, const struct view *view) {
  if (has_port(view, PORT_DNS) || has_port(view, PORT_MDNS))
    return settings.labels & SONDE_LABEL_DNS;
  __u8 head[8] = {0};
  __u32 offset = view->payload_offset + skb->len - view->wirelen;
  if (!(settings.labels & SONDE_LABEL_QUIC) || bpf_skb_load_bytes(skb, offset, head, 5))
    return false;
  return is_initial(head[0], (__u32)head[1] << 24 | head[2] << 16 | head[3] << 8 | head[4]);
}

/* Must the reader see this packet's payload? Notes the opening of a connection. */
static __always_inline bool needs_payload(struct __sk_buff *skb, const struct view *view,
                                          __u64 hash) {
  if (!settings.labels || !view->keyed)
    return false;
  return view->key.protocol == PROTOCOL_TCP ? needs_stream(view, hash) : needs_datagram(skb, view);
}

#endif
