// SPDX-License-Identifier: GPL-2.0-only
// From a fork of the supervisor to criu's main() inside the container: everything that a restored
// process would inherit (cgroup, affinity, niceness, mask, session) is put right here.
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "criu_seams.h"
#include "job.h"

enum {
    PARKED_FD = 500,     // descriptors wait above here until their fixed places are free
    IOPRIO_WHO_PROCESS = 1,
    SERVER_ARGS = 9,
};

extern char **environ;

static int error_fd;

static _Noreturn void die(const char *format, ...)
{
    int saved = errno;
    char text[256];
    va_list list;
    int length;

    va_start(list, format);
    length = vsnprintf(text, sizeof text, format, list);
    va_end(list);
    if (length > 200)
        length = 200;
    length += snprintf(text + length, sizeof text - length, ": %s", strerror(saved));
    if (write(error_fd, text, length) < 0)
        _exit(NOT_STARTED_STATUS - 1);
    _exit(NOT_STARTED_STATUS);
}

// A lone thread that moves itself by a v1 `tasks` file needs no global lock in the kernel; by
// cgroup.procs the first write waits for an RCU grace period, 5 to 10 ms.
static void join_cgroups(const struct request *request, const int *procs_fds)
{
    for (int i = 0; i < request->cgroups; i++)
        if (!is_directory(procs_fds[i]) && write(procs_fds[i], "0", 1) != 1)
            die("cannot enter cgroup %d of %d", i + 1, request->cgroups);
}

static void set_affinity(const struct affinity *affinity)
{
    if (sched_setaffinity(0, sizeof affinity->words, (const cpu_set_t *)affinity->words))
        die("cannot set the cpu affinity of the container's init");
}

static void reset_scheduling(void)
{
    struct sched_param none = {0};

    if (sched_setscheduler(0, SCHED_OTHER, &none))
        die("cannot leave the scheduling class of the server");
    if (setpriority(PRIO_PROCESS, 0, 0))
        die("cannot set niceness 0");
    if (syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, 0))
        die("cannot reset the i/o priority");
}

static void set_last_pid(const struct host *host, pid_t last_pid)
{
    char text[16];
    int length = snprintf(text, sizeof text, "%d", last_pid);

    // The file is the host's, the namespace it acts on is the writer's (pid_ns_ctl_handler()).
    // At 0: all children share the descriptor's position, and what is written elsewhere is taken
    // without a word and without effect (sysctl_writes_strict).
    if (last_pid && pwrite(host->last_pid_fd, text, length, 0) != length)
        die("cannot write ns_last_pid");
}

static int park(int fd)
{
    int parked = fcntl(fd, F_DUPFD_CLOEXEC, PARKED_FD);

    if (parked < 0)
        die("cannot duplicate a descriptor");
    return parked;
}

static void place(int parked, int fd)
{
    if (dup2(parked, fd) < 0)
        die("cannot duplicate a descriptor to %d", fd);
}

static void close_between(unsigned int first, unsigned int last)
{
    if (first <= last && syscall(SYS_close_range, first, last, 0))
        die("cannot close the server's descriptors");
}

// Gives every descriptor its fixed number and closes all others, error_fd last of all.
static void arrange_fds(const struct request *request, const int *fds, const struct host *host)
{
    const int *inherited = fds + FIXED_FDS + request->cgroups;
    int parked_inherited[REQUEST_FDS];
    int images = park(fds[1]), work = park(fds[2]), null_fd = park(host->null_fd);
    int first_free = INHERITED_FD_BASE + request->inherited, parked_error = park(error_fd);
    char name[32];
    int err;

    for (int i = 0; i < request->inherited; i++)
        parked_inherited[i] = park(inherited[i]);
    error_fd = parked_error;
    snprintf(name, sizeof name, "%s.err", kind_name(request->kind));
    err = openat(work, name, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (err < 0)
        die("cannot create %s in the work directory", name);
    err = park(err);
    place(null_fd, STDIN_FILENO);
    place(null_fd, STDOUT_FILENO);
    place(err, STDERR_FILENO);
    place(images, IMAGES_FD);
    place(work, WORK_FD);
    for (int i = 0; i < request->inherited; i++)
        place(parked_inherited[i], INHERITED_FD_BASE + i);
    close_between(STDERR_FILENO + 1, IMAGES_FD - 1);
    close_between(WORK_FD + 1, INHERITED_FD_BASE - 1);
    close_between(first_free, parked_error - 1);
    close_between(parked_error + 1, ~0U);
}

_Noreturn void become_criu(const struct request *request, const int *fds, const struct host *host,
                           const struct affinity *affinity, int pipe_fd)
{
    static char log_name[32], images[32], work[32];
    static char *argv[REQUEST_ARGS + SERVER_ARGS + 1], *no_environment[] = {NULL};
    int argc = 0;
    sigset_t none;

    error_fd = pipe_fd;
    signal(SIGPIPE, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    signal(SIGINT, SIG_DFL);
    signal(SIGHUP, SIG_DFL);
    join_cgroups(request, fds + FIXED_FDS);
    set_affinity(affinity);
    reset_scheduling();
    umask(077); // images are memory; what is restored has its own again
    set_last_pid(host, request->last_pid);
    setsid();
    if (setns(fds[0], CLONE_NEWNS | request->namespaces))
        die("cannot enter the container's namespaces");
    arrange_fds(request, fds, host);
    if (fchdir(WORK_FD))
        die("cannot change to the work directory");
    environ = no_environment;
    criu_set_huge_pages(request->small_pages ? 0 : host->huge_page_bytes);

    snprintf(images, sizeof images, "/proc/self/fd/%d", IMAGES_FD);
    snprintf(work, sizeof work, "/proc/self/fd/%d", WORK_FD);
    snprintf(log_name, sizeof log_name, "%s.log", kind_name(request->kind));
    argv[argc++] = "criu";
    argv[argc++] = request->argv[0];
    argv[argc++] = "--no-default-config";
    argv[argc++] = "-D";
    argv[argc++] = images;
    argv[argc++] = "-W";
    argv[argc++] = work;
    argv[argc++] = "-o"; // the caller's own, coming later, would win
    argv[argc++] = log_name;
    for (int i = 1; i < request->argc; i++)
        argv[argc++] = request->argv[i];
    argv[argc] = NULL;

    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    close(error_fd);
    exit(__real_main(argc, argv, environ));
}
