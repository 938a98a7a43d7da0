"""What is known of a container's processes (:mod:`architect.shim.keeper.survey` reads it)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

ZOMBIE: Final = "Z"


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
