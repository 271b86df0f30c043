/* dpdk_process_test.c - the process of a dpdk capture: it ends with the capture, its own end is
 * reported, and nothing of it remains in any case.
 */
#include <signal.h>
#include <sys/wait.h>

#include "dpdk_capture.h"
#include "live.h"

static void check_ten_captures(void) {
  struct live_frame frame = live_udp4(NULL, 1, 2, 3, 4, 100, 0);
  int sender = live_sender("v1");
  for (int i = 0; i < 10; i++) {
    struct sonde_backend *backend = capture("v0", 262144);
    int process = process_of(backend);
    live_send(sender, frame.bytes, frame.length);
    CHECK_EQ(finish(backend), 0);
    CHECK_EQ(seen_count, 1);
    CHECK(process > 0 && kill(process, 0) != 0);
  }
  CHECK_EQ(left_behind(), 0);
  close(sender);
}

static void check_killed_process(void) {
  /* Each frame exceeds a thousandth of the ring, so all ten are known to be written. */
  struct live_frame frame = live_udp4(NULL, 1, 2, 3, 4, 1100, 0);
  int sender = live_sender("v1");
  shm_ring_bytes = SMALL_RING_BYTES;
  struct sonde_backend *backend = capture("v0", 262144);
  int process = process_of(backend);
  for (int i = 0; i < 10; i++)
    live_send(sender, frame.bytes, frame.length);
  wait_written(backend, 10, frame.length);
  shm_ring_bytes = SHM_RING_BYTES;
  kill(process, SIGKILL);
  seen_count = 0;
  CHECK_EQ(collect(backend, HANGS_MS), SONDE_SYSTEM);
  CHECK(strstr(error.detail, "was killed by signal 9"));
  CHECK_EQ(seen_count, 10); /* frames already written are not lost */
  CHECK_EQ(collect(backend, HANGS_MS), SONDE_SYSTEM);
  live_run("ip link set v0 name gone0");
  CHECK(ops->reopen(backend, &error) != 0);
  CHECK_EQ(collect(backend, HANGS_MS), SONDE_SYSTEM);
  live_run("ip link set gone0 name v0 && ip link set v0 up");
  live_wait_up("v0");
  CHECK_EQ(ops->reopen(backend, &error), 0);
  remember_process(process_of(backend));
  CHECK(process_of(backend) != process);
  for (int i = 0; i < 5; i++)
    live_send(sender, frame.bytes, frame.length);
  CHECK_EQ(finish(backend), 0);
  CHECK_EQ(seen_count, 5);
  CHECK_EQ(left_behind(), 0);
  close(sender);
}

/* A process frozen in the middle of its work: quiesce and stop must not wait for it forever. */
static void check_frozen_process(void) {
  struct sonde_backend *backend = capture("v0", 262144);
  int process = process_of(backend);
  kill(process, SIGSTOP);
  finish(backend);
  CHECK(kill(process, 0) != 0);
}

/* The process does not outlive its agent, even if the agent is killed. */
static void check_killed_agent(void) {
  int pipes[2];
  int process = 0;
  live_need(pipe(pipes) == 0, "pipe");
  pid_t agent = fork();
  if (agent == 0) {
    struct sonde_backend *backend = capture("v0", 262144);
    process = process_of(backend);
    live_need(write(pipes[1], &process, sizeof process) == sizeof process, "write");
    pause();
  }
  live_need(read(pipes[0], &process, sizeof process) == sizeof process, "read");
  remember_process(process);
  CHECK(kill(process, 0) == 0);
  kill(agent, SIGKILL);
  waitpid(agent, NULL, 0);
  char path[32];
  char state = 'R';
  for (int tries = 0; tries < HANGS_MS / 10 && state != 'Z'; tries++) {
    snprintf(path, sizeof path, "/proc/%d/stat", process);
    FILE *stat = fopen(path, "re");
    state = 'Z'; /* gone, or a zombie that its new parent has not reaped yet */
    if (stat) {
      live_need(fscanf(stat, "%*d (%*[^)]) %c", &state) == 1, path);
      fclose(stat);
    }
    usleep(10000);
  }
  CHECK_EQ(state, 'Z');
  CHECK_EQ(strlen(live_line("cat /proc/self/net/packet", "R0:")), 0);
  CHECK_EQ(left_behind(), 0);
}

int main(void) {
  if (!dpdk_begin())
    return check_report();
  check_ten_captures();
  check_killed_process();
  check_frozen_process();
  check_killed_agent();
  return dpdk_end();
}
