from __future__ import annotations

from typing import Any

import pytest

from architect.shim import inspection
from architect.shim.inspection import ContainerFacts, Descriptor, Mount, ProcessFacts, Segment

ROOT, OVERLAY_DEVICE = 5, (0, 77)
MOUNTS = {
    ROOT: Mount(file_system="overlay", device=OVERLAY_DEVICE, point="/"),
    6: Mount(file_system="tmpfs", device=(0, 78), point="/tmp"),
}


def judged(descriptor: Descriptor | None = None, **fields: Any) -> list[inspection.Finding]:
    if descriptor is not None:
        fields["descriptors"] = (descriptor,)
    process = ProcessFacts(pid=7, command="web", **fields)
    return inspection.of_container(ContainerFacts(name="app", processes=(process,), mounts=MOUNTS))


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


@pytest.mark.parametrize(
    "descriptor",
    [
        fd("socket", "socket:[1]", protocol="TCPv6"),
        fd("socket", "socket:[1]", protocol="UNIX-STREAM"),
        fd("socket", "socket:[1]"),  # a kernel that does not tell
        fd("pipe", "pipe:[1]", mount=15),
        fd("char", "/dev/null", device=(1, 3), mount=ROOT),
        fd("anonymous", "anon_inode:[eventpoll]"),
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
    ("reason", "fields"),
    [
        ("NestedNamespace", {"other_namespaces": ("mnt", "user")}),
        ("Traced", {"is_traced": True}),
        ("Capability", {"capabilities": 1 << 19}),
        ("HugePages", {"mappings": ("/anon_hugepage (deleted)",)}),
        ("IoUring", {"mappings": ("anon_inode:[io_uring]",)}),
        ("Device", {"mappings": ("/dev/nvidia0",)}),
    ],
)
def test_a_process_that_criu_cannot_save_is_named(reason: str, fields: dict[str, Any]) -> None:
    (found,) = judged(**fields)
    assert (found.reason, found.is_blocking) == (reason, True)


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
    found = inspection.of_container(
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
    (found,) = inspection.of_container(ContainerFacts(name="app", trouble="no living init"))
    assert (found.reason, found.message) == ("NotRunning", "no living init")


def test_a_pod_lacks_space_or_was_refused() -> None:
    refused = {"reason": "Mptcp", "message": "said CRIU", "hint": ""}
    found = inspection.of_pod([], refused=refused, needed_bytes=2 << 20, free_bytes=1 << 20)
    assert [one.reason for one in found] == ["Mptcp", "NoSpace"]
    assert inspection.of_pod([], refused=None, needed_bytes=1, free_bytes=1) == []
