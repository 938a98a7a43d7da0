"""What CRIU's log says, for people: a stable reason and a hint (pure).

CRIU reports one cause and then its consequences, so the first error line that is known decides.
Patterns are pieces of CRIU 4.2's messages; the source file that prints each is named beside it.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

UNKNOWN: Final = ("Criu", "see the log beside the image")


class _Known(NamedTuple):
    pattern: re.Pattern[str]
    reason: str
    hint: str


def _known(pattern: str, reason: str, hint: str) -> _Known:
    return _Known(re.compile(pattern, re.IGNORECASE), reason, hint)


# What is specific comes first: a line is given to the first pattern that is found in it.
_KNOWN: Final = (
    _known(
        # files-ext.c for the descriptor; proc_parse.c for the ring's mapping, which has no link
        r"io_uring|can't open \d+'s mapfile link",
        "IoUring",
        "the process uses io_uring; the RuntimeDefault seccomp profile denies it and programs "
        "fall back by themselves",
    ),
    _known(
        r"unsupported proto 262\b|\bmptcp\b",  # sk-inet.c; 262 is IPPROTO_MPTCP
        "Mptcp",
        "the process listens by MPTCP; Go programs stop with GODEBUG=multipathtcp=0",
    ),
    _known(
        r"in-flight (connection|socket)|dangling connection",  # sk-inet.c, sk-unix.c
        "InFlight",
        "a connection was not accepted yet; it is tried again",
    ),
    _known(
        r"can't dump corked dgram", "InFlight", "a datagram was half written; it is tried again"
    ),
    _known(
        r"netlink: the socket has data to read",  # sk-netlink.c
        "InFlight",
        "the kernel told something by netlink that was not read yet; it is tried again",
    ),
    _known(
        r"pidfd: pidfd pid .* is not a part of process tree",  # pidfd.c
        "Pidfd",
        "the process has a descriptor of a process that is not the application's",
    ),
    _known(
        # files-reg.c, util.c: what has no place in the container; a file with more names than one
        r"(can't create (node for )?ghost|couldn't mkdirpat|can't link remap).*read-only file sys",
        "DeletedFile",
        "a file that the process has open was removed from a read-only mount",
    ),
    _known(
        r"no space left on device|disk quota exceeded|\bENOSPC\b",
        "NoSpace",
        "free space for /var/lib/architect",
    ),
    _known(
        r"read-only file system|\bEROFS\b",
        "ReadOnly",
        "a mount of the container is read-only by now, or the disk of /var/lib/architect takes no "
        "changes: see the message, and the kernel's log",
    ),
    _known(
        r"fsnotify:|inotify|fanotify|can't dump that handle",  # fsnotify.c
        "Inotify",
        "the process watches a file that has no path any more (deleted, or covered by a mount)",
    ),
    _known(
        r"\btty:|dangling tty|\bptmx\b|/dev/pts|external terminal",  # tty.c
        "Terminal",
        "the process has a terminal open; run the container without tty",
    ),
    _known(
        r"session leader of .* is outside|is not a session leader|can't find a session leader",
        "Session",  # cr-dump.c, pstree.c
        "a process belongs to a session whose leader is not part of the application",
    ),
    _known(
        r"nested mount namespaces|can't dump nested|doesn't belong to the target user namespace",
        "NestedNamespace",  # mount.c, namespaces.c
        "the application has made namespaces of its own (a sandbox, a browser, a container)",
    ),
    _known(
        r"sysvipc shmem map",  # cr-dump.c
        "SysvShm",
        "SysV shared memory lives in an IPC namespace that is not the container's alone",
    ),
    _known(
        r"can't dump ghost file .* increase limit",  # files-reg.c
        "DeletedFile",
        "the process keeps a large deleted file open",
    ),
    _known(
        # sk-unix.c
        r"external socket is used|half of stream unix|name-less external socket"
        r"|unix socket \d+ (without peer|not found)",
        "ExternalSocket",
        "a UNIX socket is connected to a process outside the application (another container, "
        "an exec session)",
    ),
    _known(
        r"bad build-id|has bad size|bad mode",  # files-reg.c
        "FileChanged",
        "a file that the process has open or mapped was changed since the dump",
    ),
    _known(
        r"can't lookup mount=|overmounted mounts|mount is not found for ghost",  # files-reg.c
        "Mount",
        "a file is open on a mount that is gone or covered by another",
    ),
    _known(
        r"can't dump file \d+ of that type|unsupported mapping found|unknown shit|\btun: ",
        "Device",  # files-ext.c, proc_parse.c, tun.c
        "the process has a device or a kind of file open that CRIU cannot save (a GPU, BPF, perf)",
    ),
    _known(
        r"unsupported proto \d+|unsupported socket family|unsupported type \(\d+\) on socket"
        r"|unknown socket collected",
        "Socket",  # sk-inet.c, sk-unix.c; sockets.c for a family that it does not know (vsock)
        "the process has a socket of a kind that CRIU cannot save",
    ),
    _known(
        r"can't (get|dump) rlimit",  # cr-dump.c
        "Rlimit",
        "the node gives CAP_SYS_RESOURCE to nobody and hides /proc/PID/limits",
    ),
    _known(
        # cr-restore.c, namespaces.c; restorer.c, which has no words for errors
        r"(fork|clone|unix daemon)\b[^:]*: resource temporarily unavailable"
        r"|unable to (clone|create) .*-11\b",
        "NoPids",
        "the container's limit of processes, or the node's, does not suffice for the application",
    ),
    _known(
        r"fork for \d+: file exists|can't fork for \d+|\bpid \d+ is already",  # cr-restore.c
        "PidTaken",
        "a pid of the application is in use in the container; what is left of an earlier try or "
        "an exec session holds it",
    ),
    _known(
        r"cpu (capabilities|features?) .*(not|mismatch)|require.* cpu|\bcpu: .*(not present|fail)",
        "CpuFeatures",  # arch/*/cpu.c
        "this node's CPU lacks a feature that the application used where it was dumped",
    ),
    _known(
        r"address already in use|can't bind",  # sk-inet.c
        "AddressInUse",
        "something else listens on the application's address in the pod",
    ),
    _known(
        r"cannot assign requested address",
        "AddressGone",
        "a socket is bound to an address that the pod does not have any more",
    ),
    _known(
        r"architect: refused to (run|load|look up)",  # the fork server's own
        "HelperRefused",
        "CRIU wanted a helper program, which it is not allowed among a container's files",
    ),
    _known(
        r"cannot allocate memory|out of memory",
        "OutOfMemory",
        "memory of the container's limit or the node did not suffice",
    ),
    _known(
        r"zombies with threads",  # seize.c
        "MainThread",
        "the process goes on without its main thread, which has ended",
    ),
    _known(
        r"unseizable non-zombie \d+ found, state D",  # compel
        "Uninterruptible",
        "a process waits in the kernel, for a disk or for a child that it made by vfork; it is "
        "tried again",
    ),
    _known(
        r"is already traced|ptrace.*operation not permitted|unseizable",  # compel
        "Traced",
        "a debugger or tracer is attached to the application",
    ),
)


_CONSEQUENCE: Final = re.compile(
    r"(dumping|restoring) failed\.|failed with -?\d+$|exited, status|setup rlimit_nofile",
    re.IGNORECASE,
)
"""Lines that say only that something failed, and one that is harmless (cr-dump.c, cr-restore.c)."""


def translate(text: str) -> tuple[str, str]:
    """Return (reason, hint) for a log, ``Criu`` where nothing known is found.

    Only error lines count: warnings name the same things and are harmless.
    """
    for line in _errors(text):
        if (known := _find(line)) is not None:
            return known.reason, known.hint
    return UNKNOWN


def cause(text: str) -> str:
    """Return the error line of a log that tells most: what :func:`translate` knows, or the first
    that is not only a consequence. Empty if there is none.
    """
    lines = _errors(text)
    telling = [line for line in lines if _find(line) is not None]
    telling += [line for line in lines if not _CONSEQUENCE.search(line)]
    return next(iter([*telling, *lines]), "").strip()


def _errors(text: str) -> list[str]:
    return [line for line in text.splitlines() if "Error (" in line or line.startswith("Error")]


def _find(line: str) -> _Known | None:
    return next((known for known in _KNOWN if known.pattern.search(line)), None)
