/* first_sends.c - two processes that send at once on each of some inherited UDP sockets.
 *
 *   first_sends COUNT ADDRESS PORT
 *
 * No process binds or connects the sockets. Both send one byte on each, at the same time as far as
 * two processors allow. Writes the ports, one on a line, and ends with its standard input.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SOCKETS_MAX = 4096 };

/* Moves this process to the first or second processor that it may use. */
static void pin(int number) {
  cpu_set_t allowed, one;
  CPU_ZERO(&one);
  sched_getaffinity(0, sizeof allowed, &allowed);
  for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
    if (CPU_ISSET(cpu, &allowed) && number-- == 0)
      CPU_SET(cpu, &one);
  if (CPU_COUNT(&one))
    sched_setaffinity(0, sizeof one, &one);
}

/* Returns when the other process is as far. */
static void wait_for(const _Atomic int *turn, int number) {
  enum { SPINS = 10000 };
  for (int spins = 0; *turn < number; spins++)
    if (spins % SPINS == SPINS - 1)
      sched_yield();
}

int main(int argc, char **argv) {
  static int sockets[SOCKETS_MAX];
  int count = argc == 4 ? atoi(argv[1]) : 0;
  struct sockaddr_in to = {.sin_family = AF_INET};
  if (count <= 0 || count > SOCKETS_MAX || inet_pton(AF_INET, argv[2], &to.sin_addr) != 1)
    return 2;
  to.sin_port = htons((uint16_t)atoi(argv[3]));
  for (int i = 0; i < count; i++)
    sockets[i] = socket(AF_INET, SOCK_DGRAM, 0);
  _Atomic int *turns = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  pid_t child = fork();
  int self = child == 0;
  pin(self);
  for (int i = 0; i < count; i++) {
    turns[self] = i + 1;
    wait_for(&turns[!self], i + 1);
    if (sendto(sockets[i], "x", 1, 0, (struct sockaddr *)&to, sizeof to) != 1)
      return 1;
  }
  if (self)
    return 0;
  int status;
  if (waitpid(child, &status, 0) != child || status != 0)
    return 1;
  for (int i = 0; i < count; i++) {
    struct sockaddr_in own;
    socklen_t bytes = sizeof own;
    if (getsockname(sockets[i], (struct sockaddr *)&own, &bytes) < 0)
      return 1;
    printf("%d\n", ntohs(own.sin_port));
  }
  fflush(stdout);
  return getchar() == EOF ? 0 : 1;
}
