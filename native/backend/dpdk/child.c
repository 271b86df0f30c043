/* child.c - see child.h. */
#include "child.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "failure.h"
#include "host/clock.h"

enum {
  OPEN_MAX_MS = 30000, /* EAL may prepare much memory */
  ASK_MAX_MS = 5000,
  PROBE_MAX_MS = 5000,
  END_MAX_MS = 2000,
  OUTPUT_BYTES_MAX = 16384,
  RUNTIME_BYTES = 1024,
};

extern char **environ;

static int program_path(char path[static PATH_MAX], struct sonde_error *error) {
  Dl_info self;
  if (!dladdr((void *)(uintptr_t)&child_probe, &self) || !self.dli_fname)
    return sonde_fail(error, SONDE_SYSTEM, 0, "cannot find the path of the dpdk plugin");
  const char *slash = strrchr(self.dli_fname, '/');
  int length = slash ? (int)(slash - self.dli_fname) + 1 : 0;
  snprintf(path, PATH_MAX, "%.*s%s", length, self.dli_fname, SONDE_DPDK_ENGINE);
  return access(path, X_OK) == 0
             ? 0
             : sonde_fail(error, SONDE_BACKEND_UNAVAILABLE, errno, "%s: %s", path, strerror(errno));
}

/* EAL puts its files into `runtime`. A separate process group: only the agent gets the
 * terminal's Ctrl-C. */
static int spawn(const char *path, int input, int output, const char *runtime, pid_t *pid) {
  char setting[PATH_MAX];
  char *arguments[] = {(char *)(uintptr_t)path, NULL};
  size_t count = 0;
  while (environ[count])
    count++;
  char **environment = calloc(count + 2, sizeof *environment);
  if (!environment)
    return ENOMEM;
  size_t kept = 0;
  for (size_t i = 0; i < count; i++)
    if (strncmp(environ[i], "RUNTIME_DIRECTORY=", 18) != 0)
      environment[kept++] = environ[i];
  snprintf(setting, sizeof setting, "RUNTIME_DIRECTORY=%s", runtime);
  environment[kept] = setting;
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  sigset_t signals;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, input, STDIN_FILENO);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, output, STDERR_FILENO);
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes,
                           POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  sigemptyset(&signals);
  posix_spawnattr_setsigmask(&attributes, &signals);
  sigfillset(&signals);
  posix_spawnattr_setsigdefault(&attributes, &signals);
  int failed = posix_spawn(pid, path, &actions, &attributes, arguments, environment);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  free(environment);
  return failed;
}

/* Moves a descriptor above 2, so that it does not collide with the child's standard streams. */
static int lift(int fd) {
  int lifted = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 3);
  if (fd >= 0)
    close(fd);
  return lifted;
}

static void shut(int *fd) {
  if (*fd >= 0)
    close(*fd);
  *fd = -1;
}

static int run_program(struct child *child, const char *runtime, struct sonde_error *error) {
  char path[PATH_MAX];
  int sockets[2] = {-1, -1};
  int pipes[2] = {-1, -1};
  *child = (struct child){.control = -1, .output = -1};
  int status = program_path(path, error);
  if (status)
    return status;
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) ||
      pipe2(pipes, O_CLOEXEC | O_NONBLOCK)) { /* output beyond the pipe's size may be lost */
    status = sonde_fail(error, SONDE_SYSTEM, errno, "socketpair: %s", strerror(errno));
  }
  for (int i = 0; i < 2; i++) {
    sockets[i] = lift(sockets[i]);
    pipes[i] = lift(pipes[i]);
  }
  int failed = status ? 0 : spawn(path, sockets[1], pipes[1], runtime, &child->pid);
  if (failed) {
    status = sonde_fail(error, SONDE_SYSTEM, failed, "%s: %s", path, strerror(failed));
    child->pid = 0;
  }
  shut(&sockets[1]);
  shut(&pipes[1]);
  child->control = sockets[0];
  child->output = pipes[0];
  return status;
}

/* ---- its output ------------------------------------------------------------------------- */

/* A line that EAL prints without an error. */
static bool is_routine(const char *line) {
  static const char *const starts[] = {
      "EAL: Detected",   "EAL: Selected", "EAL: Physical", "EAL: Probe",         "EAL: Using",
      "EAL: VFIO",       "EAL: No free",  "EAL: No avail", "EAL: Bus (",         "EAL: FATAL",
      "EAL: Unregister", "TELEMETRY:",    "libbpf:",       "Port0 dev_configure"};
  for (size_t i = 0; i < sizeof starts / sizeof starts[0]; i++)
    if (strncmp(line, starts[i], strlen(starts[i])) == 0)
      return true;
  return *line == 0;
}

/* Joins the first useful lines of its output. */
static void read_words(const struct child *child, char *words, size_t words_bytes) {
  char output[OUTPUT_BYTES_MAX];
  char *place = NULL;
  size_t length = 0;
  ssize_t got = read(child->output, output, sizeof output - 1);
  output[got > 0 ? got : 0] = 0;
  words[0] = 0;
  for (char *line = strtok_r(output, "\n", &place); line; line = strtok_r(NULL, "\n", &place)) {
    if (!is_routine(line) && length < words_bytes / 2) {
      int more = snprintf(words + length, words_bytes - length, "%s%s", length ? "; " : "", line);
      length += (size_t)(more > 0 ? more : 0);
    }
  }
}

/* ---- its end ---------------------------------------------------------------------------- */

static bool wait_end(struct child *child, int *how, int timeout_ms) {
  int64_t until_ms = (int64_t)sonde_clock_ms() + timeout_ms;
  while (child->pid) {
    pid_t ended = waitpid(child->pid, how, WNOHANG);
    if (ended == child->pid || (ended < 0 && errno != EINTR)) {
      child->pid = 0;
      return true;
    }
    if ((int64_t)sonde_clock_ms() >= until_ms)
      return false;
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
  }
  return true;
}

void child_close(struct child *child) {
  int how = 0;
  shut(&child->control); /* the process ends on this */
  if (!wait_end(child, &how, END_MAX_MS)) {
    kill(child->pid, SIGKILL);
    wait_end(child, &how, INT_MAX);
  }
  shut(&child->output);
}

bool child_exited(const struct child *child) {
  struct pollfd one = {.fd = child->control, .events = POLLRDHUP};
  return child->control < 0 || (poll(&one, 1, 0) > 0 && one.revents);
}

void child_describe(struct child *child, char *text, size_t text_bytes) {
  int how = 0;
  pid_t pid = child->pid;
  char words[160] = "";
  if (child->output >= 0)
    read_words(child, words, sizeof words);
  if (!pid || !wait_end(child, &how, END_MAX_MS)) {
    snprintf(text, text_bytes, "the DPDK process does not respond");
  } else if (WIFSIGNALED(how)) {
    snprintf(text, text_bytes, "the DPDK process %d was killed by signal %d", (int)pid,
             WTERMSIG(how));
  } else {
    snprintf(text, text_bytes, "the DPDK process %d ended with %d: %s", (int)pid, WEXITSTATUS(how),
             words);
  }
}

/* ---- its replies ------------------------------------------------------------------------ */

static int receive_reply(struct child *child, int timeout_ms, struct engine_reply *reply,
                         struct sonde_error *error) {
  struct pollfd one = {.fd = child->control, .events = POLLIN};
  int ready;
  do {
    ready = poll(&one, 1, timeout_ms);
  } while (ready < 0 && errno == EINTR);
  if (ready <= 0 || recv(child->control, reply, sizeof *reply, MSG_DONTWAIT) != sizeof *reply) {
    char text[200];
    child_describe(child, text, sizeof text);
    return sonde_fail(error, SONDE_SYSTEM, 0, "%s", text);
  }
  reply->driver[sizeof reply->driver - 1] = 0;
  reply->detail[sizeof reply->detail - 1] = 0;
  if (reply->status) {
    char words[200];
    read_words(child, words, sizeof words);
    int status = reply->status < 0 ? reply->status : SONDE_SYSTEM;
    return sonde_fail(error, status, 0, "%.120s%s%.120s", reply->detail,
                      reply->detail[0] && words[0] ? "; " : "",
                      reply->detail[0] || words[0] ? words : "DPDK found no port there");
  }
  return 0;
}

static int send_setup(const struct child *child, const struct engine_setup *setup, int area_fd,
                      const int *doorbells) {
  union {
    struct cmsghdr head;
    char bytes[CMSG_SPACE(sizeof(int) * (SHM_RINGS_MAX + 1))];
  } control = {0};
  struct iovec from = {.iov_base = (void *)(uintptr_t)setup, .iov_len = sizeof *setup};
  size_t fds_bytes = sizeof(int) * (setup->queues + 1);
  struct msghdr message = {.msg_iov = &from,
                           .msg_iovlen = 1,
                           .msg_control = &control,
                           .msg_controllen = CMSG_SPACE(fds_bytes)};
  control.head = (struct cmsghdr){
      .cmsg_len = CMSG_LEN(fds_bytes), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
  int *fds = (int *)(void *)CMSG_DATA(&control.head);
  fds[0] = area_fd;
  memcpy(fds + 1, doorbells, sizeof(int) * setup->queues);
  return sendmsg(child->control, &message, MSG_NOSIGNAL) == sizeof *setup ? 0 : -1;
}

/* Makes the directory that EAL requires; EAL puts no file into it. */
static int make_runtime(char runtime[static RUNTIME_BYTES], struct sonde_error *error) {
  const char *parent = secure_getenv("TMPDIR");
  snprintf(runtime, RUNTIME_BYTES, "%s/netsonde-dpdk-XXXXXX", parent && *parent ? parent : "/tmp");
  return mkdtemp(runtime)
             ? 0
             : sonde_fail(error, SONDE_SYSTEM, errno, "%s: %s", runtime, strerror(errno));
}

static void remove_runtime(const char *runtime, pid_t pid) {
  char path[PATH_MAX];
  snprintf(path, sizeof path, "%s/dpdk/netsonde-dpdk%d", runtime, (int)pid);
  rmdir(path);
  snprintf(path, sizeof path, "%s/dpdk", runtime);
  rmdir(path);
  rmdir(runtime);
}

int child_open(struct child *child, const struct engine_setup *setup, int area_fd,
               const int *doorbells, struct engine_reply *reply, struct sonde_error *error) {
  char runtime[RUNTIME_BYTES];
  *child = (struct child){.control = -1, .output = -1};
  int status = make_runtime(runtime, error);
  if (status)
    return status;
  status = run_program(child, runtime, error);
  pid_t pid = child->pid;
  if (!status) { /* a failed send shows as a missing reply */
    send_setup(child, setup, area_fd, doorbells);
    status = receive_reply(child, OPEN_MAX_MS, reply, error);
  }
  if (status)
    child_close(child);
  remove_runtime(runtime, pid);
  return status;
}

int child_ask(struct child *child, enum engine_command command, struct sonde_error *error) {
  struct engine_reply reply;
  char byte = (char)command;
  if (child->control < 0)
    return sonde_fail(error, SONDE_SYSTEM, 0, "the DPDK process has exited");
  send(child->control, &byte, 1, MSG_NOSIGNAL);
  return receive_reply(child, ASK_MAX_MS, &reply, error);
}

/* Without a setup the process exits silently. Before that, the loader prints its errors. */
int child_probe(struct sonde_error *error) {
  static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
  static bool runs;
  struct child child;
  int how = 0;
  int status = 0;
  pthread_mutex_lock(&lock);
  if (!runs) {
    status = run_program(&child, "/tmp", error);
    shut(&child.control);
    if (!status &&
        (!wait_end(&child, &how, PROBE_MAX_MS) || !WIFEXITED(how) || WEXITSTATUS(how) != 1)) {
      char words[PATH_MAX + 200]; /* the loader begins with the program's path */
      read_words(&child, words, sizeof words);
      char *reason = strstr(words, "error while loading shared libraries: ");
      status = sonde_fail(error, SONDE_BACKEND_UNAVAILABLE, 0, "%s",
                          reason     ? reason + strlen("error while loading shared libraries: ")
                          : words[0] ? words
                                     : "the DPDK process does not run");
    }
    child_close(&child);
    runs = status == 0;
  }
  pthread_mutex_unlock(&lock);
  return status;
}
