"""What in a running pod keeps CRIU from dumping it. Pure: :mod:`.keeper.survey` reads the facts.

This explains; it does not decide: the keeper tries, and CRIU's own reason is the truth. Reasons are
those of :mod:`.criu_errors` where CRIU would say the same thing. Not seen here: conversations that
are under way (a sleep waits for their end), and UNIX sockets connected to another container.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from architect.core import capabilities
from architect.shim.records import Unmanaged

HARMLESS_DEVICES: Final = frozenset({(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (10, 200)})
"""null, zero, full, random, urandom, tun: Linux' admin-guide/devices.txt."""

MASTER: Final = (5, 2)
"""/dev/ptmx: the end of a pseudo terminal that a terminal's program holds."""
SLAVES: Final = range(136, 144)
"""Major numbers of the other end, 256 of them each."""
TERMINALS: Final = frozenset({4, 5, *SLAVES})
"""Those and consoles."""

SAVED_PROTOCOLS: Final = frozenset(
    {
        *("TCP", "TCPv6", "UDP", "UDPv6", "UDP-Lite", "UDPLITEv6", "RAW", "RAWv6"),
        *("UNIX", "UNIX-STREAM", "UNIX-DGRAM", "PACKET", "NETLINK"),
    }
)
"""Sockets that CRIU 4.2 saves, as the kernel calls their protocols."""

SAVED_ANONYMOUS: Final = frozenset(
    {
        *("anon_inode:[eventfd]", "anon_inode:[eventpoll]", "anon_inode:[signalfd]"),
        *("anon_inode:[timerfd]", "anon_inode:inotify", "anon_inode:[fanotify]"),
        *("anon_inode:[pidfd]", "anon_inode:bpf-map"),
    }
)

GHOST_LIMIT_BYTES: Final = 64 << 20
"""As the keeper tells CRIU: a larger deleted file does not go into an image."""

_NAMESPACE_WORDS: Final = {"mnt": "mount", "net": "network", "uts": "host name", "pid": "process"}


@dataclass(frozen=True, kw_only=True)
class Mount:
    """One mount as a container sees it."""

    file_system: str
    device: tuple[int, int]
    point: str


@dataclass(frozen=True, kw_only=True)
class Descriptor:
    """One open descriptor of a process."""

    number: int
    target: str
    """What the link in /proc/PID/fd says."""
    kind: str
    """``file``, ``directory``, ``pipe``, ``socket``, ``char``, ``block`` or ``anonymous``."""
    device: tuple[int, int] = (0, 0)
    """Of a device."""
    size_bytes: int = 0
    """What it takes on its file system: holes are not saved."""
    protocol: str = ""
    """Of a socket."""
    mount: int = 0
    """Id of the mount that it was opened on."""
    terminal: int | None = None
    """Which pseudo terminal a master belongs to."""
    watched: frozenset[tuple[int, int]] = frozenset()
    """Devices of the file systems that an inotify or fanotify descriptor watches."""


@dataclass(frozen=True, kw_only=True)
class ProcessFacts:
    """One process of the application."""

    pid: int
    """As the container knows it."""
    command: str
    other_namespaces: tuple[str, ...] = ()
    """Kinds of namespaces that are not the container's."""
    is_traced: bool = False
    capabilities: int = 0
    is_in_own_cgroup: bool = False
    descriptors: tuple[Descriptor, ...] = ()
    mappings: tuple[str, ...] = ()
    """What is mapped and is neither a file nor memory."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A segment of SysV shared memory that the application is attached to."""

    identity: int
    own: int
    total: int
    """Attachments of the application, and of everybody in the IPC namespace."""


@dataclass(frozen=True, kw_only=True)
class ContainerFacts:
    """One container of the pod."""

    name: str
    trouble: str = ""
    """Why nothing else is known."""
    processes: tuple[ProcessFacts, ...] = ()
    mounts: Mapping[int, Mount] = field(default_factory=dict)
    segments: tuple[Segment, ...] = ()
    sessions: tuple[str, ...] = ()
    """Commands of exec sessions."""
    strangers: tuple[tuple[str, int], ...] = ()
    """Commands and capabilities of processes that joined the container's pid namespace."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One fact about one container."""

    container: str
    reason: str
    """A stable CamelCase word."""
    message: str
    is_blocking: bool


def of_unmanaged(note: Unmanaged) -> Finding:
    """Return why the container of *note* is not managed."""
    return Finding(
        container=note.container, reason=note.reason, message=note.message, is_blocking=True
    )


def of_pod(
    containers: list[ContainerFacts],
    *,
    refused: Mapping[str, Any] | None,
    needed_bytes: int,
    free_bytes: int,
) -> list[Finding]:
    """Return what stands out in a pod: what keeps it from sleeping, and what its owner may wonder.

    *refused* is the last attempt's failure, *needed_bytes* the room for its images.
    """
    found = []
    if refused:
        found.append(_pod(refused["reason"], f"the last attempt failed: {refused['message']}"))
    if free_bytes < needed_bytes:
        found.append(
            _pod(
                "NoSpace",
                f"{free_bytes >> 20} MiB are free for images, {needed_bytes >> 20} MiB are needed",
            )
        )
    for container in containers:
        found += of_container(container)
    return found


def of_container(container: ContainerFacts) -> list[Finding]:
    """Return what stands out in *container*, each thing once per process."""
    found: list[Finding] = []

    def tell(reason: str, message: str, *, is_blocking: bool = True) -> None:
        finding = Finding(
            container=container.name, reason=reason, message=message, is_blocking=is_blocking
        )
        if finding not in found:
            found.append(finding)

    if container.trouble:
        tell("NotRunning", container.trouble)
    terminals = frozenset(
        one.terminal
        for process in container.processes
        for one in process.descriptors
        if one.terminal is not None
    )
    for process in container.processes:
        who = f"process {process.pid} ({process.command})"
        for reason, message in _of_process(process, container, terminals):
            tell(reason, f"{who} {message}")
        if process.is_in_own_cgroup:
            message = f"{who} is in a cgroup of its own; after a wake it is in the container's"
            tell("Cgroup", message, is_blocking=False)
    for segment in container.segments:
        if segment.total > segment.own:
            tell(
                "SharedSysV",
                f"shared memory segment {segment.identity} is attached {segment.total} times, "
                f"{segment.own} of them by the application",
            )
    for command, held in container.strangers:
        if refused := capabilities.refused_of_mask(held):
            message = f"{command!r} joined its processes and has {', '.join(refused)}"
            tell("Tracer", message)
    for command in container.sessions:
        message = f"exec session {command!r} is activity; it would go on beside the sleeping tree"
        tell("ExecSession", message, is_blocking=False)
    return found


def _of_process(
    process: ProcessFacts, container: ContainerFacts, terminals: frozenset[int]
) -> Iterator[tuple[str, str]]:
    if process.other_namespaces:
        kinds = [_NAMESPACE_WORDS.get(kind, kind) for kind in process.other_namespaces]
        yield "NestedNamespace", f"has a namespace of its own: {', '.join(kinds)}"
    if process.is_traced:
        yield "Traced", "is traced by a debugger"
    if refused := capabilities.refused_of_mask(process.capabilities):
        yield "Capability", f"holds what reaches CRIU: {capabilities.explained(refused)}"
    for name in process.mappings:
        if name == "/anon_hugepage" or name.startswith("/anon_hugepage "):
            yield "HugePages", "has memory from the node's pool of huge pages"
        elif "io_uring" in name:
            yield "IoUring", "has a ring of io_uring mapped"
        else:
            yield "Device", f"has {name} mapped"
    for descriptor in process.descriptors:
        yield from _of_descriptor(descriptor, container.mounts, terminals)


def _of_descriptor(
    found: Descriptor, mounts: Mapping[int, Mount], terminals: frozenset[int]
) -> Iterator[tuple[str, str]]:
    if found.kind == "socket":
        if found.protocol.startswith("MPTCP"):
            yield "Mptcp", "has an MPTCP socket; Go programs: GODEBUG=multipathtcp=0"
        elif found.protocol and found.protocol not in SAVED_PROTOCOLS:
            yield "Socket", f"has a socket of the kind {found.protocol}"
    elif found.kind == "char":
        if found.device[0] in TERMINALS:
            if not _is_whole_terminal(found, terminals):
                yield "Terminal", f"has a terminal open ({found.target})"
        elif found.device not in HARMLESS_DEVICES:
            yield "Device", f"has the device {found.target} open"
    elif found.kind == "block":
        yield "Device", f"has the device {found.target} open"
    elif found.target.startswith("anon_inode:"):
        yield from _of_anonymous(found, mounts)
    elif found.kind in ("file", "directory", "pipe") and found.target.startswith("/"):
        yield from _of_file(found, mounts)


def _is_whole_terminal(found: Descriptor, terminals: frozenset[int]) -> bool:
    """Whether the application has both ends, as a terminal multiplexer does: CRIU saves the pair.

    *terminals* are those of which it has the master.
    """
    major, minor = found.device
    if major in SLAVES:
        return (major - SLAVES.start) * 256 + minor in terminals
    return found.device == MASTER or (found.device == (5, 0) and bool(terminals))


def _of_anonymous(found: Descriptor, mounts: Mapping[int, Mount]) -> Iterator[tuple[str, str]]:
    if found.target == "anon_inode:[io_uring]":
        yield "IoUring", "has a ring of io_uring; RuntimeDefault's seccomp profile denies them"
    elif found.target not in SAVED_ANONYMOUS:
        name = found.target.removeprefix("anon_inode:").strip("[]")
        yield "Device", f"has a kind of file open that CRIU cannot save: {name}"
    for mount in mounts.values():
        if mount.file_system == "overlay" and mount.device in found.watched:
            yield "Inotify", f"watches files on {mount.point}, an overlay"
            return


def _of_file(found: Descriptor, mounts: Mapping[int, Mount]) -> Iterator[tuple[str, str]]:
    if found.target.startswith(("/memfd:", "/SYSV", "/dev/zero (deleted)", "/[aio]")):
        return  # memory by another name
    if found.mount not in mounts:
        yield "Mount", f"has {found.target} open (descriptor {found.number}) from outside"
    elif found.target.endswith(" (deleted)") and found.size_bytes > GHOST_LIMIT_BYTES:
        size = found.size_bytes >> 20
        yield "DeletedFile", f"has a deleted file of {size} MiB open: {found.target[:-10]}"


def _pod(reason: str, message: str) -> Finding:
    return Finding(container="pod", reason=reason, message=message, is_blocking=True)
