from __future__ import annotations

from typing import Any

import pytest

from architect.shim.inspection import containers, findings
from architect.shim.inspection.facts import (
    ContainerFacts,
    Descriptor,
    Mount,
    Peer,
    ProcessFacts,
    Removed,
    Segment,
)
from architect.shim.inspection.findings import About, Finding

ROOT, OVERLAY_DEVICE = 5, (0, 77)
MOUNTS = {
    ROOT: Mount(file_system="overlay", device=OVERLAY_DEVICE, point="/"),
    6: Mount(file_system="tmpfs", device=(0, 78), point="/tmp"),
}


def judged(descriptor: Descriptor | None = None, **fields: Any) -> list[Finding]:
    if descriptor is not None:
        fields["descriptors"] = (descriptor,)
    process = ProcessFacts(pid=7, host_pid=70, command="web", **fields)
    return containers.of_container(ContainerFacts(name="app", processes=(process,), mounts=MOUNTS))


def fd(kind: str, target: str, **fields: Any) -> Descriptor:
    return Descriptor(number=4, kind=kind, target=target, **fields)


@pytest.mark.parametrize(
    ("reason", "descriptor"),
    [
        ("Mptcp", fd("socket", "socket:[1]", protocol="MPTCP")),
        ("Mptcp", fd("socket", "socket:[1]", protocol="MPTCPv6")),
        ("Socket", fd("socket", "socket:[1]", protocol="AF_VSOCK")),
        ("Terminal", fd("char", "/dev/pts/0", device=(136, 0), mount=ROOT)),
        ("Terminal", fd("char", "/dev/tty", device=(5, 0), mount=ROOT)),
        ("Device", fd("char", "/dev/fuse", device=(10, 229), mount=ROOT)),
        ("Device", fd("block", "/dev/vda", device=(254, 0), mount=ROOT)),
        ("Device", fd("anonymous", "anon_inode:[perf_event]")),
        ("Device", fd("anonymous", "anon_inode:bpf-map")),
        ("Device", fd("char", "/dev/net/tun", device=(10, 200), mount=ROOT)),
        ("Device", fd("file", "/secretmem (deleted)", mount=15)),
        ("HugePages", fd("file", "/memfd:x (deleted)", mount=18, block_bytes=2 << 20)),
        ("UnheldSocket", fd("socket", "socket:[1]", protocol="RAWv6")),
        ("UnheldSocket", fd("socket", "socket:[1]", protocol="PACKET")),
        ("Pidfd", fd("anonymous", "anon_inode:[pidfd]", process=1)),
        ("Epoll", fd("anonymous", "anon_inode:[eventpoll]", waits_for_closed=True)),
        ("Mount", fd("char", "/dev/null", device=(1, 3), mount=999)),
        ("Terminal", fd("char", "/dev/pts/0 (deleted)", device=(136, 0), mount=999)),
        ("Device", fd("anonymous", "anon_inode:kvm-vm")),
        ("IoUring", fd("anonymous", "anon_inode:[io_uring]")),
        (
            "Inotify",
            fd("anonymous", "anon_inode:inotify", watched=frozenset({OVERLAY_DEVICE})),
        ),
        ("Mount", fd("file", "/var/log/out", mount=999)),
        ("Mount", fd("pipe", "/run/fifo", mount=999)),
        ("DeletedFile", fd("file", "/big (deleted)", mount=ROOT, size_bytes=65 << 20)),
    ],
)
def test_a_descriptor_that_criu_cannot_save_is_named(reason: str, descriptor: Descriptor) -> None:
    (found,) = judged(descriptor)
    assert (found.container, found.reason, found.is_blocking) == ("app", reason, True)
    assert found.message.startswith("process 7 (web) ")
    assert found.hint, "what would have to change"
    assert found.about is About.PROCESSES


@pytest.mark.parametrize(
    "descriptor",
    [
        fd("socket", "socket:[1]", protocol="TCPv6"),
        fd("socket", "socket:[1]", protocol="UNIX-STREAM"),
        fd("socket", "socket:[1]"),  # a kernel that does not tell
        fd("pipe", "pipe:[1]", mount=15),
        fd("char", "/dev/null", device=(1, 3), mount=ROOT),
        fd("anonymous", "anon_inode:[eventpoll]"),
        fd("anonymous", "anon_inode:[pidfd]", process=70),
        fd("anonymous", "anon_inode:[pidfd]", process=-1),
        fd("char", "/dev/pts/0 (deleted)", device=(136, 0), mount=ROOT),
        fd("anonymous", "anon_inode:inotify", watched=frozenset({(0, 78)})),
        fd("file", "/memfd:x (deleted)", mount=1, size_bytes=1 << 30),
        fd("file", "/small (deleted)", mount=ROOT, size_bytes=1 << 20),
        fd("file", "/data/db", mount=ROOT, size_bytes=1 << 40),
        fd("directory", "/", mount=ROOT),
    ],
)
def test_an_ordinary_descriptor_is_nothing_to_tell(descriptor: Descriptor) -> None:
    assert judged(descriptor) == []


@pytest.mark.parametrize(
    ("file", "is_told"),
    [
        (fd("file", "/tmp/x (deleted)", mount=6, inode=9), True),
        (fd("file", "/tmp/x", mount=6, inode=9), False),
        (fd("file", "/tmp/x (deleted)", mount=6, inode=8), False),
        # Of a disk a handle leads to it.
        (fd("file", "/x (deleted)", mount=ROOT, inode=9), False),
    ],
    ids=["removed", "there", "another", "on-a-disk"],
)
def test_a_removed_file_in_memory_that_is_watched_and_open_is_named(
    file: Descriptor, is_told: bool
) -> None:
    files = frozenset({((0, 78), 9), (OVERLAY_DEVICE, 9)})
    watch = fd("anonymous", "anon_inode:inotify", watched_files=files)
    found = judged(descriptors=(watch, file))
    assert [each.reason for each in found] == (["Inotify"] if is_told else [])
    assert all(each.is_blocking and "/tmp/x" in each.message for each in found)


@pytest.mark.parametrize(
    ("reason", "fields"),
    [
        ("NestedNamespace", {"other_namespaces": ("mnt", "user")}),
        ("Traced", {"is_traced": True}),
        ("MainThread", {"state": "Z", "threads": 2}),
        ("Uninterruptible", {"is_uninterruptible": True}),
        ("Capability", {"capabilities": 1 << 19}),
        ("HugePages", {"mappings": ("/anon_hugepage (deleted)",)}),
        ("IoUring", {"mappings": ("anon_inode:[io_uring]",)}),
        ("Device", {"mappings": ("/dev/nvidia0",)}),
        ("DeletedFile", {"deleted": (("/app/bin (deleted)", 65 << 20),)}),
    ],
)
def test_a_process_that_criu_cannot_save_is_named(reason: str, fields: dict[str, Any]) -> None:
    (found,) = judged(**fields)
    assert (found.reason, found.is_blocking) == (reason, True)


def test_what_has_ended_holds_nothing() -> None:
    held = 1 << 21
    assert judged(capabilities=held) != []
    assert judged(state="Z", capabilities=held, is_in_own_cgroup=True) == []


def test_a_unix_socket_of_another_network_namespace_was_made_outside() -> None:
    here = fd("socket", "socket:[1]", protocol="UNIX-STREAM", inode=1)
    process = ProcessFacts(pid=7, command="web", descriptors=(here,))
    facts = ContainerFacts(name="app", processes=(process,), foreign_sockets=frozenset({1}))
    (found,) = containers.of_container(facts)
    assert found.reason == "ExternalSocket"


def test_a_terminal_is_saved_with_both_its_ends_only() -> None:
    master = fd("char", "/dev/ptmx", device=(5, 2), mount=ROOT, terminal=260)
    slave = fd("char", "/dev/pts/260", device=(137, 4), mount=ROOT)
    current = fd("char", "/dev/tty", device=(5, 0), mount=ROOT)
    assert judged(descriptors=(master, slave, current)) == []
    assert judged(descriptors=(master,)) == []
    assert [one.reason for one in judged(descriptors=(slave,))] == ["Terminal"]


def test_what_many_descriptors_have_in_common_is_told_once() -> None:
    pair = tuple(
        Descriptor(number=n, kind="socket", target=f"socket:[{n}]", protocol="MPTCP")
        for n in (4, 5)
    )
    assert len(judged(descriptors=pair)) == 1


def test_shared_memory_of_others_and_joined_processes_block_and_sessions_do_not() -> None:
    found = containers.of_container(
        ContainerFacts(
            name="app",
            segments=(
                Segment(identity=3, own=1, total=2),
                Segment(identity=4, own=1, total=1),
            ),
            sessions=("bash",),
            strangers=(("gdb", 1 << 19), ("top", 0)),
        )
    )
    assert [(one.reason, one.is_blocking) for one in found] == [
        ("SharedSysV", True),
        ("Tracer", True),
        ("ExecSession", False),
    ]


def test_a_container_without_application_says_why() -> None:
    (found,) = containers.of_container(ContainerFacts(name="app", trouble="no living init"))
    assert (found.reason, found.message) == ("NotRunning", "no living init")
    assert found.about is About.CONTAINER


def with_peers(*descriptors: Descriptor, peers: dict[int, Peer]) -> list[Finding]:
    process = ProcessFacts(pid=7, command="web", descriptors=descriptors)
    return containers.of_container(ContainerFacts(name="app", processes=(process,), peers=peers))


def test_a_unix_socket_is_saved_with_both_its_ends_only() -> None:
    here = fd("socket", "socket:[1]", protocol="UNIX-STREAM", inode=1)
    there = fd("socket", "socket:[2]", protocol="UNIX-STREAM", inode=2)
    peers = {1: Peer(inode=2, name="/run/agent"), 2: Peer(inode=1)}
    assert with_peers(here, there, peers=peers) == []
    (found,) = with_peers(here, peers={1: peers[1]})
    assert (found.reason, found.message) == (
        "ExternalSocket",
        "process 7 (web) has a UNIX socket connected to somebody outside (/run/agent)",
    )


def test_what_is_mapped_and_deleted_is_saved_up_to_a_size() -> None:
    deleted = (("/lib/a.so (deleted)", 1 << 20), ("/memfd:x (deleted)", 1 << 30))
    assert judged(deleted=deleted) == []


def removed(*sizes: int | None, room_bytes: int = 64 << 20) -> list[Finding]:
    files = tuple(Removed(path=f"/config/{n}", size_bytes=size) for n, size in enumerate(sizes))
    return containers.of_container(
        ContainerFacts(name="app", removed=files, removed_room_bytes=room_bytes)
    )


def test_what_was_removed_from_read_only_mounts_comes_back_as_far_as_there_is_room() -> None:
    assert removed(room_bytes=0) == []
    assert removed(16 << 20, 0, 16 << 20) == []
    assert removed(1 << 20, room_bytes=1 << 20) == []
    for found in (
        removed(16 << 20, (16 << 20) + 1),
        removed((1 << 20) + 1, room_bytes=1 << 20),
        removed(0, room_bytes=0),
        removed(1, None),
    ):
        assert [(one.reason, one.is_blocking) for one in found] == [("DeletedFile", True)]
    (found_large,) = removed(1 << 20, 40 << 20)
    assert "41.0 MiB" in found_large.message
    assert "32.0 MiB" in found_large.message
    assert found_large.message.endswith(": /config/1")


def test_a_name_is_no_more_than_a_text() -> None:
    process = ProcessFacts(
        pid=7,
        command="evil\n\x1b[2Jname\udcff",
        descriptors=(fd("char", "/dev/" + "x" * 4000, device=(10, 229), mount=ROOT),),
    )
    facts = ContainerFacts(name="app", processes=(process,), mounts=MOUNTS)
    (found,) = containers.of_container(facts)
    assert found.message.startswith("process 7 (evil??[2Jname?) has the device /dev/xxx")
    assert found.message.isprintable()
    assert len(found.message) < 200


def test_what_is_told_has_a_limit() -> None:
    many = tuple(ProcessFacts(pid=n, command="web", is_traced=True) for n in range(5000))
    facts = ContainerFacts(name="app", processes=many, is_partial=True)
    assert len(containers.of_container(facts)) == containers.MAX_FINDINGS
    facts = ContainerFacts(name="app", is_partial=True)
    (found,) = containers.of_container(facts)
    assert (found.reason, found.is_blocking) == ("Partial", False)


def test_a_pod_lacks_space_or_was_refused() -> None:
    refused = {"reason": "Mptcp", "message": "said CRIU", "hint": ""}
    found = findings.of_pod(refused=refused, needed_bytes=2 << 20, free_bytes=1 << 20)
    assert [one.reason for one in found] == ["Mptcp", "NoSpace"]
    assert findings.of_pod(refused=None, needed_bytes=1, free_bytes=1) == []
