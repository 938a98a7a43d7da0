// SPDX-License-Identifier: Apache-2.0
// The keeper's parent: restarts it and keeps its descriptors.
//
//   architect-warden [--run DIR] [--foreground] [--stay] [--keeper PROGRAM ARGUMENT…]
//
// It leaves its caller behind (session, descriptors, cgroups: the end of a pod or of the engine must
// not end it) and starts the bundle's keeper whenever none runs. One per DIR: a second one exits 0.
//
// The keeper finds a SOCK_SEQPACKET socket at descriptor 3. Each message is a line of text:
//
//   store NAME     with one descriptor (SCM_RIGHTS): the warden keeps a duplicate under NAME
//   drop NAME      the warden closes it
//   quit           when the keeper ends, so does the warden
//
// After a restart the keeper finds them at descriptors 4, 5, …, in the order of the names in
// ARCHITECT_FDS (separated by commas; empty: none). So packets that wait in a queue survive it.
//
// SIGTERM ends the keeper, then the warden. SIGHUP replaces both by the version that ROOT/current
// names, with all descriptors.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "bundle.h"

enum {
  LOCK_FD = 3,           // of the warden's own life; the keeper's socket has the same number there
  MOST = 1024,           // stored descriptors
  NAME_BYTES = 121,      // with its end; MOST names fit one environment string (128 KiB)
  LOG_BYTES = 10 << 20,  // the log is renamed when it is longer
  STABLE_MS = 10000,     // a keeper that lived this long is restarted at once
  END_MS = 15000,        // how long a keeper may take to end; a restore may be under way
};
// Wait before the n-th restart in a row, in milliseconds.
static const int BACK_OFF_MS[] = {0, 100, 500, 1000, 2000, 5000};

static struct { char name[NAME_BYTES]; int fd; } stored[MOST];
static int count;
static int private_end = -1, signals = -1;
static pid_t keeper;
static int failures, quit, ending, replacing;
static int64_t started_ms, restart_ms, kill_ms;
static const char *run_directory = "/run/architect";
static char **keeper_argv, **own_argv;
static int own_argc;
static struct bundle bundle;

static int64_t now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void __attribute__((format(printf, 1, 2))) say(const char *format, ...) {
  char text[512], stamp[32];
  time_t now = time(NULL);
  struct tm parts;
  strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &parts));
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  dprintf(2, "%s warden: %s\n", stamp, text);
}

static int write_text(const char *path, const char *text) {
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return 0;
  ssize_t written = write(fd, text, strlen(text));
  int error = errno;
  close(fd);
  errno = error;
  return written == (ssize_t)strlen(text);
}

static void copy_setting(const char *parent, const char *child, const char *name) {
  char path[PATH_MAX], text[1024];
  snprintf(path, sizeof path, "%.2000s/%s", parent, name);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  ssize_t length = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
  if (fd >= 0) close(fd);
  if (length <= 0) return;
  text[length] = 0;
  snprintf(path, sizeof path, "%.2000s/%s", child, name);
  write_text(path, text);
}

// Every mounted hierarchy of v1, or the one of v2, has a group `architect` at its top, as far down
// as this process's cgroup namespace lets it see.
static void leave_cgroups(void) {
  FILE *mounts = fopen("/proc/self/mountinfo", "re");
  char line[4096], mount[1024], group[1100], path[1200], kind[32], pid[16];
  snprintf(pid, sizeof pid, "%d", (int)getpid());
  while (mounts && fgets(line, sizeof line, mounts)) {
    const char *tail = strstr(line, " - ");
    if (!tail || sscanf(line, "%*s %*s %*s %*s %1000s", mount) != 1) continue;
    if (sscanf(tail, " - %30s", kind) != 1 || strncmp(kind, "cgroup", 6)) continue;
    snprintf(group, sizeof group, "%s/architect", mount);
    snprintf(path, sizeof path, "%s/cgroup.procs", group);
    if (mkdir(group, 0755) == 0 && strstr(tail, "cpuset")) {
      // A new v1 cpuset has neither processors nor memory, and takes no process.
      copy_setting(mount, group, "cpuset.cpus");
      copy_setting(mount, group, "cpuset.mems");
    }
    if (!write_text(path, pid)) say("staying in the caller's cgroup of %s: %s", mount,
                                    strerror(errno));
  }
  if (mounts) fclose(mounts);
}

static int find(const char *name) {
  for (int i = 0; i < count; i++)
    if (!strcmp(stored[i].name, name)) return i;
  return -1;
}

static void drop(const char *name) {
  int at = find(name);
  if (at < 0) return;
  close(stored[at].fd);
  stored[at] = stored[--count];
}

static int is_name(const char *name) {
  static const char allowed[] =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:-";
  size_t length = strlen(name);
  return length > 0 && length < NAME_BYTES && strspn(name, allowed) == length;
}

static void store(const char *name, int fd) {
  if (fd < 0 || !is_name(name)) {
    say("refused to store %.120s: %s", name, fd < 0 ? "no descriptor came with it" : "bad name");
    if (fd >= 0) close(fd);
    return;
  }
  drop(name);
  if (count == MOST) {
    say("refused to store %s: %d descriptors are stored already", name, MOST);
    close(fd);
    return;
  }
  strcpy(stored[count].name, name);
  stored[count++].fd = fd;
}

// One message of the keeper. Returns 0 when there is none (left).
static int take_message(void) {
  char text[256], control[CMSG_SPACE(4 * sizeof(int))];
  struct iovec part = {text, sizeof text - 1};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control,
                           .msg_controllen = sizeof control};
  ssize_t length = recvmsg(private_end, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (length <= 0) return 0;
  text[length] = 0;
  text[strcspn(text, "\n")] = 0;
  int fd = -1;
  for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    size_t got = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < got; i++) {
      int one;
      memcpy(&one, CMSG_DATA(c) + i * sizeof one, sizeof one);
      if (fd < 0) fd = one; else close(one);
    }
  }
  if (!strncmp(text, "store ", 6)) {
    store(text + 6, fd);
    return 1;
  }
  if (!strncmp(text, "drop ", 5)) drop(text + 5);
  else if (!strcmp(text, "quit")) quit = 1;
  else say("unknown message from the keeper: %.60s", text);
  if (fd >= 0) close(fd);
  return 1;
}

// Puts *third* at descriptor 3 and the stored ones behind it, inheritable, and closes the rest;
// names them in the environment. For the moment before an exec only.
static void lay_out(int third) {
  static char names[MOST * NAME_BYTES + 1];
  names[0] = 0;
  int high = 4 + count;
  char *end = names;
  third = fcntl(third, F_DUPFD_CLOEXEC, high);
  for (int i = 0; i < count; i++) {
    stored[i].fd = fcntl(stored[i].fd, F_DUPFD_CLOEXEC, high);
    end += sprintf(end, "%s%s", i ? "," : "", stored[i].name);
  }
  dup2(third, 3);
  for (int i = 0; i < count; i++) dup2(stored[i].fd, 4 + i);
  syscall(SYS_close_range, high, ~0U, 4U /* CLOSE_RANGE_CLOEXEC; before Linux 5.11 they have it */);
  setenv("ARCHITECT_FDS", names, 1);
}

// The reverse of lay_out, after an exec of this program.
static void take_over(void) {
  fcntl(LOCK_FD, F_SETFD, FD_CLOEXEC);
  char *names = getenv("ARCHITECT_FDS");
  int fd = 4;
  for (char *name = names ? strtok(names, ",") : NULL; name; name = strtok(NULL, ","), fd++) {
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    store(name, fd);
  }
  unsetenv("ARCHITECT_FDS");
}

static void rotate_log(void) {
  char path[PATH_MAX], old[PATH_MAX];
  struct stat info;
  snprintf(path, sizeof path, "%.2000s/keeper.log", run_directory);
  if (stat(path, &info) == 0 && info.st_size > LOG_BYTES) {
    snprintf(old, sizeof old, "%.2000s/keeper.log.1", run_directory);
    rename(path, old);
  }
  int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (fd < 0) return;
  dup2(fd, 1);
  dup2(fd, 2);
  close(fd);
}

static void start_keeper(int foreground) {
  int pair[2];
  if (!foreground) rotate_log();
  started_ms = now_ms();
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair)) {
    say("cannot make the keeper's socket: %s", strerror(errno));
    restart_ms = started_ms + 1000;
    return;
  }
  keeper = fork();
  if (keeper == 0) {
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    lay_out(pair[1]);
    char *no_arguments[] = {NULL};
    if (keeper_argv) execv(keeper_argv[0], keeper_argv);
    else run_python(&bundle, "from architect.shim.keeper.__main__ import main;sys.exit(main())",
                    no_arguments);
    say("cannot run the keeper: %s", strerror(errno));
    _exit(127);
  }
  close(pair[1]);
  private_end = pair[0];
  if (keeper < 0) {
    say("cannot start the keeper: %s", strerror(errno));
    close(private_end);
    private_end = -1;
    keeper = 0;
    restart_ms = started_ms + 1000;
  }
}

static void keeper_ended(int status) {
  while (take_message());  // what it stored last is the most precious
  close(private_end);
  private_end = -1;
  keeper = 0;
  kill_ms = 0;
  if (now_ms() - started_ms >= STABLE_MS) failures = 0;
  int last = (int)(sizeof BACK_OFF_MS / sizeof *BACK_OFF_MS) - 1;
  int wait = BACK_OFF_MS[failures < last ? failures : last];
  failures++;
  restart_ms = now_ms() + (replacing ? 0 : wait);
  say("keeper ended: %s %d; %d descriptors stored", WIFSIGNALED(status) ? "signal" : "exit",
      WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status), count);
}

static void end_keeper(void) {
  if (!keeper) return;
  kill(keeper, SIGTERM);
  kill_ms = now_ms() + END_MS;
}

static void replace_self(void) {
  char program[PATH_MAX];
  replacing = 0;
  failures = 0;
  snprintf(program, sizeof program, "%s/current/bin/architect-warden", bundle.root);
  if (access(program, X_OK)) {
    say("cannot replace itself by %s: %s", program, strerror(errno));
    return;
  }
  char **argv = calloc((size_t)own_argc + 2, sizeof *argv), **next = argv;
  if (!argv) return;
  *next++ = program;
  *next++ = "--resume";
  for (int i = 1; i < own_argc; i++)
    if (i > 1 || strcmp(own_argv[i], "--resume")) *next++ = own_argv[i];
  close(signals);
  lay_out(LOCK_FD);
  execv(program, argv);
  say("cannot replace itself by %s: %s", program, strerror(errno));
  _exit(1);  // the layout is gone; the daemon and the next container start bring a new one
}

static void take_signals(void) {
  struct signalfd_siginfo info;
  while (read(signals, &info, sizeof info) == sizeof info) {
    if (info.ssi_signo == SIGTERM || info.ssi_signo == SIGINT) ending = 1, end_keeper();
    if (info.ssi_signo == SIGHUP) replacing = 1, end_keeper();
  }
  int status;
  for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;)
    if (pid == keeper) keeper_ended(status);
}

static int watch(int foreground) {
  for (;;) {
    if (!keeper) {
      if (ending || quit) return 0;
      if (replacing) replace_self();
      if (now_ms() >= restart_ms) start_keeper(foreground);
    }
    int64_t until = keeper ? kill_ms : restart_ms;
    int64_t wait = until ? until - now_ms() : -1;
    if (until && wait < 0) wait = 0;
    struct pollfd watched[] = {{signals, POLLIN, 0}, {private_end, POLLIN, 0}};
    poll(watched, 2, (int)wait);
    if (watched[1].revents & POLLIN)
      while (take_message());
    else if (watched[1].revents && keeper) {
      // The keeper closed its end but lives: nothing more comes, and poll must not spin.
      close(private_end);
      private_end = -1;
    }
    if (watched[0].revents) take_signals();
    if (keeper && kill_ms && now_ms() >= kill_ms) {
      say("keeper %d did not end in %d s: killed", (int)keeper, END_MS / 1000);
      kill(keeper, SIGKILL);
      kill_ms = now_ms() + END_MS;
    }
  }
}

static void set_up_process(int stay) {
  sigset_t mask;
  sigemptyset(&mask);
  sigaddset(&mask, SIGTERM);
  sigaddset(&mask, SIGINT);
  sigaddset(&mask, SIGHUP);
  sigaddset(&mask, SIGCHLD);
  sigprocmask(SIG_SETMASK, &mask, NULL);
  signal(SIGCHLD, SIG_DFL);  // inherited as ignored it would hide the keeper's end
  signal(SIGPIPE, SIG_IGN);
  signals = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
  struct rlimit files;
  if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
  }
  umask(077);
  if (chdir("/")) say("cannot change to /: %s", strerror(errno));
  // Last to be killed for memory: without it no pod wakes. Needs CAP_SYS_RESOURCE.
  write_text("/proc/self/oom_score_adj", "-999");
  if (!stay) leave_cgroups();
}

// Returns in the daemon only. The caller's descriptors are closed before its call returns: an
// engine waits for everybody who holds the pipes that it gave to its runtime.
static void daemonise(void) {
  int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  for (int fd = 0; fd < 3; fd++) dup2(null, fd);
  close(null);
  for (int twice = 0; twice < 2; twice++) {
    pid_t child = fork();
    if (child != 0) _exit(child < 0);
    if (!twice) setsid();
  }
}

static void close_from(int first) {
  if (syscall(SYS_close_range, first, ~0U, 0) == 0) return;
  for (int fd = first; fd < 65536; fd++) close(fd);  // Linux < 5.9
}

// 1: locked, and every other descriptor of the caller's but its stdio is closed; 0: another warden
// has the lock; -1: no lock can be had.
static int take_lock(void) {
  char path[PATH_MAX];
  snprintf(path, sizeof path, "%.2000s/warden.lock", run_directory);
  mkdir(run_directory, 0700);
  int lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (lock_fd < 0) {
    say("cannot open %s: %s", path, strerror(errno));
    return -1;
  }
  if (flock(lock_fd, LOCK_EX | LOCK_NB)) return 0;
  if (lock_fd != LOCK_FD) dup3(lock_fd, LOCK_FD, O_CLOEXEC);
  close_from(LOCK_FD + 1);
  return 1;
}

int main(int argc, char **argv) {
  int foreground = 0, stay = 0, resume = 0;
  own_argc = argc;
  own_argv = argv;
  for (int i = 1; i < argc; i++) {
    if (!strcmp(argv[i], "--resume")) resume = 1;
    else if (!strcmp(argv[i], "--foreground")) foreground = 1;
    else if (!strcmp(argv[i], "--stay")) stay = 1;
    else if (!strcmp(argv[i], "--run") && i + 1 < argc) run_directory = argv[++i];
    else if (!strcmp(argv[i], "--keeper") && i + 1 < argc) {
      keeper_argv = argv + i + 1;
      break;
    } else if (!strcmp(argv[i], "--version")) {
      puts("architect-warden " VERSION);
      return 0;
    } else {
      fprintf(stderr, "usage: architect-warden [--run DIR] [--foreground] [--stay]"
                      " [--keeper PROGRAM ARGUMENT…] | --version\n");
      return 2;
    }
  }
  if (!find_bundle(&bundle)) {
    say("cannot find the bundle by /proc/self/exe: %s", strerror(errno));
    return 1;
  }
  if (resume) {
    take_over();
  } else {
    int locked = take_lock();
    if (locked <= 0) return locked < 0;  // 0: another one is at work
    if (!foreground) daemonise();
  }
  set_up_process(stay);
  return watch(foreground);
}
