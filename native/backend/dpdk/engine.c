/* engine.c - the DPDK process: EAL, one port, its polling threads, and the socket to the agent.
 *
 * EAL starts only once per process, pins its threads, prints, and may abort the process. So each
 * session has a separate one, which ends when the agent closes the socket or dies.
 * (PR_SET_PDEATHSIG depends on the thread that created the process, and agent threads end
 * earlier than the agent.)
 */
#include <errno.h>
#include <poll.h>
#include <rte_eal.h>
#include <rte_ethdev.h>
#include <rte_log.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine_guard.h"
#include "engine_poll.h"
#include "status.h"

enum {
  CONTROL_FD = STDIN_FILENO,
  COUNT_EVERY_MS = 50,
  DRAIN_MAX_MS = 500,
  ARGUMENTS_MAX = 24,
  MEMORY_MB_LEAST = 64, /* without huge pages */
  MEMORY_MB_QUEUE = 8,
};

struct engine {
  struct engine_setup setup;
  struct area *area;
  int doorbells[SHM_RINGS_MAX];
  struct port port;
  struct poller pollers[SHM_RINGS_MAX];
  bool polling;
  bool eal;
};

/* ---- setup ------------------------------------------------------------------------------- */

static int receive_setup(struct engine *engine) {
  union {
    struct cmsghdr head;
    char bytes[CMSG_SPACE(sizeof(int) * (SHM_RINGS_MAX + 1))];
  } control;
  int fds[SHM_RINGS_MAX + 1];
  struct iovec into = {.iov_base = &engine->setup, .iov_len = sizeof engine->setup};
  struct msghdr message = {
      .msg_iov = &into, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
  ssize_t got = recvmsg(CONTROL_FD, &message, MSG_CMSG_CLOEXEC);
  struct cmsghdr *head = CMSG_FIRSTHDR(&message);
  const struct engine_setup *setup = &engine->setup;
  if (got != sizeof *setup || setup->abi != ENGINE_ABI || !head || setup->queues < 1 ||
      setup->queues > SHM_RINGS_MAX || head->cmsg_type != SCM_RIGHTS ||
      head->cmsg_len != CMSG_LEN(sizeof(int) * (setup->queues + 1))) {
    return -1;
  }
  memcpy(fds, CMSG_DATA(head), sizeof(int) * (setup->queues + 1));
  memcpy(engine->doorbells, fds + 1, sizeof(int) * setup->queues);
  engine->area =
      mmap(NULL, setup->area_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fds[0], 0);
  close(fds[0]);
  return engine->area == MAP_FAILED ? -1 : 0;
}

static bool huge_pages(void) {
  char line[128];
  unsigned long pages = 0;
  FILE *info = fopen("/proc/meminfo", "re");
  while (info && fgets(line, sizeof line, info))
    sscanf(line, "HugePages_Free: %lu", &pages);
  if (info)
    fclose(info);
  return pages > 0;
}

/* One logical core for EAL on all permitted processors: no pinning. */
static void write_cores(char *text, size_t text_bytes) {
  cpu_set_t allowed;
  size_t length = (size_t)snprintf(text, text_bytes, "0@(");
  CPU_ZERO(&allowed);
  sched_getaffinity(0, sizeof allowed, &allowed);
  const char *comma = "";
  for (int cpu = 0; cpu < CPU_SETSIZE && length + 8 < text_bytes; cpu++) {
    if (CPU_ISSET(cpu, &allowed)) {
      length += (size_t)snprintf(text + length, text_bytes - length, "%s%d", comma, cpu);
      comma = ",";
    }
  }
  snprintf(text + length, text_bytes - length, ")");
}

static int start_eal(const struct engine_setup *setup) {
  char cores[1024];
  char prefix[32];
  char memory[16];
  char device[sizeof setup->device];
  char *arguments[ARGUMENTS_MAX] = {"netsonde-dpdk", "--no-telemetry", "--lcores",
                                    cores,           "--file-prefix",  prefix};
  int count = 6;
  write_cores(cores, sizeof cores);
  snprintf(prefix, sizeof prefix, "netsonde-dpdk%d", (int)getpid());
  snprintf(memory, sizeof memory, "%u", MEMORY_MB_LEAST + MEMORY_MB_QUEUE * setup->queues);
  snprintf(device, sizeof device, "%s", setup->device);
  if (huge_pages()) {
    arguments[count++] = "--in-memory";
  } else {
    arguments[count++] = "--no-shconf";
    arguments[count++] = "--no-huge";
    arguments[count++] = "-m";
    arguments[count++] = memory;
  }
  if (setup->kind == ENGINE_DEVICE) {
    arguments[count++] = "--allow";
  } else {
    arguments[count++] = "--no-pci";
    arguments[count++] = "--vdev";
  }
  arguments[count++] = device;
  rte_openlog_stream(stderr); /* the agent reads it; not syslog */
  return rte_eal_init(count, arguments);
}

/* ---- commands ---------------------------------------------------------------------------- */

static int open_port(struct engine *engine, struct engine_reply *reply) {
  if (start_eal(&engine->setup) < 0) {
    reply->status = SONDE_SYSTEM; /* EAL's output has the reason */
    return reply->status;
  }
  engine->eal = true;
  int status = port_open(&engine->port, &engine->setup, reply);
  reply->queues = engine->port.queues;
  return status;
}

static void start_polling(struct engine *engine, struct engine_reply *reply) {
  struct area *area = engine->area;
  if (engine->polling || port_start(&engine->port, reply))
    return;
  atomic_store(&area->missed, 0);
  for (uint16_t i = 0; i < engine->port.queues && reply->status == 0; i++) {
    struct shm_ring *ring = &area->rings[i];
    engine->pollers[i] = (struct poller){
        .port = &engine->port,
        .queue = i,
        .snaplen = engine->setup.snaplen,
        .flows = engine->setup.flows,
        .doorbell = engine->doorbells[i],
        .writer = {.shared = ring,
                   .ring = shm_ring_data(area, area->shm_ring_bytes, i),
                   .mask = area->shm_ring_bytes - 1,
                   .head = atomic_load(&ring->head),
                   .tail = atomic_load(&ring->tail)},
    };
    atomic_store(&ring->finished, 0);
    if (poller_start(&engine->pollers[i])) {
      reply->status = SONDE_SYSTEM;
      snprintf(reply->detail, sizeof reply->detail, "cannot start a polling thread");
    }
  }
  engine->polling = true;
}

static void count_missed(struct engine *engine) {
  if (engine->polling)
    atomic_store(&engine->area->missed, port_missed(&engine->port));
}

static void quiesce(struct engine *engine) {
  uint64_t accepted = UINT64_MAX;
  if (!engine->polling)
    return;
  port_refuse(&engine->port, &accepted);
  for (uint16_t i = 0; i < engine->port.queues; i++)
    poller_drain(&engine->pollers[i], accepted, DRAIN_MAX_MS);
  for (uint16_t i = 0; i < engine->port.queues; i++)
    poller_stop(&engine->pollers[i]);
  count_missed(engine);
  engine->polling = false;
}

/* Serves commands until the agent closes the socket. */
static void serve(struct engine *engine) {
  struct pollfd control = {.fd = CONTROL_FD, .events = POLLIN};
  char command;
  for (;;) {
    int ready = poll(&control, 1, COUNT_EVERY_MS);
    count_missed(engine);
    if (ready <= 0)
      continue;
    struct engine_reply reply = {0};
    if (recv(CONTROL_FD, &command, 1, 0) != 1)
      return;
    if (command == ENGINE_START)
      start_polling(engine, &reply);
    else if (command == ENGINE_QUIESCE)
      quiesce(engine);
    if (send(CONTROL_FD, &reply, sizeof reply, MSG_NOSIGNAL) < 0)
      return;
  }
}

int main(void) {
  static struct engine engine;
  struct engine_reply reply = {0};
  if (receive_setup(&engine))
    return 1; /* not started by the agent */
  prctl(PR_SET_NAME, "netsonde-dpdk");
  signal(SIGPIPE, SIG_IGN); /* writing to a dead agent must not stop the cleanup */
  guard_close();
  open_port(&engine, &reply);
  if (send(CONTROL_FD, &reply, sizeof reply, MSG_NOSIGNAL) == sizeof reply && reply.status == 0)
    serve(&engine);
  for (uint16_t i = 0; i < engine.port.queues; i++)
    poller_stop(&engine.pollers[i]);
  if (engine.eal) {
    if (rte_eth_dev_is_valid_port(engine.port.id))
      port_close(&engine.port);
    rte_eal_cleanup();
  }
  return reply.status == 0 ? 0 : 1;
}
