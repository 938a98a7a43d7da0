"""Lines as CRIU 4.2 prints them, and what people are told."""

from __future__ import annotations

import pytest

from architect.shim.criu_errors import UNKNOWN, cause, translate

LINES = [
    (
        "(00.01) Error (criu/files-ext.c:94): Can't dump file 7 of that type [600] "
        "(unknown anon_inode:[io_uring])",
        "IoUring",
    ),
    (
        "(00.01) Error (criu/proc_parse.c:738): Can't open 7's mapfile link 7f1: No such device",
        "IoUring",
    ),
    ("(00.01) Error (criu/sk-inet.c:137): Unsupported proto 262 for socket 1f3a", "Mptcp"),
    ("(00.01) Error (criu/sk-inet.c:137): Unsupported proto 132 for socket 1f3a", "Socket"),
    (
        "(00.01) Error (criu/sockets.c:767): sockets: BUG! Unknown socket collected (family 40)",
        "Socket",
    ),
    ("(00.01) Error (criu/sk-inet.c:185): In-flight connection (l) for 1f3a", "InFlight"),
    ("(00.01) Error (criu/sk-unix.c:494): In-flight connection on 1f3a", "InFlight"),
    (
        "(00.01) Error (criu/page-xfer.c:269): Unable to spice data: No space left on device",
        "NoSpace",
    ),
    ("(00.01) Error (criu/sk-netlink.c:77): netlink: The socket has data to read", "InFlight"),
    ("(00.01) Error (criu/sk-unix.c:418): unix: Unix socket 72 without peer 67", "ExternalSocket"),
    ("(00.01) Error (criu/sk-unix.c:351): unix: Unix socket 839972 not found", "ExternalSocket"),
    (
        "(00.01) Error (criu/tun.c:306): tun: Net namespace is required to dump tun link",
        "Device",
    ),
    (
        "(00.01) Error (criu/pidfd.c:97): pidfd: pidfd pid 1 is not a part of process tree..",
        "Pidfd",
    ),
    ("(00.01) Error (criu/seize.c:882): Zombies with threads are not supported", "MainThread"),
    (
        "(00.01) Error (compel/src/lib/infect.c:262): Unseizable non-zombie 7 found, state D, err "
        "-1/4",
        "Uninterruptible",
    ),
    (
        "(00.01) Error (compel/src/lib/infect.c:262): Unseizable non-zombie 8 found, state S, err "
        "-1/10",
        "Traced",
    ),
    ("(00.01) Error (criu/image.c:531): Unable to open stats: Read-only file system", "ReadOnly"),
    ("(00.01) Error (criu/fsnotify.c:284): fsnotify: \tCan't dump that handle", "Inotify"),
    (
        "(00.01) Error (criu/tty.c:1830): tty: Found dangling tty with sid 1 pgid 1 (pts) on peer",
        "Terminal",
    ),
    (
        "(00.01) Error (criu/cr-dump.c:1528): A session leader of 9(9) is outside of its pid "
        "namespace",
        "Session",
    ),
    (
        "(00.01) Error (criu/mount.c:4048): mnt: Nested mount namespaces are not supported "
        "without mnt",
        "NestedNamespace",
    ),
    (
        "(00.01) Error (criu/namespaces.c:460): Can't dump nested net namespace for 12",
        "NestedNamespace",
    ),
    (
        "(00.01) Error (criu/cr-dump.c:478): Task 9 with SysVIPC shmem map @7f1 doesn't live in "
        "IPC ns",
        "SysvShm",
    ),
    (
        "(00.01) Error (criu/files-reg.c:1031): Can't dump ghost file /tmp/x of 99 size, increase "
        "limit",
        "DeletedFile",
    ),
    (
        "(00.02) Error (criu/files-reg.c:467): Can't create ghost regfile: Read-only file system",
        "DeletedFile",
    ),
    (
        "(00.02) Error (criu/util.c:927): couldn't mkdirpat directory /a: Read-only file system",
        "DeletedFile",
    ),
    (
        "(00.01) Error (criu/files-reg.c:1154): Can't link remap to mnt/x: Read-only file system",
        "DeletedFile",
    ),
    (
        "(00.01) Error (criu/sk-unix.c:874): unix: External socket is used. Consider using "
        "--ext-unix-sk",
        "ExternalSocket",
    ),
    (
        "(00.01) Error (criu/files-reg.c:2175): File usr/bin/app has bad size 5 (expect 6)",
        "FileChanged",
    ),
    ("(00.01) Error (criu/files-reg.c:1790): Can't lookup mount=12 for fd=3 path=/x", "Mount"),
    (
        "(00.01) Error (criu/files-ext.c:94): Can't dump file 7 of that type [20666] (chr 195:0)",
        "Device",
    ),
    ("(00.01) Error (criu/cr-dump.c:389): Can't get rlimit 0: Operation not permitted", "Rlimit"),
    ("(00.01) Error (criu/cr-restore.c:1221): Can't fork for 7: File exists", "PidTaken"),
    (
        "(00.01) Error (criu/cr-restore.c:1221): Can't fork for 7: Resource temporarily "
        "unavailable",
        "NoPids",
    ),
    (
        "(00.01) Error (criu/namespaces.c:1475): Can't unix daemon: Resource temporarily "
        "unavailable",
        "NoPids",
    ),
    ("(00.01) Error (criu/pie/restorer.c:1890): Unable to create a thread: -11", "NoPids"),
    (
        "(00.01) Error (criu/sk-inet.c:950): inet: Can't bind inet socket (id 3): Address already "
        "in use",
        "AddressInUse",
    ),
    ("(00.01) Error (criu/criu_seams.c:93): architect: refused to run tar -x", "HelperRefused"),
]


@pytest.mark.parametrize(("line", "reason"), LINES, ids=[reason for _, reason in LINES])
def test_known_refusals_have_a_reason_and_a_hint(line, reason):
    found, hint = translate(f"(00.00) Dumping\n{line}\n(00.02) Error (x.c:1): Dumping FAILED.\n")
    assert found == reason
    assert hint and not hint.endswith(".")


def test_the_cause_wins_over_its_consequences():
    text = "\n".join(
        [
            "(00.01) Error (criu/sk-inet.c:137): Unsupported proto 262 for socket 1f3a",
            "(00.02) Error (criu/cr-dump.c:1600): Dump files (pid: 9) failed with -1",
            "(00.03) Error (criu/files-reg.c:2175): File x has bad size 5 (expect 6)",
        ]
    )
    assert translate(text)[0] == "Mptcp"


def test_warnings_say_nothing():
    text = "(00.01) Warn  (criu/fsnotify.c:80): fsnotify: inotify is slow\n"
    assert translate(text) == UNKNOWN


@pytest.mark.parametrize("text", ["", "(00.02) Error (x.c:1): Dumping FAILED.", "\0\xff\n\n"])
def test_what_is_unknown_points_to_the_log(text):
    assert translate(text) == UNKNOWN


def test_the_line_that_is_shown_is_the_cause_and_not_its_consequences() -> None:
    rlimit = "(00.00) Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: EPERM"
    full = "(00.01) Error (criu/page-xfer.c:269): Unable to spice data: No space left on device"
    odd = "(00.01) Error (criu/odd.c:1): something that nobody knows"
    files = "(00.02) Error (criu/cr-dump.c:1545): Dump files (pid: 26476) failed with -1"
    end = "(00.02) Error (criu/cr-dump.c:1975): Dumping FAILED."
    assert cause("\n".join([rlimit, odd, full, files, end])) == full
    assert cause("\n".join([rlimit, odd, files, end])) == odd
    assert cause("\n".join(["(00.02) Warn  (criu/x.c:1): harmless", end])) == end
    assert cause("") == ""
