// SPDX-License-Identifier: GPL-2.0-only
// The process between server and criu. It stays on the host (namespaces, cgroup), so that neither
// the container's end nor its limits take away the one who reports.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "job.h"

enum {
    ERROR_BYTES = 512,
    PID_TRIES = 16,
    TREE_LIMIT = 32768, // processes of a half restored tree that a kill looks at
    TREE_ROUNDS = 8,
};

struct supervisor {
    const struct request *request;
    const int *fds;
    const struct host *host;
    pid_t criu;
    int error_fd;
    int signal_fd;
    char error[ERROR_BYTES];
    size_t error_length;
};

int64_t monotonic_usec(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

void answer(int socket, const char *id, const char *format, ...)
{
    char message[ERROR_BYTES + 128];
    int length = snprintf(message, sizeof message, "id=%s", id) + 1;
    va_list list;

    va_start(list, format);
    vsnprintf(message + length, sizeof message - length, format, list);
    va_end(list);
    // Tokens are separated by NUL; the format has newlines in their place.
    for (; message[length]; length++)
        if (message[length] == '\n')
            message[length] = 0;
    while (send(socket, message, length, MSG_NOSIGNAL) < 0 && errno == EINTR)
        ;
}

static void write_exit_file(const struct supervisor *s, int status)
{
    const char *kind = kind_name(s->request->kind);
    int directory = s->fds[2], fd, length;
    char name[32], draft[64], text[16];

    // Temporary name by id: two requests of one kind never share a work directory, but a restarted
    // keeper may ask again while the first is still at it.
    snprintf(name, sizeof name, "%s.exit", kind);
    snprintf(draft, sizeof draft, ".%s.exit.%s", kind, s->request->id);
    length = snprintf(text, sizeof text, "%d\n", status);
    fd = openat(directory, draft, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return;
    if (write(fd, text, length) == length)
        renameat(directory, draft, directory, name);
    else
        unlinkat(directory, draft, 0);
    close(fd);
}

bool is_directory(int fd)
{
    struct stat st;

    return !fstat(fd, &st) && S_ISDIR(st.st_mode);
}

static _Noreturn void give_up(const struct supervisor *s, const char *text)
{
    write_exit_file(s, NOT_STARTED_STATUS);
    answer(CALLER_FD, s->request->id, "error=%s", text);
    _exit(0);
}

static _Noreturn void give_up_errno(const struct supervisor *s, const char *what)
{
    char text[ERROR_BYTES];

    snprintf(text, sizeof text, "%s: %s", what, strerror(errno));
    give_up(s, text);
}

// The pid that the host knows the container's init by; -1 if it has gone.
static pid_t pid_of(int pidfd)
{
    char path[64], line[128];
    pid_t pid = -1;
    FILE *file;

    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", pidfd);
    file = fopen(path, "re");
    if (!file)
        return -1;
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "Pid: %d", &pid) == 1)
            break;
    fclose(file);
    return pid > 0 ? pid : -1;
}

// A directory among the cgroup descriptors is one of cgroup v2: clone3() places the child there
// without the grace period of several ms that a write to cgroup.procs waits for.
static int cgroup_directory(const struct request *request, const int *fds)
{
    for (int i = FIXED_FDS; i < FIXED_FDS + request->cgroups; i++)
        if (is_directory(fds[i]))
            return fds[i];
    return -1;
}

static pid_t clone_with_pid(pid_t wanted, int cgroup_fd)
{
    int *tid_address = NULL;
    pid_t set_tid = wanted;
    struct clone_args args = {.exit_signal = SIGCHLD};

    // The C library keeps the thread's id in memory and has fork() refresh it there (raise(), and
    // with it abort(), uses it). The kernel knows the place as clear_child_tid.
    if (!prctl(PR_GET_TID_ADDRESS, &tid_address) && tid_address) {
        args.flags |= CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID;
        args.child_tid = (uintptr_t)tid_address;
    }
    if (cgroup_fd >= 0) {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup_fd;
    }
    if (wanted) {
        args.set_tid = (uintptr_t)&set_tid;
        args.set_tid_size = 1;
    }
    return (pid_t)syscall(SYS_clone3, &args, sizeof args);
}

static void start_criu(struct supervisor *s)
{
    pid_t container_init = pid_of(s->fds[0]);
    struct affinity affinity;
    int pipe_fds[2];

    if (container_init < 0)
        give_up(s, "the container's init has gone, or its descriptor is not a pidfd");
    if (sched_getaffinity(container_init, sizeof affinity.words, (cpu_set_t *)affinity.words))
        give_up_errno(s, "cannot read the cpu affinity of the container's init");
    if (pipe2(pipe_fds, O_CLOEXEC))
        give_up_errno(s, "cannot make a pipe");
    if (setns(s->fds[0], CLONE_NEWPID))
        give_up_errno(s, "cannot enter the container's pid namespace");
    for (int i = 0; i < PID_TRIES; i++) {
        s->criu = clone_with_pid(s->request->pid ? s->request->pid + i : 0,
                                 cgroup_directory(s->request, s->fds));
        if (s->criu >= 0 || errno != EEXIST)
            break;
    }
    if (s->criu < 0)
        give_up_errno(s, "cannot fork into the container's pid namespace");
    if (!s->criu) {
        close(pipe_fds[0]);
        become_criu(s->request, s->fds, s->host, &affinity, pipe_fds[1]);
    }
    close(pipe_fds[1]);
    s->error_fd = pipe_fds[0];
}

static int add_children(pid_t pid, pid_t *tree, int count)
{
    char path[64], number[16];
    struct dirent *entry;
    DIR *tasks;

    snprintf(path, sizeof path, "/proc/%d/task", pid);
    tasks = opendir(path);
    if (!tasks)
        return count;
    while ((entry = readdir(tasks))) {
        char name[384];
        FILE *file;

        snprintf(name, sizeof name, "%s/%s/children", path, entry->d_name);
        file = entry->d_name[0] == '.' ? NULL : fopen(name, "re");
        if (!file)
            continue;
        while (count < TREE_LIMIT && fscanf(file, "%15s", number) == 1)
            tree[count++] = atoi(number);
        fclose(file);
    }
    closedir(tasks);
    return count;
}

// Kills criu. A restore has children that are half of an application: stopped from the top down
// until none is new, so that none forks out of sight, then killed together.
static void kill_criu(const struct supervisor *s)
{
    static pid_t tree[TREE_LIMIT];
    int count = 1, before = 0;

    tree[0] = s->criu;
    if (s->request->kind == KIND_RESTORE) {
        for (int round = 0; round < TREE_ROUNDS && count != before; round++) {
            before = count;
            count = 1;
            for (int i = 0; i < count; i++) {
                kill(tree[i], SIGSTOP);
                count = add_children(tree[i], tree, count);
            }
        }
    }
    // criu first: it answers the death of a child by killing by pid, in its own time.
    for (int i = 0; i < count; i++)
        kill(tree[i], SIGKILL);
}

static void read_error(struct supervisor *s)
{
    ssize_t got = read(s->error_fd, s->error + s->error_length,
                       sizeof s->error - 1 - s->error_length);

    if (got > 0) {
        s->error_length += got;
        return;
    }
    close(s->error_fd);
    s->error_fd = -1;
}

// Waits for criu's end, obeying KILL_SIGNAL meanwhile; the value is as in a shell.
static int wait_for_criu(struct supervisor *s)
{
    for (;;) {
        struct pollfd polled[2] = {
            {.fd = s->signal_fd, .events = POLLIN},
            {.fd = s->error_fd, .events = POLLIN},
        };
        struct signalfd_siginfo info;
        int status;

        if (poll(polled, 2, -1) < 0)
            continue;
        if (polled[1].revents)
            read_error(s);
        if (polled[0].revents && read(s->signal_fd, &info, sizeof info) == sizeof info &&
            info.ssi_signo == KILL_SIGNAL)
            kill_criu(s);
        if (waitpid(s->criu, &status, WNOHANG) == s->criu) {
            if (s->error_fd >= 0)
                read_error(s);
            return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        }
    }
}

// criu's stderr has only what it says before its log is open; an empty file tells nothing.
static void drop_empty_stderr(const struct supervisor *s)
{
    char name[32];
    struct stat st;

    snprintf(name, sizeof name, "%s.err", kind_name(s->request->kind));
    if (!fstatat(s->fds[2], name, &st, AT_SYMLINK_NOFOLLOW) && !st.st_size)
        unlinkat(s->fds[2], name, 0);
}

_Noreturn void supervise(const struct request *request, const int *fds, const struct host *host,
                         int64_t received_usec)
{
    struct supervisor s = {.request = request, .fds = fds, .host = host, .error_fd = -1};
    char name[32];
    sigset_t watched;
    int status;

    sigemptyset(&watched);
    sigaddset(&watched, SIGCHLD);
    sigaddset(&watched, KILL_SIGNAL);
    sigprocmask(SIG_SETMASK, &watched, NULL);
    for (int signal_number = 1; signal_number < NSIG; signal_number++)
        signal(signal_number, SIG_DFL);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGTERM, SIG_IGN);
    signal(SIGINT, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    setsid(); // no controlling terminal, whoever started the server
    snprintf(name, sizeof name, "%s-%s", kind_name(request->kind), request->id);
    prctl(PR_SET_NAME, name);
    s.signal_fd = signalfd(-1, &watched, SFD_CLOEXEC | SFD_NONBLOCK);
    snprintf(name, sizeof name, "%s.exit", kind_name(request->kind));
    unlinkat(fds[2], name, 0); // of an earlier try
    if (s.signal_fd < 0)
        give_up_errno(&s, "cannot make a signalfd");
    start_criu(&s);
    status = wait_for_criu(&s);
    drop_empty_stderr(&s);
    if (s.error_length)
        give_up(&s, s.error);
    write_exit_file(&s, status);
    answer(CALLER_FD, request->id, "status=%d\nusec=%lld", status,
           (long long)(monotonic_usec() - received_usec));
    _exit(0);
}
