// SPDX-License-Identifier: Apache-2.0
// What the engine calls as its OCI runtime: bin/runc-architect, bin/runsc-architect; and
// bin/architect-runtime.
//
// Unmanaged containers must not pay for an interpreter: their calls are passed to the lower runtime
// by execv at once. Managed ones are handled by architect.shim in the bundle's own interpreter.
//
//   create, run               managed: config.json mentions our annotations and is no sandbox
//   exec                      managed: an argument is the id of a container with a record, and the
//                             keeper does not say at once that its pod is awake
//   start                     managed: the container was created to be restored
//   kill                      managed: the same, and the signal is another one than SIGKILL
//   delete                    managed: an argument is the id of a container with a record; the
//                             interpreter comes only where the rest of it is not done at once
//   anything else             the lower runtime's
//
// The lower runtime is the line `runc=PATH` of runtime.conf beside the version directories
// (written by the daemon), be it runc or crun, else the first runc on the fixed search path, else
// the first crun.
//
// As runsc-architect it is in front of gVisor's runsc: the bundle's, else found like runc. There
// create, start, kill and delete are architect.shim.gvisor's, and anything else is runsc's.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bundle.h"

#define RECORDS "/run/architect/containers"  // names.CONTAINER_RECORDS
#define UNMANAGED "/run/architect/unmanaged"  // record_files.UNMANAGED
#define KEEPER_SOCKET "/run/architect/keeper.sock"  // names.KEEPER_SOCKET
#define PREFIX "architect.dev/"               // of names.POLICY and of the user's annotations

// Engines write config.json without spaces; a sandbox that is not recognised here is recognised by
// architect.shim, some milliseconds later. Quotes inside values are escaped, so that no
// environment variable or label can look like this.
static const char *const SANDBOX[] = {
    "\"io.kubernetes.cri.container-type\":\"sandbox\"",
    "\"io.kubernetes.cri-o.ContainerType\":\"sandbox\"",
};

// Global options of runc and crun that take a value as a word of its own.
static const char *const VALUED[] = {"root", "log", "log-format", "log-level", "criu",
                                     "rootless", "cgroup-manager"};

static int is_valued(const char *option) {
  while (*option == '-') option++;
  for (size_t i = 0; i < sizeof VALUED / sizeof *VALUED; i++)
    if (!strcmp(option, VALUED[i])) return 1;
  return 0;
}

// The value of --root; NULL if there is none.
static const char *root_of(char **argv, int command) {
  const char *root = NULL;
  for (int i = 1; i < command; i += is_valued(argv[i]) ? 2 : 1) {
    const char *name = argv[i];
    while (*name == '-') name++;
    if (!strncmp(name, "root=", 5)) root = name + 5;
    if (!strcmp(name, "root") && i + 1 < command) root = argv[i + 1];
  }
  return root;
}

static int command_index(int argc, char **argv) {
  int i = 1;
  while (i < argc && argv[i][0] == '-') i += is_valued(argv[i]) ? 2 : 1;
  return i;
}

static const char *bundle_of(int argc, char **argv, int command) {
  for (int i = command + 1; i < argc; i++) {
    const char *word = argv[i];
    if (*word != '-') continue;
    while (*word == '-') word++;
    size_t length = strcspn(word, "=");
    if (!(length == 6 && !strncmp(word, "bundle", 6)) && !(length == 1 && *word == 'b')) continue;
    if (word[length]) return word + length + 1;
    if (i + 1 < argc) return argv[i + 1];
  }
  return ".";
}

static int contains(const char *text, size_t length, const char *wanted) {
  return memmem(text, length, wanted, strlen(wanted)) != NULL;
}

static const char *text_of(const char *path, size_t *length) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  struct stat info;
  if (fd < 0 || fstat(fd, &info) || info.st_size == 0) return NULL;
  *length = (size_t)info.st_size;
  char *text = mmap(NULL, *length, PROT_READ, MAP_PRIVATE, fd, 0);
  return text == MAP_FAILED ? NULL : text;
}

static int wants_management(const char *bundle) {
  char path[PATH_MAX];
  size_t length;
  if (snprintf(path, sizeof path, "%s/config.json", bundle) >= (int)sizeof path) return 0;
  const char *text = text_of(path, &length);
  if (!text || !contains(text, length, PREFIX)) return 0;
  for (size_t i = 0; i < sizeof SANDBOX / sizeof *SANDBOX; i++)
    if (contains(text, length, SANDBOX[i])) return 0;
  return 1;
}

static int has_record(const char *directory, const char *id) {
  char path[PATH_MAX];
  if (!*id || *id == '.' || *id == '-' || strchr(id, '/') || strlen(id) > 200) return 0;
  snprintf(path, sizeof path, "%s/%s.json", directory, id);
  return access(path, F_OK) == 0;
}

// Whether the container's record has *text*, as records.write() writes it. No name of a pod or a
// path can hold a quote.
static int record_says(const char *id, const char *wanted) {
  char path[PATH_MAX];
  size_t length;
  if (!has_record(RECORDS, id)) return 0;
  snprintf(path, sizeof path, "%s/%s.json", RECORDS, id);
  const char *text = text_of(path, &length);
  return text && contains(text, length, wanted);
}

// Whether the container was created without its application, which is restored when it is started.
static int is_hollow(const char *id) { return record_says(id, "\"hollow\": true"); }

// Whether it is the one of that id below *root*, written as in the record.
static int is_below_root(const char *id, const char *root) {
  char wanted[PATH_MAX];
  int length = snprintf(wanted, sizeof wanted, "\"runc_root\": \"%s\"", root);
  return length < (int)sizeof wanted && !strpbrk(root, "\"\\") && record_says(id, wanted);
}

// Sends one request to the keeper and reads the beginning of its answer; 0 if there is none in time.
static size_t ask_keeper(const char *body, char *answer, size_t size) {
  struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = KEEPER_SOCKET};
  struct timeval patience = {.tv_sec = 1};
  uint32_t length = (uint32_t)strlen(body), big = htonl(length);
  char frame[512];
  size_t got = 0;
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || length > sizeof frame - sizeof big) return 0;
  memcpy(frame, &big, sizeof big);
  memcpy(frame + sizeof big, body, length);
  length += sizeof big;
  if (!setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) &&
      !setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience) &&
      !connect(fd, (struct sockaddr *)&address, sizeof address) &&
      send(fd, frame, length, MSG_NOSIGNAL) == (ssize_t)length) {
    // A short answer comes in one piece; what is cut off means "not known to be awake".
    ssize_t now = recv(fd, answer, size, 0);
    if (now > (ssize_t)sizeof big) got = (size_t)now;
  }
  close(fd);
  return got;
}

// Whether the keeper does *op* for a container with success; its answer must have *wanted*.
static int keeper_says(const char *op, const char *id, const char *wanted) {
  static const char safe[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+.-";
  char body[320], answer[512];
  if (id[strspn(id, safe)]) return 0;
  snprintf(body, sizeof body, "{\"v\":1,\"op\":\"%s\",\"container\":\"%s\"}", op, id);
  size_t length = ask_keeper(body, answer, sizeof answer);
  return length && contains(answer, length, "\"ok\":true") && contains(answer, length, wanted);
}

// An exec probe of an awake pod comes every few seconds and need not cost an interpreter.
static int is_awake(const char *id) { return keeper_says("awake", id, "\"state\":\"awake\""); }

// SIGKILL needs no application to arrive, so nobody is woken or saved for it.
static int is_kill_nine(const char *signal) {
  return signal && (!strcmp(signal, "9") || !strcasecmp(signal, "KILL") ||
                    !strcasecmp(signal, "SIGKILL"));
}

static int is_ours(int argc, char **argv) {
  int at = command_index(argc, argv);
  if (at >= argc) return 0;
  const char *command = argv[at];
  if (!strcmp(command, "create") || !strcmp(command, "run"))
    return wants_management(bundle_of(argc, argv, at));
  int is_delete = !strcmp(command, "delete"), is_start = !strcmp(command, "start");
  // A signal may be the end of a pod that is to be saved for its successor, awake or not.
  int is_kill = !strcmp(command, "kill"), always = is_delete || is_kill;
  if (!always && !is_start && strcmp(command, "exec")) return 0;
  for (int i = at + 1; i < argc; i++) {
    if (is_start && is_hollow(argv[i])) return 1;
    if (is_start) continue;
    if (is_kill && has_record(RECORDS, argv[i]) && is_kill_nine(argv[i + 1])) return 0;
    // Also a word of the command may be some container's id: all must be awake.
    if (has_record(RECORDS, argv[i]) && (always || !is_awake(argv[i]))) return 1;
    if (is_delete && has_record(UNMANAGED, argv[i])) return 1;
  }
  return 0;
}

// Whether *path* is a program that is not this one, under whatever name.
static int is_lower(const char *path, const char *root) {
  struct stat self, other;
  char real[PATH_MAX];
  if (stat("/proc/self/exe", &self) || stat(path, &other) || access(path, X_OK)) return 0;
  if (!S_ISREG(other.st_mode)) return 0;
  if (self.st_dev == other.st_dev && self.st_ino == other.st_ino) return 0;
  // Another version of ours, installed beside this one.
  return !realpath(path, real) || !is_below(real, root);
}

static int configured(char *path, size_t size, const char *root, const char *program) {
  char line[PATH_MAX];
  if (snprintf(line, sizeof line, "%s/runtime.conf", root) < (int)sizeof line) {
    FILE *file = fopen(line, "re");
    while (file && fgets(line, sizeof line, file)) {
      line[strcspn(line, "\r\n")] = 0;
      size_t length = strlen(program);
      if (strncmp(line, program, length) || line[length] != '=') continue;
      if (!is_lower(line + length + 1, root)) continue;
      snprintf(path, size, "%s", line + length + 1);
      fclose(file);
      return 1;
    }
    if (file) fclose(file);
  }
  return 0;
}

static int searched(char *path, size_t size, const char *root, const char *program) {
  static const char *const search[] = {"/usr/local/sbin", "/usr/local/bin", "/usr/sbin",
                                       "/usr/bin",        "/sbin",          "/bin"};
  for (size_t i = 0; i < sizeof search / sizeof *search; i++) {
    snprintf(path, size, "%s/%s", search[i], program);
    if (is_lower(path, root)) return 1;
  }
  return 0;
}

// *other* is taken where there is no *program*, which is also the key in runtime.conf.
static int lower_runtime(char *path, size_t size, const char *root, const char *program,
                         const char *other) {
  return configured(path, size, root, program) || searched(path, size, root, program) ||
         (other && searched(path, size, root, other));
}

// Runs the lower runtime and returns its exit status as a shell says it; -1 if it cannot be run.
static int run_lower(const char *lower, char **argv) {
  char *name = argv[0];
  pid_t pid;
  int status;
  argv[0] = (char *)lower;
  signal(SIGCHLD, SIG_DFL);  // an engine may ignore it: then nobody could be waited for
  int failed = posix_spawn(&pid, lower, NULL, NULL, argv, environ);
  argv[0] = name;
  if (failed) return -1;
  while (waitpid(pid, &status, 0) < 0)
    if (errno != EINTR) return -1;
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static void forget(const char *directory, const char *id) {
  char path[PATH_MAX];
  snprintf(path, sizeof path, "%s/%s.json", directory, id);
  unlink(path);
}

// `delete` of a managed container, in the order of architect.shim.commands.delete(): the lower
// runtime, then the keeper, then the record. If the keeper does not answer as usual, the
// interpreter does the rest, as commands.forget(). Returns the exit status; -1 if nothing was done.
static int delete_managed(int argc, char **argv, const struct bundle *bundle, const char *lower) {
  int at = command_index(argc, argv);
  const char *root = root_of(argv, at), *id = NULL;
  if (at >= argc || strcmp(argv[at], "delete") || !root || *root != '/') return -1;
  for (int i = at + 1; i < argc; i++) {
    if (*argv[i] == '-') continue;
    if (id) return -1;
    id = argv[i];
  }
  if (!id || !is_below_root(id, root)) return -1;
  char state[PATH_MAX];
  if (snprintf(state, sizeof state, "%s/%s", root, id) >= (int)sizeof state) return -1;
  int status = run_lower(lower, argv);
  if (status < 0) return -1;
  if (!access(state, F_OK)) return status;  // refused: the container is still there
  if (keeper_says("removed", id, "")) {
    forget(RECORDS, id);
    forget(UNMANAGED, id);
    return status;
  }
  char code[128];
  snprintf(code, sizeof code, "from architect.shim.__main__ import forget;forget(%d)", status);
  run_python(bundle, code, argv + 1);
  return status;
}

static int gvisor(int argc, char **argv, const char *name, const struct bundle *bundle) {
  static const char *const ours[] = {"create", "start", "kill", "delete"};
  int at = command_index(argc, argv);
  for (size_t i = 0; at < argc && i < sizeof ours / sizeof *ours; i++) {
    if (strcmp(argv[at], ours[i])) continue;
    run_python(bundle, "from architect.shim.gvisor.__main__ import main;main()", argv + 1);
    fprintf(stderr, "%s: cannot run %s: %s\n", name, bundle->python, strerror(errno));
    return 1;
  }
  char runsc[PATH_MAX];
  snprintf(runsc, sizeof runsc, "%s/bin/runsc", bundle->version);
  if (access(runsc, X_OK) && !lower_runtime(runsc, sizeof runsc, bundle->root, "runsc", NULL)) {
    fprintf(stderr, "%s: no runsc found (hint: name it in %s/runtime.conf)\n", name, bundle->root);
    return 1;
  }
  argv[0] = runsc;
  execv(runsc, argv);
  fprintf(stderr, "%s: cannot run %s: %s\n", name, runsc, strerror(errno));
  return 1;
}

int main(int argc, char **argv) {
  struct bundle bundle;
  const char *name = argc > 0 ? strrchr(argv[0], '/') : NULL;
  name = name ? name + 1 : argc > 0 ? argv[0] : "";
  if (!find_bundle(&bundle)) {
    fprintf(stderr, "%s: cannot find the bundle by /proc/self/exe: %s\n", name, strerror(errno));
    return 1;
  }
  if (!strcmp(name, "architect-runtime")) {
    run_python(&bundle, "from architect.shim.runtime_command import main;main()", argv + 1);
    fprintf(stderr, "%s: cannot run %s: %s\n", name, bundle.python, strerror(errno));
    return 1;
  }
  if (!strcmp(name, "runsc-architect")) return gvisor(argc, argv, name, &bundle);
  char lower[PATH_MAX];
  int has_lower = lower_runtime(lower, sizeof lower, bundle.root, "runc", "crun");
  if (is_ours(argc, argv)) {
    int status = has_lower ? delete_managed(argc, argv, &bundle, lower) : -1;
    if (status >= 0) return status;
    run_python(&bundle, "from architect.shim.__main__ import main;main()", argv + 1);
    // Broken installation: the container still runs, as under the lower runtime.
    fprintf(stderr, "%s: cannot run %s: %s\n", name, bundle.python, strerror(errno));
  }
  if (!has_lower) {
    fprintf(stderr, "%s: no runc or crun found (hint: name it in %s/runtime.conf)\n", name,
            bundle.root);
    return 1;
  }
  argv[0] = lower;
  execv(lower, argv);
  fprintf(stderr, "%s: cannot run %s: %s\n", name, lower, strerror(errno));
  return 1;
}
