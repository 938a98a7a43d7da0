// SPDX-License-Identifier: Apache-2.0
// PID 1 of managed containers.
//
//   init [--hollow] -- APP ARGS…    run APP below an inner init, or wait for one to be restored
//   init --true                     exit 0: the answer to exec probes of a sleeping container
//   init --version
//
// The outer init (PID 1) never sleeps: it keeps the container, its stdio and its namespaces. The
// inner init is the root of the tree that is dumped and restored: session leader and subreaper, so
// that the application's orphans stay in the tree. Both block every signal and take them from the
// queue, so no handler is ever installed and the application inherits what the engine set.
//
// Control is a shared page, a memfd at descriptor 3 of PID 1, which the keeper maps through
// /proc/PID/fd/3. SIGCHLD means "look again" and nothing else; every other signal is the
// application's. The container's own processes can write the page too: that lets them end their own
// container, which they can do anyway, and nothing else, so the keeper must not trust what it reads.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

// Of the page's layout. Not the bundle's version: the file is named by its content, and what did not
// change must not look changed to the checkpoints that refer to it.
#define VERSION_TEXT "1"
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8U  // include/uapi/linux/memfd.h, since Linux 6.3
#endif

enum { CONTROL_FD = 3, PAGE_BYTES = 4096 };
enum state {
  AWAKE = 0,   // the end of the target is the end of the container
  ASLEEP = 1,  // the end of the target is recorded, signals stay pending
  END = 2,     // exit with `status`
  START = 3,   // asleep without an image: start the application after all
};

// shim/architect/shim/keeper/initpage.py reads and writes the same layout (little-endian hosts only).
struct page {
  uint32_t magic;    // "ARCH"
  uint32_t version;  // 1
  uint32_t state;    // enum state; written by the keeper (by us after START: AWAKE)
  uint32_t target;   // the inner init's pid in the container's namespace; 0: none yet
  uint32_t reaped;   // 1: the target has ended; acted on when awake
  uint32_t status;   // how it ended: exit status, or 128 + signal
  uint32_t hollow;   // 1: started without an application
  uint32_t seen;     // the last state acted on; once ASLEEP is seen, no signal goes to the target
  uint64_t pending;  // bit N-1: signal N arrived while not awake and is delivered at AWAKE
};
_Static_assert(sizeof(struct page) == 40, "the layout is shared with initpage.py");

static volatile struct page *page;
static uint64_t original_mask;
static char **application;

// The kernel's own calls: libc's sigset functions leave out the signals that libc reserves for
// itself (32 to 34 in musl), which may mean something to the application.
static uint64_t set_mask(uint64_t mask) {
  uint64_t old = 0;
  syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, &old, 8);
  return old;
}

static int next_signal(void) {
  uint64_t all = ~UINT64_C(0);
  return (int)syscall(SYS_rt_sigtimedwait, &all, NULL, NULL, 8);
}

// Whether waiting for a signal is allowed: a denied wait would turn into a busy loop.
static int can_wait(void) {
  uint64_t none = 0;
  struct timespec at_once = {0, 0};
  return syscall(SYS_rt_sigtimedwait, &none, NULL, &at_once, 8) < 0 && errno == EAGAIN;
}

static void say(const char *what, const char *detail) {
  const char *parts[] = {"architect-init: ", what, ": ", detail, "\n"};
  char text[512];
  size_t used = 0;
  for (int i = 0; i < 5; i++) {
    size_t length = strnlen(parts[i], sizeof text - used);
    memcpy(text + used, parts[i], length);
    used += length;
  }
  if (write(2, text, used) < 0) return;  // nobody is left to tell
}

static int code_of(int status) {
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static void close_from(int first) {
  if (syscall(SYS_close_range, first, ~0U, 0) == 0) return;
  for (int fd = first; fd < 1024; fd++) close(fd);  // Linux < 5.9, or denied by seccomp
}

static _Noreturn void run(char **argv) {
  set_mask(original_mask);
  execvp(argv[0], argv);
  int error = errno;
  say(argv[0], strerror(error));
  _exit(error == ENOENT || error == ENOTDIR ? 127 : 126);
}

static _Noreturn void inner(void) {
  munmap((void *)page, PAGE_BYTES);
  setsid();
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  pid_t app = fork();
  if (app == 0) {
    // A group of its own: `kill 0` in the application must not reach the inner init.
    setpgid(0, 0);
    run(application);
  }
  if (app < 0) run(application);  // a pids limit of 2: do without the inner init
  close_from(3);                  // descriptors that the engine passed are the application's
  for (;;) {
    int signal = next_signal();
    if (signal > 0 && signal != SIGCHLD) kill(app, signal);
    int status;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;)
      if (pid == app) _exit(code_of(status));
  }
}

static int start(int memory) {
  pid_t pid = fork();
  if (pid == 0) {
    close(memory);
    inner();
  }
  if (pid > 0) page->target = (uint32_t)pid;
  return pid > 0;
}

static int is_child(pid_t pid) {
  siginfo_t info;
  return pid > 0 && waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0;
}

static void deliver(void) {
  uint64_t pending = page->pending;
  page->pending = 0;
  for (int signal = 1; signal <= 64; signal++)
    if (pending >> (signal - 1) & 1) kill((pid_t)page->target, signal);
}

// Acts on the state that the keeper wrote.
static void look(void) {
  uint32_t state = __atomic_load_n(&page->state, __ATOMIC_SEQ_CST);
  if (state == END) _exit((int)page->status);
  if (state == START) {
    page->reaped = 0;
    if (!start(CONTROL_FD)) {
      say("cannot start the application", strerror(errno));
      _exit(126);
    }
    __atomic_store_n(&page->state, state = AWAKE, __ATOMIC_SEQ_CST);
  }
  if (state == AWAKE) {
    // What was reaped may be the dumped tree; then the restored one is a child again.
    if (page->reaped && !is_child((pid_t)page->target)) _exit((int)page->status);
    page->reaped = 0;
    if (page->pending && page->target) deliver();
  }
  __atomic_store_n(&page->seen, state, __ATOMIC_SEQ_CST);
}

static _Noreturn void outer(void) {
  for (;;) {
    look();
    int signal = next_signal();
    if (signal > 0 && signal != SIGCHLD) {
      if (page->state == AWAKE && page->target)
        kill((pid_t)page->target, signal);
      else
        page->pending |= UINT64_C(1) << (signal - 1);
    }
    int status;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;)
      if ((uint32_t)pid == page->target) {
        page->status = (uint32_t)code_of(status);
        __atomic_store_n(&page->reaped, 1, __ATOMIC_SEQ_CST);
      }
  }
}

static int make_page(void) {
  int fd = memfd_create("architect-init", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
  if (fd < 0 && errno == EINVAL) fd = memfd_create("architect-init", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) return -1;
  if (ftruncate(fd, PAGE_BYTES) == 0 &&
      fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0) {
    page = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (page != MAP_FAILED) return fd;
  }
  close(fd);
  return -1;
}

int main(int argc, char **argv) {
  int hollow = 0, next = 1;
  if (argc == 2 && !strcmp(argv[1], "--true")) return 0;
  if (argc == 2 && !strcmp(argv[1], "--version")) {
    static const char text[] = "architect-init " VERSION_TEXT "\n";
    return write(1, text, sizeof text - 1) < 0;
  }
  if (next < argc && !strcmp(argv[next], "--hollow")) hollow = 1, next++;
  if (next + 1 >= argc || strcmp(argv[next], "--")) {
    say("usage", "init [--hollow] -- APPLICATION [ARGUMENT…] | --true | --version");
    return 2;
  }
  application = argv + next + 1;
  original_mask = set_mask(~UINT64_C(0));
  signal(SIGCHLD, SIG_DFL);  // inherited as ignored it would leave nothing to reap

  // Not PID 1 (shared process namespace), or the seccomp profile denies what we live on: be
  // nothing, so that the container runs as under the lower runtime.
  int memory = getpid() == 1 && can_wait() ? make_page() : -1;
  if (memory < 0) run(application);

  page->magic = 0x48435241;
  page->hollow = (uint32_t)hollow;
  page->state = page->seen = hollow ? ASLEEP : AWAKE;
  // A pids limit of 1 leaves the application without an init rather than without a start.
  if (!hollow && !start(memory)) run(application);
  // Only now: descriptor 3 may be one that the engine passed to the application.
  if (memory != CONTROL_FD) dup3(memory, CONTROL_FD, O_CLOEXEC);
  close_from(CONTROL_FD + 1);
  __atomic_store_n(&page->version, 1, __ATOMIC_SEQ_CST);  // last: the page is complete
  outer();
}
