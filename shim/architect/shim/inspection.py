"""What in a running pod keeps CRIU from dumping it. Pure: :mod:`.keeper.survey` reads the facts.

Reasons are those of :mod:`.criu_errors` where CRIU would say the same thing. Each is one that CRIU
does refuse: a test makes it and has it tried. What CRIU saves is no finding, however odd it is. Not
seen here: conversations that are under way (a sleep waits for their end).

Names that a process can choose are texts of limited length without control characters: they end in
conditions and events.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from architect.core import capabilities
from architect.shim.records import Unmanaged

MEMORY_DEVICES: Final = 1
"""Major number of null, zero, urandom and their kind, which are opened again by their path:
Linux' admin-guide/devices.txt. CRIU knows tun as well, but with a network namespace only."""

MASTER: Final = (5, 2)
"""/dev/ptmx: the end of a pseudo terminal that a terminal's program holds."""
SLAVES: Final = range(136, 144)
"""Major numbers of the other end, 256 of them each."""
TERMINALS: Final = frozenset({4, 5, *SLAVES})
"""Those and consoles."""

SAVED_PROTOCOLS: Final = frozenset(
    {"TCP", "TCPv6", "UDP", "UDPv6", "UNIX", "UNIX-STREAM", "UNIX-DGRAM", "NETLINK"}
)
"""Sockets that are saved, as the kernel calls their protocols."""

UNHELD_PROTOCOLS: Final = frozenset(
    {"RAW", "RAWv6", "PACKET", "PING", "PINGv6", "UDP-Lite", "UDPLITEv6"}
)
"""CRIU could save most of them, but nobody holds their packets: :mod:`.packets.unheld`."""

SAVED_ANONYMOUS: Final = frozenset(
    {
        *("anon_inode:[eventfd]", "anon_inode:[eventpoll]", "anon_inode:[signalfd]"),
        *("anon_inode:[timerfd]", "anon_inode:inotify", "anon_inode:[fanotify]"),
        "anon_inode:[pidfd]",
    }
)
"""Our CRIU has no libbpf: maps of BPF are not among them."""

NAMELESS_FILE_SYSTEMS: Final = frozenset({"overlay", "proc", "devpts", "mqueue"})
"""What is watched there CRIU cannot name again: their files cannot be opened by a handle."""

IN_MEMORY: Final = frozenset({"tmpfs", "devtmpfs"})
"""File systems of which CRIU watches anew what has a name: no handle leads to a removed file."""

DELETED: Final = " (deleted)"
"""How the kernel marks the name of what has none any more."""

_MEMORY: Final = (
    "/memfd:",
    "/SYSV",
    "/dev/zero (deleted)",
    "/[aio]",
    "/anon_hugepage",
    "/secretmem",
)
"""How the kernel calls what is no file."""

ZOMBIE: Final = "Z"

HUGE_PAGE_BYTES: Final = 1 << 20
"""A file with larger blocks is memory from the pool of huge pages."""

GHOST_LIMIT_BYTES: Final = 64 << 20
"""As the keeper tells CRIU: a larger deleted file does not go into an image."""

REMOVED_LIMIT_BYTES: Final = 32 << 20
"""Of removed files on read-only mounts together: half of what engines give a container's /dev, in
which they are made again (:mod:`.keeper.ghosts`), and which may hold something else."""

SLOW_FILE_SYSTEMS: Final = (
    *("nfs", "cifs", "smb", "ceph", "fuse", "9p", "virtiofs"),
    *("afs", "lustre", "gfs2", "ocfs2", "orangefs", "beegfs", "gluster", "davfs"),
)
"""Their servers may be away: a file there is not asked for what it is."""

MAX_FINDINGS: Final = 16
"""Of one container: what is more is not told one by one."""
MAX_NAME: Final = 100
"""Characters of a name that somebody has chosen."""

HINTS: Final = {
    "NotRunning": "it is being created or restarted, or its init had to replace itself",
    "NestedNamespace": "put what makes its own sandbox (a browser) into a pod that stays awake",
    "Traced": "detach the debugger",
    "Capability": "drop the capability in the container's securityContext",
    "Tracer": "end the debug container or the session",
    "HugePages": "switch huge pages off in the application",
    "IoUring": "switch io_uring off in the application; RuntimeDefault's seccomp profile denies it",
    "Mptcp": "Go programs: GODEBUG=multipathtcp=0",
    "Socket": "switch off the feature that uses such sockets",
    "UnheldSocket": "close the socket when it is not used",
    "Pidfd": "close the descriptor of a process that is not the application's",
    "ExternalSocket": "have the application connect by TCP, or close the connection when it is "
    "idle",
    "Terminal": "run the container without tty",
    "Device": "run the part that uses the device in a pod of its own",
    "Inotify": "watch a volume instead, or switch the watching of files off",
    "Mount": "use files on the container's own mounts; a message queue (mq_open) has none",
    "Uninterruptible": "a disk that does not answer shows in the node's log",
    "Epoll": "take what is closed out of epoll before (EPOLL_CTL_DEL)",
    "MainThread": "keep the main thread as long as the process has others",
    "DeletedFile": "put large temporary files on a path that stays, or close them when idle; "
    "read files of ConfigMaps and their like whole, and close them",
    "SharedSysV": "only one container of a pod can have the segment",
    "NoSpace": "free space for /var/lib/architect",
}
"""What would have to change, for each reason."""

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
    inode: int = 0
    waits_for_closed: bool = False
    """Of epoll: something that it waits for is not among its process's descriptors any more."""
    mount: int = 0
    """Id of the mount that it was opened on."""
    terminal: int | None = None
    """Which pseudo terminal a master belongs to."""
    process: int | None = None
    """Of a pidfd: the process that it is for, as the host knows it; -1: it has ended."""
    block_bytes: int = 0
    watched: frozenset[tuple[int, int]] = frozenset()
    """Devices of the file systems on which it watches files (inotify, fanotify) without a path."""
    watched_files: frozenset[tuple[tuple[int, int], int]] = frozenset()
    """All that it watches: device and inode."""


@dataclass(frozen=True, kw_only=True)
class ProcessFacts:
    """One process of the application."""

    pid: int
    """As the container knows it."""
    command: str
    host_pid: int = 0
    state: str = "S"
    """One letter, as in proc_pid_stat(5)."""
    threads: int = 1
    is_uninterruptible: bool = False
    """A thread of it waits in the kernel, and has for longer than a disk takes."""
    other_namespaces: tuple[str, ...] = ()
    """Kinds of namespaces that are not the container's."""
    is_traced: bool = False
    capabilities: int = 0
    is_in_own_cgroup: bool = False
    descriptors: tuple[Descriptor, ...] = ()
    mappings: tuple[str, ...] = ()
    """What is mapped and is neither a file nor memory."""
    deleted: tuple[tuple[str, int], ...] = ()
    """Deleted files that are mapped, and what each takes on its file system."""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Who is at the other end of a UNIX socket."""

    inode: int
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A segment of SysV shared memory that the application is attached to."""

    identity: int
    own: int
    total: int
    """Attachments of the application, and of everybody in the IPC namespace."""


@dataclass(frozen=True, kw_only=True)
class Removed:
    """What was removed from a read-only mount while the application has it open or mapped."""

    path: str
    size_bytes: int | None
    """What it takes on its file system; None: that is not asked."""


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
    sockets: frozenset[int] = frozenset()
    """Inodes of the application's sockets beside those among its descriptors: they came since."""
    foreign_sockets: frozenset[int] = frozenset()
    """Inodes of the application's UNIX sockets that belong to another network namespace."""
    peers: Mapping[int, Peer] = field(default_factory=dict)
    """By the inode of the application's own UNIX socket."""
    removed: tuple[Removed, ...] = ()
    removed_room_bytes: int = 0
    """How much of them fits where they would be made again."""
    is_partial: bool = False
    """There is more than was looked at."""


class About(enum.StrEnum):
    """What a finding is about: that tells for how long it holds."""

    PROCESSES = "processes"
    """As long as the application is as it is."""
    CONTAINER = "container"
    """It is about to begin, or has ended."""
    POD = "pod"
    """What happened to it, and its node's disk."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One fact about one container."""

    container: str
    reason: str
    """A stable CamelCase word."""
    message: str
    """Which process has what."""
    hint: str = ""
    """What would have to change."""
    is_blocking: bool = True
    about: About = About.PROCESSES

    @property
    def text(self) -> str:
        """What it is and what would have to change, for people."""
        return f"{self.reason}: {self.message}" + (f" (hint: {self.hint})" if self.hint else "")


def of_unmanaged(note: Unmanaged) -> Finding:
    """Return why the container of *note* is not managed."""
    return Finding(
        container=note.container, reason=note.reason, message=note.message, about=About.CONTAINER
    )


def of_pod(
    *, refused: Mapping[str, Any] | None, needed_bytes: int, free_bytes: int
) -> list[Finding]:
    """Return what keeps a pod from sleeping beside its processes.

    *refused* is the last attempt's failure, *needed_bytes* the room for its images.
    """
    found = []
    if refused:
        message = f"the last attempt failed: {refused['message']}"
        found.append(_pod(refused["reason"], message, refused["hint"]))
    if free_bytes < needed_bytes:
        message = f"{free_bytes >> 20} MiB are free for images, {needed_bytes >> 20} MiB are needed"
        found.append(_pod("NoSpace", message, HINTS["NoSpace"]))
    return found


def of_container(container: ContainerFacts) -> list[Finding]:
    """Return what stands out in *container*, each thing once per process."""
    found: list[Finding] = []
    for one in _of_container(container):
        if one not in found:
            found.append(one)
        if len(found) == MAX_FINDINGS:
            break
    return found


def _of_container(container: ContainerFacts) -> Iterator[Finding]:
    def told(
        reason: str, message: str, *, is_blocking: bool = True, about: About = About.PROCESSES
    ) -> Finding:
        return Finding(
            container=container.name,
            reason=reason,
            message=message,
            hint=HINTS[reason] if is_blocking else "",
            is_blocking=is_blocking,
            about=about,
        )

    if container.trouble:
        yield told("NotRunning", container.trouble, about=About.CONTAINER)
    known = _Known.of(container)
    for process in container.processes:
        who = f"process {process.pid} ({shown(process.command)})"
        for reason, message in _of_process(process, known):
            yield told(reason, f"{who} {message}")
    for segment in container.segments:
        if segment.total > segment.own:
            message = (
                f"shared memory segment {segment.identity} is attached {segment.total} times, "
                f"{segment.own} of them by the application"
            )
            yield told("SharedSysV", message)
    if why := of_removed(container.removed, room_bytes=container.removed_room_bytes):
        yield told("DeletedFile", why)
    for command, held in container.strangers:
        if refused := capabilities.refused_of_mask(held):
            message = f"{shown(command)!r} joined its processes and has {', '.join(refused)}"
            yield told("Tracer", message)
    for process in container.processes:
        if process.is_in_own_cgroup and process.state != ZOMBIE:
            message = (
                f"process {process.pid} ({shown(process.command)}) is in a cgroup of its own; "
                "after a wake it is in the container's"
            )
            yield told("Cgroup", message, is_blocking=False)
    for command in container.sessions:
        message = (
            f"exec session {shown(command)!r} is activity; it would go on beside the sleeping tree"
        )
        yield told("ExecSession", message, is_blocking=False)
    if container.is_partial:
        yield told("Partial", "there is more than was looked at", is_blocking=False)


def of_removed(found: Sequence[Removed], *, room_bytes: int) -> str:
    """Return why files that were removed from read-only mounts cannot be made again; empty: can."""
    room_bytes = min(room_bytes, REMOVED_LIMIT_BYTES)
    whole = 0
    for one in sorted(found, key=lambda one: one.size_bytes or 0, reverse=True):
        if one.size_bytes is None:
            return f"a removed file is open on a mount that may not answer: {shown(one.path)}"
        whole += one.size_bytes
    if not found or 0 < room_bytes >= whole:
        return ""
    largest = max(found, key=lambda one: one.size_bytes or 0)
    return (
        f"removed files of {whole / (1 << 20):.1f} MiB are open on read-only mounts, and "
        f"{room_bytes / (1 << 20):.1f} MiB fit into /dev, where they would be made again: "
        f"{shown(largest.path)}"
    )


def shown(text: str) -> str:
    """Return *text*, which somebody else has chosen, as it can be shown: no control characters."""
    clean = "".join(c if c.isprintable() else "?" for c in text[: MAX_NAME + 1])
    return clean if len(clean) <= MAX_NAME else clean[: MAX_NAME - 1] + "…"


@dataclass(frozen=True, kw_only=True)
class _Known:
    """What all processes of a container have together."""

    mounts: Mapping[int, Mount]
    terminals: frozenset[int]
    """Pseudo terminals of which they have the master."""
    sockets: frozenset[int]
    """Their own, by inode."""
    pids: frozenset[int]
    """Their own, as the host knows them."""
    foreign_sockets: frozenset[int]
    peers: Mapping[int, Peer]
    watched_files: frozenset[tuple[tuple[int, int], int]]
    """What any of them watches: device and inode."""

    @classmethod
    def of(cls, container: ContainerFacts) -> _Known:
        descriptors = [one for process in container.processes for one in process.descriptors]
        return cls(
            mounts=container.mounts,
            terminals=frozenset(one.terminal for one in descriptors if one.terminal is not None),
            sockets=container.sockets | {d.inode for d in descriptors if d.kind == "socket"},
            pids=frozenset(process.host_pid for process in container.processes),
            foreign_sockets=container.foreign_sockets,
            peers=container.peers,
            watched_files=frozenset(each for one in descriptors for each in one.watched_files),
        )


def _of_process(process: ProcessFacts, known: _Known) -> Iterator[tuple[str, str]]:
    if process.state == ZOMBIE and process.threads == 1:
        return  # it holds nothing any more; one that was restored has CRIU's capabilities
    if process.other_namespaces:
        kinds = [_NAMESPACE_WORDS.get(kind, kind) for kind in process.other_namespaces]
        yield "NestedNamespace", f"has a namespace of its own: {', '.join(kinds)}"
    if process.is_traced:
        yield "Traced", "is traced by a debugger"
    if process.is_uninterruptible:
        yield "Uninterruptible", "waits in the kernel, for a disk or for a child made by vfork"
    if process.state == ZOMBIE and process.threads > 1:
        yield "MainThread", "goes on without its main thread, which has ended"
    if refused := capabilities.refused_of_mask(process.capabilities):
        yield "Capability", f"holds what reaches CRIU: {capabilities.explained(refused)}"
    for name in process.mappings:
        if name == "/anon_hugepage" or name.startswith("/anon_hugepage "):
            yield "HugePages", "has memory from the node's pool of huge pages"
        elif "io_uring" in name:
            yield "IoUring", "has a ring of io_uring mapped"
        else:
            yield "Device", f"has {shown(name)} mapped"
    for name, size in process.deleted:
        if is_file(name) and size > GHOST_LIMIT_BYTES:
            yield "DeletedFile", _deleted(name, size, "mapped")
    for descriptor in process.descriptors:
        yield from _of_descriptor(descriptor, known)
        if descriptor.waits_for_closed:
            yield "Epoll", "waits by epoll for what it has closed and another process has open"


def _of_descriptor(found: Descriptor, known: _Known) -> Iterator[tuple[str, str]]:
    if found.kind == "socket":
        yield from _of_socket(found, known)
    elif found.kind == "char":
        if found.device[0] in TERMINALS:
            if not _is_whole_terminal(found, known):
                yield "Terminal", f"has a terminal open ({shown(found.target)})"
        elif found.device[0] == MEMORY_DEVICES:
            yield from _of_file(found, known.mounts)
        else:
            yield "Device", f"has the device {shown(found.target)} open"
    elif found.kind == "block":
        yield "Device", f"has the device {shown(found.target)} open"
    elif found.target.startswith("anon_inode:"):
        yield from _of_anonymous(found, known)
    elif found.kind in ("file", "directory", "pipe") and found.target.startswith("/"):
        yield from _of_file(found, known.mounts)
        yield from _of_watched_file(found, known)


def _of_socket(found: Descriptor, known: _Known) -> Iterator[tuple[str, str]]:
    if found.protocol.startswith("MPTCP"):
        yield "Mptcp", "has an MPTCP socket"
    elif found.protocol in UNHELD_PROTOCOLS:
        yield "UnheldSocket", f"has a socket whose packets cannot wait ({found.protocol})"
    elif found.protocol and found.protocol not in SAVED_PROTOCOLS:
        yield "Socket", f"has a socket of the kind {shown(found.protocol)}"
    elif found.inode in known.foreign_sockets:
        yield "ExternalSocket", "has a UNIX socket that was made outside of the pod"
    elif (peer := known.peers.get(found.inode)) and peer.inode not in known.sockets:
        where = f" ({shown(peer.name)})" if peer.name else ""
        yield "ExternalSocket", f"has a UNIX socket connected to somebody outside{where}"


def _is_whole_terminal(found: Descriptor, known: _Known) -> bool:
    """Whether the application has both ends, as a terminal multiplexer does: CRIU saves the pair.

    Of one that was hung up, as its master is closed, CRIU saves that.
    """
    if found.mount not in known.mounts:
        return False
    major, minor = found.device
    if major in SLAVES:
        is_hung_up = found.target.endswith(DELETED)
        return is_hung_up or (major - SLAVES.start) * 256 + minor in known.terminals
    return found.device == MASTER or (found.device == (5, 0) and bool(known.terminals))


def _of_anonymous(found: Descriptor, known: _Known) -> Iterator[tuple[str, str]]:
    if found.target == "anon_inode:[io_uring]":
        yield "IoUring", "has a ring of io_uring"
    elif found.target not in SAVED_ANONYMOUS:
        name = found.target.removeprefix("anon_inode:").strip("[]")
        yield "Device", f"has a kind of file open that CRIU cannot save: {shown(name)}"
    if found.process is not None and found.process > 0 and found.process not in known.pids:
        yield "Pidfd", "has a descriptor of a process outside of the application"
    for mount in known.mounts.values():
        if mount.file_system in NAMELESS_FILE_SYSTEMS and mount.device in found.watched:
            lost = ", by no path" if mount.file_system == "overlay" else ""
            where = f"{shown(mount.point)} ({mount.file_system})"
            yield "Inotify", f"watches files on {where}{lost}"
            return


def _of_file(found: Descriptor, mounts: Mapping[int, Mount]) -> Iterator[tuple[str, str]]:
    name = shown(found.target)
    if found.block_bytes > HUGE_PAGE_BYTES:
        yield "HugePages", f"has a file of the node's pool of huge pages open: {name}"
        return
    if found.target.startswith("/secretmem"):
        yield "Device", "has secret memory (memfd_secret)"
        return
    if not is_file(found.target):
        return
    if found.mount not in mounts:
        where = f"{name} (descriptor {found.number})"
        yield "Mount", f"has {where} open, which lies on no mount of the container"
    elif found.target.endswith(DELETED) and found.size_bytes > GHOST_LIMIT_BYTES:
        yield "DeletedFile", _deleted(found.target, found.size_bytes, "open")


def _of_watched_file(found: Descriptor, known: _Known) -> Iterator[tuple[str, str]]:
    mount = known.mounts.get(found.mount)
    if mount is None or mount.file_system not in IN_MEMORY or not found.target.endswith(DELETED):
        return
    if (mount.device, found.inode) in known.watched_files:
        name = shown(found.target.removesuffix(DELETED))
        yield "Inotify", f"has {name} open and watches it, which was removed and is in memory"


def is_file(target: str) -> bool:
    """Whether what is open or mapped by this name is not memory by another one."""
    return not target.startswith(_MEMORY)


def _deleted(target: str, size: int, how: str) -> str:
    name = shown(target.removesuffix(DELETED))
    return f"has a deleted file of {size >> 20} MiB {how}: {name}"


def _pod(reason: str, message: str, hint: str) -> Finding:
    return Finding(container="pod", reason=reason, message=message, hint=hint, about=About.POD)
