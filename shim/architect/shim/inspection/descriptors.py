"""What of a process's open descriptors has no place in an image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from architect.shim.inspection import files
from architect.shim.inspection.facts import ContainerFacts, Descriptor, Mount, Peer
from architect.shim.inspection.files import DELETED
from architect.shim.inspection.findings import shown

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
"""CRIU could save most of them, but nobody holds their packets
(:mod:`architect.shim.packets.unheld`)."""

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

HUGE_PAGE_BYTES: Final = 1 << 20
"""A file with larger blocks is memory from the pool of huge pages."""


@dataclass(frozen=True, kw_only=True)
class Known:
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
    def of(cls, container: ContainerFacts) -> Known:
        """Gather it from what is known of *container*."""
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


def of_descriptor(found: Descriptor, known: Known) -> Iterator[tuple[str, str]]:
    """Say of one descriptor why it cannot be saved: reasons, and what its process has."""
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


def _of_socket(found: Descriptor, known: Known) -> Iterator[tuple[str, str]]:
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


def _is_whole_terminal(found: Descriptor, known: Known) -> bool:
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


def _of_anonymous(found: Descriptor, known: Known) -> Iterator[tuple[str, str]]:
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
    if not files.is_file(found.target):
        return
    if found.mount not in mounts:
        where = f"{name} (descriptor {found.number})"
        yield "Mount", f"has {where} open, which lies on no mount of the container"
    elif found.target.endswith(DELETED) and found.size_bytes > files.GHOST_LIMIT_BYTES:
        yield "DeletedFile", files.of_deleted(found.target, found.size_bytes, "open")


def _of_watched_file(found: Descriptor, known: Known) -> Iterator[tuple[str, str]]:
    mount = known.mounts.get(found.mount)
    if mount is None or mount.file_system not in IN_MEMORY or not found.target.endswith(DELETED):
        return
    if (mount.device, found.inode) in known.watched_files:
        name = shown(found.target.removesuffix(DELETED))
        yield "Inotify", f"has {name} open and watches it, which was removed and is in memory"
