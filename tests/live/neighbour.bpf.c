/* neighbour.bpf.c - a foreign program at the traffic control hook that drops all ICMP. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

SEC("tc")
int policy(struct __sk_buff *skb) {
  const unsigned char *frame = (void *)(long)skb->data;
  if ((void *)(long)skb->data + ETH_HLEN + 20 > (void *)(long)skb->data_end)
    return TC_ACT_OK;
  return frame[12] == 8 && frame[13] == 0 && frame[23] == 1 ? TC_ACT_SHOT : TC_ACT_OK;
}

char _license[] SEC("license") = "Apache-2.0";
