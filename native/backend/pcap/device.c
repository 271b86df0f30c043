/* device.c - see device.h. */
#include "device.h"

#include <linux/filter.h>
#include <sys/socket.h>
#include <unistd.h>

#include "failure.h"
#include "host/interface.h"
#include "packet.h"

/* libpcap's optimizer is cubic: 2 s for this many bytes, minutes for 16 KiB. */
enum { EXPRESSION_BYTES_MAX = 4096, BUFFER_BYTES_MIN = 1 << 20 };

const char *device_version(void) {
  static const char prefix[] = "libpcap version ";
  static char version[16];
  const char *text = pcap_lib_version();
  text = strncmp(text, prefix, sizeof prefix - 1) == 0 ? text + sizeof prefix - 1 : "";
  snprintf(version, sizeof version, "%.*s", (int)strcspn(text, " "), text);
  return version;
}

int device_probe(struct sonde_error *error) {
  int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
  if (fd < 0)
    return sonde_fail_socket(error);
  close(fd);
  return 0;
}

/* The current name, since a capture follows a renamed interface. NULL if not open or deleted. */
static const char *present_name(const struct device *device, char name[static IF_NAMESIZE]) {
  return device->ifindex ? if_indextoname((unsigned)device->ifindex, name) : NULL;
}

int device_set(struct device *device, const char *name, uint32_t snaplen, uint32_t buffer_bytes,
               bool promiscuous, struct sonde_error *error) {
  struct sonde_interface interface = {0};
  if (!name || !*name || strlen(name) >= sizeof device->name)
    return sonde_fail_interface(error, name, ENODEV);
  int status =
      strcmp(name, "any") == 0 ? 0 : sonde_interface_find(name, SONDE_TAP_NONE, &interface, error);
  if (status)
    return status;
  *device = (struct device){.snaplen = snaplen,
                            .buffer_bytes =
                                buffer_bytes < BUFFER_BYTES_MIN ? BUFFER_BYTES_MIN : buffer_bytes,
                            .promiscuous = promiscuous,
                            .loopback = interface.loopback,
                            .select_fd = -1};
  memcpy(device->name, name, strlen(name) + 1);
  return 0;
}

/* DLT_ numbers differ from LINKTYPE_ numbers only for old types. */
static uint16_t dlt_linktype(int dlt) {
  switch (dlt) {
  case DLT_RAW:
    return SONDE_LINKTYPE_RAW;
  case DLT_PPP_SERIAL:
    return SONDE_LINKTYPE_PPP_HDLC;
  default:
    return (uint16_t)dlt;
  }
}

static int activation_failure(const struct device *device, int problem, struct sonde_error *error) {
  const char *words = pcap_geterr(device->pcap);
  words = *words ? words : pcap_statustostr(problem);
  switch (problem) {
  case PCAP_ERROR_PERM_DENIED:
  case PCAP_ERROR_PROMISC_PERM_DENIED:
    return sonde_fail(error, SONDE_PERMISSION, EPERM, "needs CAP_NET_RAW");
  case PCAP_ERROR_NO_SUCH_DEVICE:
    return sonde_fail_interface(error, device->name, ENODEV);
  case PCAP_ERROR_IFACE_NOT_UP:
    return sonde_fail_interface(error, device->name, ENETDOWN);
  default:
    return sonde_fail(error, SONDE_SYSTEM, 0, "%s: %.200s", device->name, words);
  }
}

int device_open(struct device *device, const char *expression, struct sonde_error *error) {
  char words[PCAP_ERRBUF_SIZE] = "";
  char present[IF_NAMESIZE];
  const char *name = present_name(device, present);
  name = name ? name : device->name;
  device->pcap = pcap_create(name, words);
  if (!device->pcap)
    return sonde_fail(error, SONDE_SYSTEM, 0, "%s: %.200s", device->name, words);
  /* No immediate mode: it makes libpcap fall back to the older ring. */
  pcap_set_snaplen(device->pcap, (int)device->snaplen);
  pcap_set_promisc(device->pcap, device->promiscuous);
  pcap_set_buffer_size(device->pcap, (int)device->buffer_bytes);
  pcap_set_timeout(device->pcap, DEVICE_TIMEOUT_MS);
  bool nanoseconds = pcap_set_tstamp_precision(device->pcap, PCAP_TSTAMP_PRECISION_NANO) == 0;
  device->tick_ns = nanoseconds ? 1 : 1000;
  int status = pcap_activate(device->pcap);
  if (status < 0) {
    status = activation_failure(device, status, error);
    goto out;
  }
  device->ifindex = (int)if_nametoindex(name);
  if (strcmp(device->name, "any") == 0)
    pcap_set_datalink(device->pcap, DLT_LINUX_SLL2);
  if (device->loopback)
    pcap_setdirection(device->pcap, PCAP_D_IN); /* lo shows each packet twice */
  device->linktype = dlt_linktype(pcap_datalink(device->pcap));
  status = device_filter(device, expression, error);
  if (!status && pcap_setnonblock(device->pcap, 1, words))
    status = sonde_fail(error, SONDE_SYSTEM, 0, "%s: %.200s", device->name, words);
  device->select_fd = pcap_get_selectable_fd(device->pcap);
out:
  if (status)
    device_close(device);
  return status;
}

int device_filter(struct device *device, const char *expression, struct sonde_error *error) {
  struct bpf_program program;
  if (strnlen(expression, EXPRESSION_BYTES_MAX + 1) > EXPRESSION_BYTES_MAX) {
    return sonde_fail(error, SONDE_FILTER_INVALID, 0, "the expression is longer than %d bytes",
                      EXPRESSION_BYTES_MAX);
  }
  if (pcap_compile(device->pcap, &program, expression, 1, PCAP_NETMASK_UNKNOWN))
    return sonde_fail(error, SONDE_FILTER_INVALID, 0, "%s", pcap_geterr(device->pcap));
  int status = pcap_setfilter(device->pcap, &program)
                   ? sonde_fail(error, SONDE_SYSTEM, 0, "%s", pcap_geterr(device->pcap))
                   : 0;
  pcap_freecode(&program);
  return status;
}

/* Not pcap_setfilter: that would also drop the packets already in the ring. */
void device_refuse_all(const struct device *device) {
  struct sock_filter refuse = BPF_STMT(BPF_RET | BPF_K, 0);
  struct sock_fprog program = {.len = 1, .filter = &refuse};
  if (device->pcap)
    setsockopt(pcap_fileno(device->pcap), SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program);
}

int device_trouble(const struct device *device, struct sonde_error *error) {
  struct sonde_interface interface = {0};
  char present[IF_NAMESIZE];
  if (strcmp(device->name, "any") == 0)
    return 0;
  const char *name = present_name(device, present);
  if (!name || sonde_interface_find(name, SONDE_TAP_NONE, &interface, error))
    return sonde_fail(error, SONDE_SYSTEM, errno, "%s: %s", device->name, strerror(errno));
  if (!(interface.flags & IFF_UP))
    return sonde_fail(error, SONDE_LINK_DOWN, ENETDOWN, "%s", strerror(ENETDOWN));
  return 0;
}

void device_close(struct device *device) {
  if (device->pcap)
    pcap_close(device->pcap);
  device->pcap = NULL;
  device->select_fd = -1;
}
