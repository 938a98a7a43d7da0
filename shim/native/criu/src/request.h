// SPDX-License-Identifier: GPL-2.0-only
// One request of the fork server's protocol, as parsed from one SOCK_SEQPACKET message.
#ifndef ARCHITECT_REQUEST_H
#define ARCHITECT_REQUEST_H

#include <stddef.h>
#include <sys/types.h>

enum {
    REQUEST_BYTES = 65536, // longest message; criu's own command lines are far below
    REQUEST_ARGS = 512,
    REQUEST_FDS = 253, // SCM_MAX_FD of Linux: more cannot be sent with one message
    FIXED_FDS = 3,     // pidfd of the container's init, image directory, work directory
};

enum request_kind { KIND_NONE, KIND_DUMP, KIND_RESTORE, KIND_KILL };

struct request {
    char id[21]; // decimal, as the caller wrote it; "0" until one was read
    enum request_kind kind;
    int namespaces; // CLONE_NEW* flags to enter besides the pid namespace
    pid_t pid;      // wanted pid of criu in the container's pid namespace, 0: any
    pid_t last_pid; // value for ns_last_pid, 0: leave it alone
    int small_pages; // a restore asks for no huge pages
    int cgroups;    // number of cgroup descriptors: v1 tasks or cgroup.procs files, a v2 directory
    int inherited;  // number of descriptors that criu sees at INHERITED_FD_BASE + i
    int argc;
    char *argv[REQUEST_ARGS + 1]; // points into the message
};

const char *kind_name(enum request_kind kind);

// Parses `length` bytes of NUL-separated tokens. `message` must have room for one byte more.
// Returns 0, or a text that says what is wrong; request->id is set as far as it was readable.
const char *parse_request(struct request *request, char *message, size_t length);

#endif
