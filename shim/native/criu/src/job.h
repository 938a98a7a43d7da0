// SPDX-License-Identifier: GPL-2.0-only
// One dump or restore: a supervisor on the host and criu inside the container's namespaces.
#ifndef ARCHITECT_JOB_H
#define ARCHITECT_JOB_H

#include <stdbool.h>
#include <stdint.h>

#include "request.h"

enum {
    CALLER_FD = 3, // the connected socket
    // Where criu finds its descriptors. Above 2 and below the service descriptors it keeps at the
    // top of its table.
    IMAGES_FD = 100,
    WORK_FD = 101,
    INHERITED_FD_BASE = 200,
    NOT_STARTED_STATUS = 255, // in the exit file: criu was never reached
};

// Signal by which the server tells a supervisor to kill its criu. SIGTERM is left alone, so that
// whoever stops the server's process group does not cut a dump in half.
#define KILL_SIGNAL SIGUSR1

// What the server opened on the host before any container was near.
struct host {
    int null_fd;
    int last_pid_fd; // /proc/sys/kernel/ns_last_pid
    unsigned long huge_page_bytes; // 0: switched off on this node, or unknown to the kernel
};

// CPU affinity of the container's init, read where its pid is known: outside its pid namespace.
struct affinity {
    unsigned long words[8192 / (8 * sizeof(unsigned long))]; // NR_CPUS of x86-64 with MAXSMP
};

int64_t monotonic_usec(void);

bool is_directory(int fd);

// Sends "id=…" and the given tokens as one message; a caller that has gone is not an error.
void answer(int socket, const char *id, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

// Runs in a fresh child of the server and never returns. Exit status 0: the caller was answered.
_Noreturn void supervise(const struct request *request, const int *fds, const struct host *host,
                         int64_t received_usec);

// Enters the container and becomes criu; `fds` in the order of the protocol. Never returns. What
// goes wrong before criu's main() is written to error_fd, which is closed when main() begins.
_Noreturn void become_criu(const struct request *request, const int *fds, const struct host *host,
                           const struct affinity *affinity, int error_fd);

#endif
