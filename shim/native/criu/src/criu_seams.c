// SPDX-License-Identifier: GPL-2.0-only
// CRIU runs as the host's root with a container's files around it. These wrappers (ld --wrap) take
// away every way by which it would execute, load or believe one of them.
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cr_options.h"
#include "criu-log.h"
#include "kerndat.h"
#include "plugin.h"
#include "pstree.h"
#include "util.h"

#include "criu_seams.h"

static bool prepared;

int __real_kerndat_init(void);
int __wrap_kerndat_init(void)
{
    return prepared ? 0 : __real_kerndat_init();
}

// Copies what the probes said to stderr.
static void tell(int said_fd)
{
    char text[4096];
    ssize_t length;

    lseek(said_fd, 0, SEEK_SET);
    while ((length = read(said_fd, text, sizeof text)) > 0)
        if (write(STDERR_FILENO, text, length) < 0)
            break;
}

int criu_prepare(void)
{
    // The probes' children write their messages to stderr when they exit. They matter only if
    // probing fails, and must not come first in the log of every later child.
    int stderr_fd = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0);
    int said_fd = memfd_create("criu-probes", MFD_CLOEXEC);
    int result;

    if (stderr_fd < 0 || said_fd < 0 || dup2(said_fd, STDERR_FILENO) < 0)
        return -1;
    init_opts();
    log_set_loglevel(opts.log_level);
    result = kerndat_init();
    flush_early_log_buffer(STDERR_FILENO);
    // Probing leaves a descriptor of the host's /proc behind, and CRIU keeps using the first one it
    // opened: a child would look up the container's pids among the host's.
    close_proc();
    if (dup2(stderr_fd, STDERR_FILENO) < 0)
        return -1;
    if (result)
        tell(said_fd);
    close(said_fd);
    close(stderr_fd);
    init_opts();
    prepared = true;
    return result ? -1 : 0;
}

// Of patches/0001.
extern unsigned long restore_huge_page_size;

void criu_set_huge_pages(unsigned long size_bytes)
{
    restore_huge_page_size = size_bytes;
}

// No plugins: the directory is looked up in the container's mount namespace.
int __wrap_cr_plugin_init(int stage)
{
    (void)stage;
    INIT_LIST_HEAD(&cr_plugin_ctl.head);
    for (size_t i = 0; i < ARRAY_SIZE(cr_plugin_ctl.hook_chain); i++)
        INIT_LIST_HEAD(&cr_plugin_ctl.hook_chain[i]);
    return 0;
}

void *__wrap_dlopen(const char *path, int flags)
{
    (void)flags;
    pr_err("architect: refused to load %s\n", path ? path : "the program itself");
    return NULL;
}

static int refuse_to_run(const char *command, char *const argv[])
{
    if (prepared)
        pr_err("architect: refused to run %s%s%s\n", command, argv && argv[0] && argv[1] ? " " : "",
               argv && argv[0] && argv[1] ? argv[1] : "");
    errno = EPERM;
    return -1;
}

// iptables, ip, nft, tar, sh and action scripts. While the kernel is probed (in the host's
// namespaces) the answer is no as well: what it would tell concerns the network lock, which is
// never CRIU's here.
int __wrap_cr_system(int in, int out, int err, char *command, char *const argv[], unsigned flags)
{
    (void)in, (void)out, (void)err, (void)flags;
    return refuse_to_run(command, argv);
}

int __wrap_cr_system_userns(int in, int out, int err, char *command, char *const argv[],
                            unsigned flags, int userns_pid)
{
    (void)in, (void)out, (void)err, (void)flags, (void)userns_pid;
    return refuse_to_run(command, argv);
}

int __wrap_execvp(const char *file, char *const argv[])
{
    return refuse_to_run(file, argv);
}

int __wrap_execlp(const char *file, const char *arg, ...)
{
    (void)arg;
    return refuse_to_run(file, NULL);
}

// What outlives the leader of its session, as every daemon does, is restored as the child of a helper
// in the leader's place. That ends, and its children go to the next subreaper: to the tree's root,
// which is one, but gets that back last of all. Without this they would go to PID 1 and be lost to
// the next dump.
pid_t __real_setsid(void);
pid_t __wrap_setsid(void)
{
    if (current && current == root_item && prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
        pr_perror("architect: the root of the tree is no subreaper");
    return __real_setsid();
}

// In a static program, too, the C library would load NSS modules for a name.
int __wrap_getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
                       struct addrinfo **result)
{
    (void)service, (void)hints;
    *result = NULL;
    pr_err("architect: refused to look up %s\n", node ? node : "a name");
    return EAI_FAIL;
}

static rlim_t limit_value(const char *text)
{
    return strncmp(text, "unlimited", 9) ? strtoull(text, NULL, 10) : RLIM_INFINITY;
}

// One limit out of /proc/PID/limits, which anybody may read. The lines stand in the order of the
// RLIMIT_ numbers (lnames[] in the kernel's fs/proc/base.c, indexed by them), one header before.
static int limit_from_proc(pid_t pid, unsigned int resource, struct rlimit64 *limit)
{
    enum { NAME_WIDTH = 26 }; // "%-25s " in proc_pid_limits()
    char path[64], line[256], soft[32], hard[32];
    int result = -1;
    FILE *file;

    snprintf(path, sizeof path, "/proc/%d/limits", pid);
    file = fopen(path, "re");
    if (!file)
        return -1;
    for (unsigned int i = 0; fgets(line, sizeof line, file); i++) {
        if (i != resource + 1)
            continue;
        if (strlen(line) > NAME_WIDTH && sscanf(line + NAME_WIDTH, "%31s %31s", soft, hard) == 2) {
            limit->rlim_cur = limit_value(soft);
            limit->rlim_max = limit_value(hard);
            result = 0;
        }
        break;
    }
    fclose(file);
    return result;
}

// prlimit64() on a process of another uid needs CAP_SYS_RESOURCE even to read (check_prlimit_
// permission() in kernel/sys.c), which a nested node may lack; without it no container that does
// not run as root could be dumped. Setting stays the kernel's decision.
long __real_syscall(long number, ...);
long __wrap_syscall(long number, ...)
{
    long a[6], result;
    va_list list;

    // As syscall() itself does: six registers, however many the call has.
    va_start(list, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(list, long);
    va_end(list);
    result = __real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    if (number == SYS_prlimit64 && result < 0 && errno == EPERM && a[0] && !a[2] && a[3]) {
        if (!limit_from_proc((pid_t)a[0], (unsigned int)a[1], (struct rlimit64 *)a[3]))
            return 0;
        errno = EPERM;
    }
    return result;
}
