/* engine_port.c - see engine_port.h. */
#include "engine_port.h"

#include <net/if.h>
#include <rte_ethdev.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "engine_guard.h"
#include "host/clock.h"
#include "status.h"

enum {
  DESCRIPTORS = 2048,
  JUMBO_MTU = 9600,
  POOL_SPARE = 512, /* for one burst and the per-thread caches */
  POOL_CACHE = 128,
  /* net_af_packet copies each frame into one buffer; see target.c. */
  WHOLE_FRAME_BUFFERS = 512,
  WHOLE_FRAME_BYTES = 16384 + RTE_PKTMBUF_HEADROOM,
};

#define RSS_WANTED                                                                                 \
  (RTE_ETH_RSS_IPV4 | RTE_ETH_RSS_FRAG_IPV4 | RTE_ETH_RSS_NONFRAG_IPV4_OTHER | RTE_ETH_RSS_IPV6 |  \
   RTE_ETH_RSS_FRAG_IPV6 | RTE_ETH_RSS_NONFRAG_IPV6_OTHER)

/* A Toeplitz key of one repeated 16-bit word gives both directions of a flow the same hash. */
enum { SYMMETRIC_KEY_BYTES_MAX = 128 };
static const uint8_t symmetric_word[2] = {0x6d, 0x5a};

static int fail(struct engine_reply *reply, int status, const char *what, int code) {
  reply->status = status;
  snprintf(reply->detail, sizeof reply->detail, "%s: %s", what,
           rte_strerror(code < 0 ? -code : code));
  return status;
}

static int make_pool(struct port *port, struct engine_reply *reply) {
  bool whole = port->kind == ENGINE_KERNEL;
  unsigned buffers = whole ? WHOLE_FRAME_BUFFERS : port->queues * DESCRIPTORS + POOL_SPARE * 2;
  uint16_t room = whole ? WHOLE_FRAME_BYTES : RTE_MBUF_DEFAULT_BUF_SIZE;
  port->pool = rte_pktmbuf_pool_create("packets", buffers, whole ? 0 : POOL_CACHE, 0, room,
                                       rte_eth_dev_socket_id(port->id));
  return port->pool ? 0 : fail(reply, SONDE_NO_MEMORY, "packet buffers", rte_errno);
}

/* Hashes only addresses: both directions and all fragments of a flow reach one queue. */
static void spread(struct rte_eth_conf *conf, const struct rte_eth_dev_info *info,
                   uint8_t key[static SYMMETRIC_KEY_BYTES_MAX]) {
  uint8_t key_bytes = info->hash_key_size < SYMMETRIC_KEY_BYTES_MAX ? info->hash_key_size : 0;
  for (int i = 0; i < key_bytes; i++)
    key[i] = symmetric_word[i % 2];
  conf->rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
  conf->rx_adv_conf.rss_conf.rss_hf = RSS_WANTED & info->flow_type_rss_offloads;
  conf->rx_adv_conf.rss_conf.rss_key = key_bytes ? key : NULL;
  conf->rx_adv_conf.rss_conf.rss_key_len = key_bytes;
}

static int configure(struct port *port, const struct engine_setup *setup,
                     struct engine_reply *reply) {
  struct rte_eth_dev_info info;
  struct rte_eth_conf conf = {0};
  uint8_t key[SYMMETRIC_KEY_BYTES_MAX];
  uint16_t descriptors = DESCRIPTORS;
  uint16_t unused = 0;
  int code = rte_eth_dev_info_get(port->id, &info);
  if (code)
    return fail(reply, SONDE_SYSTEM, "rte_eth_dev_info_get", code);
  snprintf(reply->driver, sizeof reply->driver, "%s", info.driver_name);
  bool spreads = port->kind == ENGINE_DEVICE && info.hash_key_size &&
                 (info.flow_type_rss_offloads & RSS_WANTED);
  uint32_t most = spreads || setup->flows ? info.max_rx_queues : 1;
  port->queues = (uint16_t)(setup->queues < most ? setup->queues : most);
  if (spreads && port->queues > 1)
    spread(&conf, &info, key);
  if (port->kind == ENGINE_DEVICE)
    conf.rxmode.mtu = info.max_mtu < JUMBO_MTU ? info.max_mtu : JUMBO_MTU;
  /* No VLAN stripping: tags stay in the frame. */
  conf.rxmode.offloads =
      info.rx_offload_capa & (RTE_ETH_RX_OFFLOAD_SCATTER | RTE_ETH_RX_OFFLOAD_TIMESTAMP);
  port->clock.is_us = strcmp(info.driver_name, "net_pcap") == 0;
  code = rte_eth_dev_configure(port->id, port->queues, 0, &conf);
  if (code == -EINVAL && info.max_tx_queues) { /* a driver that requires a transmit queue */
    code = rte_eth_dev_configure(port->id, port->queues, 1, &conf);
    unused = 1;
  }
  if (code) {
    return fail(reply, code == -EBUSY ? SONDE_INTERFACE_INVALID : SONDE_SYSTEM,
                "rte_eth_dev_configure", code);
  }
  code = rte_eth_dev_adjust_nb_rx_tx_desc(port->id, &descriptors, NULL);
  int status =
      code ? fail(reply, SONDE_SYSTEM, "receive descriptors", code) : make_pool(port, reply);
  for (uint16_t i = 0; !status && i < port->queues; i++) {
    code = rte_eth_rx_queue_setup(port->id, i, descriptors, rte_eth_dev_socket_id(port->id), NULL,
                                  port->pool);
    status = code ? fail(reply, SONDE_SYSTEM, "rte_eth_rx_queue_setup", code) : 0;
  }
  if (!status && unused) {
    code = rte_eth_tx_queue_setup(port->id, 0, 512, rte_eth_dev_socket_id(port->id), NULL);
    status = code ? fail(reply, SONDE_SYSTEM, "rte_eth_tx_queue_setup", code) : 0;
  }
  return status;
}

int port_open(struct port *port, const struct engine_setup *setup, struct engine_reply *reply) {
  uint16_t first = (uint16_t)rte_eth_find_next(0);
  *port = (struct port){.id = first,
                        .kind = setup->kind,
                        .promiscuous = setup->promiscuous,
                        .loopback = setup->loopback};
  if (rte_eth_dev_count_avail() == 0) {
    reply->status = SONDE_INTERFACE_INVALID; /* EAL's output has the reason */
    return reply->status;
  }
  if (setup->kind == ENGINE_KERNEL) {
    const char *name = strstr(setup->device, "iface=");
    char interface[IF_NAMESIZE] = "";
    snprintf(interface, sizeof interface, "%.*s", (int)strcspn(name + 6, ","), name + 6);
    port->ifindex = (int)if_nametoindex(interface);
  }
  return configure(port, setup, reply);
}

/* Drops the frames that arrived between creating the socket and start. */
static void discard(struct port *port, uint64_t count) {
  struct rte_mbuf *mbufs[32];
  for (int empty = 0; count && empty < 1000;) {
    uint16_t got = rte_eth_rx_burst(port->id, 0, mbufs, (uint16_t)(count < 32 ? count : 32));
    guard_consume(got);
    rte_pktmbuf_free_bulk(mbufs, got);
    count -= got;
    empty = got ? 0 : empty + 1;
  }
}

static uint64_t read_missed(const struct port *port) {
  struct rte_eth_stats stats;
  return rte_eth_stats_get(port->id, &stats) == 0 ? stats.imissed + stats.rx_nombuf : 0;
}

int port_start(struct port *port, struct engine_reply *reply) {
  int code = rte_eth_dev_start(port->id);
  if (code)
    return fail(reply, SONDE_SYSTEM, "rte_eth_dev_start", code);
  port->started = true;
  port->clock.at = rte_mbuf_dynfield_lookup(RTE_MBUF_DYNFIELD_TIMESTAMP_NAME, NULL);
  int flag = rte_mbuf_dynflag_lookup(RTE_MBUF_DYNFLAG_RX_TIMESTAMP_NAME, NULL);
  port->clock.flag = port->clock.at >= 0 && flag >= 0 ? RTE_BIT64(flag) : 0;
  if (port->kind == ENGINE_KERNEL) {
    uint64_t before = 0;
    code = guard_find_ring();
    code = code || !port->loopback ? code : guard_ignore_outgoing();
    code = code || !port->promiscuous ? code : guard_promiscuous(port->ifindex);
    code = code ? code : guard_count(&before, &port->dropped);
    if (code)
      return fail(reply, SONDE_SYSTEM, "the driver's packet socket", code < -1 ? code : errno);
    port->dropped = 0;
    discard(port, before);
  } else if (port->promiscuous) {
    rte_eth_promiscuous_enable(port->id); /* drivers without it already receive all packets */
  }
  port->missed_before = read_missed(port);
  return 0;
}

uint64_t port_missed(struct port *port) {
  if (port->kind == ENGINE_KERNEL) {
    guard_count(&port->accepted, &port->dropped);
    return port->dropped;
  }
  return read_missed(port) - port->missed_before;
}

bool port_refuse(struct port *port, uint64_t *accepted) {
  if (port->kind != ENGINE_KERNEL || guard_refuse_all())
    return false;
  nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL); /* packets in flight arrive */
  port_missed(port);
  *accepted = port->accepted;
  return true;
}

void port_clock_adjust(const struct port *port, struct port_clock *clock) {
  uint64_t ticks;
  if (!clock->flag || clock->is_us || rte_eth_read_clock(port->id, &ticks))
    return;
  uint64_t now_ns = sonde_clock_ns(CLOCK_REALTIME);
  if (clock->base && ticks > clock->base)
    clock->tick_ns = (double)(now_ns - clock->epoch_base_ns) / (double)(ticks - clock->base);
  clock->base = ticks;
  clock->epoch_base_ns = now_ns;
}

void port_close(struct port *port) {
  if (port->started)
    rte_eth_dev_stop(port->id);
  rte_eth_dev_close(port->id);
}
