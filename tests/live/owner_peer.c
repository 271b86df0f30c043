/* owner_peer.c - one end of a TCP connection as a process that lives for 2 ms.
 *
 *   connect ADDRESS PORT CASE   connects, talks, ends
 *   talk CASE                   talks on descriptor 0, which another process connected
 *   take CASE                   only receives on descriptor 0; the other process sends
 *   reply CASE                  replies on descriptor 0, which another process accepted
 *
 * It writes its end as a line of JSON. /proc/self is the id outside of a namespace of process ids.
 */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ASK_BYTES = 100, REPLY_BYTES = 200 };

static int report(int fd, const char *name) {
  struct sockaddr_in local, remote;
  socklen_t local_bytes = sizeof local, remote_bytes = sizeof remote;
  char pid[16] = "";
  if (getsockname(fd, (struct sockaddr *)&local, &local_bytes) < 0 ||
      getpeername(fd, (struct sockaddr *)&remote, &remote_bytes) < 0 ||
      readlink("/proc/self", pid, sizeof pid - 1) < 0)
    return 1;
  char line[256];
  int bytes = snprintf(line, sizeof line,
                       "{\"case\":\"%s\",\"protocol\":\"TCP\",\"port\":%d,\"peer_port\":%d,"
                       "\"pid\":%s}\n",
                       name, ntohs(local.sin_port), ntohs(remote.sin_port), pid);
  return write(1, line, (size_t)bytes) != bytes;
}

static int take(int fd, size_t in) {
  char bytes[REPLY_BYTES];
  for (size_t have = 0; have < in;) {
    ssize_t got = read(fd, bytes, in - have);
    if (got <= 0)
      return 1;
    have += (size_t)got;
  }
  return 0;
}

static int exchange(int fd, size_t out, size_t in, int asks) {
  char bytes[REPLY_BYTES] = {0};
  if ((asks && write(fd, bytes, out) != (ssize_t)out) || take(fd, in))
    return 1;
  if (asks)
    return 0;
  if (write(fd, bytes, out) != (ssize_t)out)
    return 1;
  return read(fd, bytes, 1) != 0; /* the client closes first */
}

int main(int count, char **words) {
  if (count == 3 && strcmp(words[1], "talk") == 0)
    return report(0, words[2]) || exchange(0, ASK_BYTES, REPLY_BYTES, 1);
  if (count == 3 && strcmp(words[1], "take") == 0)
    return report(0, words[2]) || take(0, REPLY_BYTES);
  if (count == 3 && strcmp(words[1], "reply") == 0)
    return report(0, words[2]) || exchange(0, REPLY_BYTES, ASK_BYTES, 0);
  if (count != 5)
    return 64;
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(words[3]))};
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  if (inet_pton(AF_INET, words[2], &to.sin_addr) != 1 ||
      connect(fd, (struct sockaddr *)&to, sizeof to) < 0)
    return 1;
  return exchange(fd, ASK_BYTES, REPLY_BYTES, 1) || report(fd, words[4]);
}
