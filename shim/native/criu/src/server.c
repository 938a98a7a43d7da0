// SPDX-License-Identifier: GPL-2.0-only
// architect-criu serve: a long-lived parent that has everything criu needs loaded and probed, and
// answers requests by forking. Any other command line is criu's own.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "criu_seams.h"
#include "job.h"

enum { MAX_JOBS = 256 };

struct job {
    pid_t supervisor; // 0: free
    char id[sizeof ((struct request *)0)->id];
};

static struct job jobs[MAX_JOBS];
static int running;

static struct job *find_job(const char *id)
{
    for (int i = 0; i < MAX_JOBS; i++)
        if (jobs[i].supervisor && !strcmp(jobs[i].id, id))
            return &jobs[i];
    return NULL;
}

static struct job *free_job(void)
{
    for (int i = 0; i < MAX_JOBS; i++)
        if (!jobs[i].supervisor)
            return &jobs[i];
    return NULL;
}

static void start_job(const struct request *request, const int *fds, const struct host *host,
                      int64_t received_usec)
{
    struct job *job = free_job();
    pid_t pid;

    if (find_job(request->id)) {
        answer(CALLER_FD, request->id, "error=a request of this id is running");
        return;
    }
    if (!job) {
        answer(CALLER_FD, request->id, "error=%d requests are running", MAX_JOBS);
        return;
    }
    pid = fork();
    if (!pid)
        supervise(request, fds, host, received_usec);
    if (pid < 0) {
        answer(CALLER_FD, request->id, "error=cannot fork: %s", strerror(errno));
        return;
    }
    job->supervisor = pid;
    strcpy(job->id, request->id);
    running++;
}

static void handle_message(char *message, ssize_t length, int flags, const int *fds, int fd_count,
                           const struct host *host)
{
    static struct request request;
    int64_t received_usec = monotonic_usec();
    const char *problem = parse_request(&request, message, length);

    if (flags & MSG_TRUNC) {
        answer(CALLER_FD, request.id, "error=request longer than %d bytes", REQUEST_BYTES);
    } else if (problem) {
        answer(CALLER_FD, request.id, "error=%s", problem);
    } else if (request.kind == KIND_KILL) {
        struct job *job = find_job(request.id);

        // The answer to the request itself follows when its criu has ended.
        if (job)
            kill(job->supervisor, KILL_SIGNAL);
        else
            answer(CALLER_FD, request.id, "error=no request of this id is running");
    } else if ((flags & MSG_CTRUNC) ||
               fd_count != FIXED_FDS + request.cgroups + request.inherited) {
        answer(CALLER_FD, request.id,
               "error=%d descriptors came, wanted are pidfd, images, work, %d cgroups, %d others",
               fd_count, request.cgroups, request.inherited);
    } else {
        start_job(&request, fds, host, received_usec);
    }
}

// Reads one request. Returns false when the caller has gone.
static bool receive(const struct host *host, short revents)
{
    static char message[REQUEST_BYTES + 1];
    static union {
        char bytes[CMSG_SPACE(sizeof(int) * REQUEST_FDS)];
        struct cmsghdr align;
    } control;
    struct iovec part = {message, REQUEST_BYTES};
    struct msghdr header = {.msg_iov = &part,
                            .msg_iovlen = 1,
                            .msg_control = control.bytes,
                            .msg_controllen = sizeof control.bytes};
    int fds[REQUEST_FDS], fd_count = 0;
    ssize_t length = recvmsg(CALLER_FD, &header, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);

    if (length < 0)
        return errno == EAGAIN || errno == EINTR;
    // SOCK_SEQPACKET reads 0 for an empty message as well as for the end.
    if (!length && !header.msg_controllen && (revents & (POLLHUP | POLLRDHUP)))
        return false;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&header); c; c = CMSG_NXTHDR(&header, c)) {
        int count = (int)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));

        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        memcpy(fds + fd_count, CMSG_DATA(c), count * sizeof(int));
        fd_count += count;
    }
    handle_message(message, length, header.msg_flags, fds, fd_count, host);
    for (int i = 0; i < fd_count; i++)
        close(fds[i]);
    return true;
}

static void reap(void)
{
    int status;
    pid_t pid;

    while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
        for (int i = 0; i < MAX_JOBS; i++) {
            if (jobs[i].supervisor != pid)
                continue;
            if (!WIFEXITED(status) || WEXITSTATUS(status))
                answer(CALLER_FD, jobs[i].id,
                       "error=the supervisor was killed, what became of its criu is unknown");
            jobs[i].supervisor = 0;
            running--;
        }
}

static bool read_line(const char *path, char *text, size_t size)
{
    FILE *file = fopen(path, "re");
    bool read = file && fgets(text, (int)size, file);

    if (file)
        fclose(file);
    return read;
}

// What an administrator who said "never" to transparent huge pages wants is respected.
static unsigned long huge_page_bytes(void)
{
    char text[128];

    if (!read_line("/sys/kernel/mm/transparent_hugepage/enabled", text, sizeof text) ||
        strstr(text, "[never]") ||
        !read_line("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size", text, sizeof text))
        return 0;
    return strtoul(text, NULL, 10);
}

static int prepare(struct host *host)
{
    struct rlimit files;
    int type = 0;
    socklen_t size = sizeof type;

    if (getsockopt(CALLER_FD, SOL_SOCKET, SO_TYPE, &type, &size) || type != SOCK_SEQPACKET) {
        fprintf(stderr, "architect-criu: descriptor %d is not a SOCK_SEQPACKET socket\n", CALLER_FD);
        return -1;
    }
    fcntl(CALLER_FD, F_SETFD, FD_CLOEXEC);
    close_range(CALLER_FD + 1, ~0U, 0); // whatever else the caller let slip through
    // Fixed and parked descriptors go up to 1003; more than the usual soft limit.
    if (!getrlimit(RLIMIT_NOFILE, &files)) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    host->huge_page_bytes = huge_page_bytes();
    host->null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    host->last_pid_fd = open("/proc/sys/kernel/ns_last_pid", O_WRONLY | O_CLOEXEC);
    if (host->null_fd < 0 || host->last_pid_fd < 0 || chdir("/")) {
        fprintf(stderr, "architect-criu: cannot open /dev/null, ns_last_pid or /: %s\n",
                strerror(errno));
        return -1;
    }
    if (criu_prepare()) {
        fprintf(stderr, "architect-criu: criu cannot work with this kernel\n");
        return -1;
    }
    return 0;
}

static int serve(void)
{
    struct host host;
    struct signalfd_siginfo info;
    sigset_t watched, blocked;
    int signal_fd;
    bool connected = true;

    signal(SIGPIPE, SIG_IGN);
    clearenv(); // CRIU_CONFIG_FILE and others speak to criu
    if (prepare(&host))
        return 1;
    sigemptyset(&watched);
    sigaddset(&watched, SIGCHLD);
    sigaddset(&watched, SIGTERM);
    blocked = watched;
    // A kill may reach a supervisor that has not set up anything yet.
    sigaddset(&blocked, KILL_SIGNAL);
    sigprocmask(SIG_SETMASK, &blocked, NULL);
    signal_fd = signalfd(-1, &watched, SFD_CLOEXEC | SFD_NONBLOCK);
    if (signal_fd < 0) {
        fprintf(stderr, "architect-criu: cannot make a signalfd: %s\n", strerror(errno));
        return 1;
    }
    // Without a caller (or told to stop), the server stays for those that run.
    while (connected || running) {
        struct pollfd polled[2] = {
            {.fd = signal_fd, .events = POLLIN},
            {.fd = connected ? CALLER_FD : -1, .events = POLLIN | POLLRDHUP},
        };

        if (poll(polled, 2, -1) < 0)
            continue;
        if (polled[0].revents) {
            while (read(signal_fd, &info, sizeof info) == sizeof info)
                if (info.ssi_signo == SIGTERM)
                    connected = false;
            reap();
        }
        if (polled[1].revents && connected)
            connected = receive(&host, polled[1].revents);
    }
    return 0;
}

int __wrap_main(int argc, char **argv, char **envp)
{
    if (argc == 2 && !strcmp(argv[1], "serve"))
        return serve();
    return __real_main(argc, argv, envp);
}
