"""What /proc and the kernel say about a running pod's processes; nothing is decided here.

Processes come and go meanwhile: whatever has ended is left out. :mod:`architect.shim.inspection`
says what the facts mean. It is called in a process of its own (:mod:`.inspector`): it reads for
long, and may meet a file system that does not answer. How much is read has limits, and nothing that
a process can write is taken for more than a text.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from architect.api.policy import Policy, PolicyError
from architect.core.errors import ArchitectError, FormatError, NodeError, Rejected
from architect.shim import procfs, records
from architect.shim.inspection.facts import (
    ContainerFacts,
    Descriptor,
    Mount,
    Peer,
    ProcessFacts,
    Segment,
)
from architect.shim.inspection.files import SLOW_FILE_SYSTEMS
from architect.shim.keeper import epolls, ghosts, processes, sysvshm, tracers, watches
from architect.shim.keeper.container import Container
from architect.shim.packets import unixdiag
from architect.shim.packets.netns import Netns
from architect.shim.records import Record

NAMESPACES: Final = ("mnt", "pid", "user", "net", "ipc", "uts", "cgroup")
"""Not ``time``: CRIU puts what it restores into a new one, and dumps it again."""

MAX_PROCESSES: Final = 4096
MAX_THREADS: Final = 1 << 14
MAX_DESCRIPTORS: Final = 1 << 16
"""Of one container. What is beyond is not looked at, and that is told."""
MAX_MAPPINGS: Final = 1 << 18
"""Of one process: four times what the kernel allows unless it is told otherwise."""
MAX_TEXT: Final = 1 << 20
"""Of a file in fdinfo: inotify and epoll descriptors say everything that they wait for."""

UNINTERRUPTIBLE_SECONDS: Final = 0.2
"""What a disk answers within."""

_KINDS: Final = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
}


class Budget:
    """How much more of a container is looked at."""

    def __init__(self) -> None:
        self.processes = MAX_PROCESSES
        self.descriptors = MAX_DESCRIPTORS

    @property
    def is_spent(self) -> bool:
        """Whether something is left out."""
        return self.processes < 0 or self.descriptors < 0


def of_pod(uid: str) -> list[ContainerFacts]:
    """Return the facts of each managed container of the pod *uid*. Raises Rejected if none is."""
    members = [record for record in _records() if record.pod == uid]
    if not members:
        raise Rejected(f"no managed pod {uid!r:.80} on this node", reason="UnknownPod")
    return [_of_record(record) for record in members]


def _records() -> Iterator[Record]:
    for identity in records.identities():
        with contextlib.suppress(FileNotFoundError):  # removed in between
            yield records.read(identity)


def _of_record(record: Record) -> ContainerFacts:
    try:
        policy = Policy.from_dict(record.policy, is_followed=True)
        rule = policy.containers[record.container]
    except (PolicyError, KeyError) as error:
        raise FormatError(f"record of container {record.id:.12}: {error}") from error
    return of_container(Container(record, rule))


def of_container(container: Container) -> ContainerFacts:
    """Return the facts of *container*."""
    init = container.find_init()
    if init is None:
        return ContainerFacts(name=container.name, trouble="it has no living init")
    try:
        tree = container.tree()
    except ArchitectError as error:
        # Init could not stay above the application, which is PID 1 itself then.
        return ContainerFacts(name=container.name, trouble=str(error))
    if not tree:
        return ContainerFacts(name=container.name, trouble="it runs no application now")
    try:
        return _of_tree(container, init.pid, tree)
    except (OSError, NodeError):
        # Whatever of it is asked about then, each has its own error: EINVAL of the mounts, EACCES
        # of a namespace, none of them FileNotFoundError.
        if not procfs.is_ending(init.pid):
            raise
        return ContainerFacts(name=container.name, trouble="it has ended meanwhile")


def _of_tree(container: Container, init: int, tree: list[int]) -> ContainerFacts:
    budget, known = Budget(), mounts(init)
    found = []
    for pid in tree:
        budget.processes -= 1
        if budget.processes < 0:
            break
        if (facts := of_process(pid, init=init, mounts=known, budget=budget)) is not None:
            found.append(facts)
    sessions = container.exec_sessions()
    sockets = _unix_sockets(init, tree, found)
    # Where a watched file has a path, CRIU is told: of overlays, only the others stand out.
    wanted = watches.on_overlays(init, tree)
    lost = {one.device for one in wanted - watches.find_all(init, wanted).keys()}
    found = [_with_watches(facts, known, lost) for facts in found]
    return ContainerFacts(
        name=container.name,
        processes=tuple(found),
        mounts=known,
        segments=_segments(init, tree),
        sessions=tuple(processes.command(pid) for pid in sessions),
        strangers=tuple(_strangers(init, {init, *tree, *sessions})),
        peers=sockets.peers,
        foreign_sockets=sockets.foreign,
        sockets=sockets.since,
        removed=ghosts.find_all(init, tree),
        removed_room_bytes=ghosts.room(init),
        is_partial=budget.is_spent,
    )


def _with_watches(facts: ProcessFacts, mounts: Mapping[int, Mount], lost: set[int]) -> ProcessFacts:
    overlays = {each.device for each in mounts.values() if each.file_system == "overlay"}
    lost_there = {(os.major(device), os.minor(device)) for device in lost}
    told = overlays - lost_there
    kept = (replace(each, watched=each.watched - told) for each in facts.descriptors)
    return replace(facts, descriptors=tuple(kept))


def of_process(
    pid: int, *, init: int, mounts: Mapping[int, Mount], budget: Budget
) -> ProcessFacts | None:
    """Return the facts of process *pid* of the container of *init*; None if it has ended."""
    base = Path(f"/proc/{pid}")
    try:
        status = procfs.status(pid)
        special, deleted = _mappings(base)
        return ProcessFacts(
            pid=int(status["NSpid"].split()[-1]),
            host_pid=pid,
            command=status["Name"],
            state=status["State"][:1],
            threads=int(status.get("Threads", "1")),
            is_uninterruptible=_is_uninterruptible(pid),
            other_namespaces=tuple(_other_namespaces(pid, init)),
            is_traced=status["TracerPid"] != "0",
            capabilities=tracers.held(pid),
            is_in_own_cgroup=_cgroup(pid) != _cgroup(init),
            descriptors=tuple(_descriptors(base, mounts, budget)),
            mappings=special,
            deleted=deleted,
        )
    except (OSError, KeyError, ValueError):
        return None


def _is_uninterruptible(pid: int) -> bool:
    """Whether a thread of *pid* is in state D now, and still is after a while."""
    waiting = _uninterruptible(pid)
    if not waiting:
        return False
    time.sleep(UNINTERRUPTIBLE_SECONDS)
    return bool(waiting & _uninterruptible(pid))


def _uninterruptible(pid: int) -> set[str]:
    found = set()
    for thread in itertools.islice(os.listdir(f"/proc/{pid}/task"), MAX_THREADS):
        with contextlib.suppress(OSError):
            with open(f"/proc/{pid}/task/{thread}/stat", "rb") as file:
                text = file.read(MAX_TEXT)
            # Its command is in parentheses and may hold anything.
            if text[text.rindex(b")") + 2 :].startswith(b"D"):
                found.add(thread)
    return found


def mounts(pid: int) -> dict[int, Mount]:
    """Return the mounts that *pid* sees by their id (proc_pid_mountinfo(5))."""
    found = {}
    for line in procfs.lines(f"/proc/{pid}/mountinfo"):
        before, _, after = line.partition(" - ")
        fields = before.split()
        major, minor = map(int, fields[2].split(":"))
        found[int(fields[0])] = Mount(
            file_system=after.split()[0],
            device=(major, minor),
            point=fields[4],
        )
    return found


def _other_namespaces(pid: int, init: int) -> Iterator[str]:
    for name in NAMESPACES:
        try:
            if os.readlink(f"/proc/{pid}/ns/{name}") != os.readlink(f"/proc/{init}/ns/{name}"):
                yield name
        except FileNotFoundError:
            continue  # a kernel without this kind, or a zombie


def _cgroup(pid: int) -> str:
    return Path(f"/proc/{pid}/cgroup").read_text(errors="replace")


def _descriptors(base: Path, mounts: Mapping[int, Mount], budget: Budget) -> Iterator[Descriptor]:
    for entry in os.scandir(base / "fd"):
        budget.descriptors -= 1
        if budget.descriptors < 0:
            return
        try:
            found = _descriptor(base, entry.name, mounts)
        except (OSError, ValueError):
            continue  # closed in between
        yield found


def _descriptor(base: Path, name: str, mounts: Mapping[int, Mount]) -> Descriptor:
    path = f"{base}/fd/{name}"
    target = os.readlink(path)
    if target.startswith("socket:["):
        return Descriptor(
            number=int(name),
            target=target,
            kind="socket",
            inode=int(target[8:-1]),
            protocol=_protocol(path),
        )
    if target.startswith("pipe:["):
        return Descriptor(number=int(name), target=target, kind="pipe", inode=int(target[6:-1]))
    with open(f"{base}/fdinfo/{name}", encoding="ascii", errors="replace") as file:
        text = file.read(MAX_TEXT)
    lines = text.split("\n")[:-1]  # behind the last one is nothing, or a part of a line
    words = [line.split() for line in lines]
    mount = next((int(w[1]) for w in words if w[:1] == ["mnt_id:"]), 0)
    kind, device, size, block, inode = "file", (0, 0), 0, 0, 0
    if not _is_slow(mounts.get(mount)):
        found = os.stat(path)
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "anonymous")
        device = (os.major(found.st_rdev), os.minor(found.st_rdev))
        size, block, inode = found.st_blocks * 512, found.st_blksize, found.st_ino
    return Descriptor(
        number=int(name),
        target=target,
        kind=kind,
        device=device,
        size_bytes=size,
        block_bytes=block,
        inode=inode,
        waits_for_closed=any(
            epolls.is_closed(base, epoll=int(name), target=target)
            for target in epolls.targets(words)
        ),
        mount=mount,
        process=next((int(w[1]) for w in words if w[:1] == ["Pid:"]), None),
        terminal=next((int(w[1]) for w in words if w[:1] == ["tty-index:"]), None),
        watched=frozenset(
            _device(word.removeprefix("sdev:"))
            for w in words
            if w[:1] in (["inotify"], ["fanotify"])
            for word in w
            if word.startswith("sdev:")
        ),
        watched_files=frozenset(
            ((os.major(one.device), os.minor(one.device)), one.number)
            for one in (watches.parse("\n".join(lines)) if "notify" in target else ())
        ),
    )


def _is_slow(mount: Mount | None) -> bool:
    return mount is not None and mount.file_system.startswith(SLOW_FILE_SYSTEMS)


def _protocol(path: str) -> str:
    """Return the kernel's name of a socket's protocol: sockfs_xattr_get() in net/socket.c."""
    try:
        return os.getxattr(path, "system.sockprotoname").rstrip(b"\0").decode(errors="replace")
    except OSError:
        return ""


def _device(text: str) -> tuple[int, int]:
    """Return what the kernel's own encoding of a device means: MKDEV() in linux/kdev_t.h."""
    value = int(text, 16)
    return value >> 20, value & 0xFFFFF


def _mappings(base: Path) -> tuple[tuple[str, ...], tuple[tuple[str, int], ...]]:
    """Return what is mapped and is neither a file nor memory, and deleted files with their sizes.

    Most of thousands of lines are neither, and looked at for no more than that.
    """
    special: dict[str, None] = {}
    deleted: dict[str, int] = {}
    with open(base / "maps", "rb") as file:
        for line in itertools.islice(file, MAX_MAPPINGS):
            is_deleted = line.endswith(b" (deleted)\n")
            if not is_deleted and b"anon_inode:" not in line and b" /dev/" not in line:
                continue
            fields = line.decode(errors="replace").split(None, 5)
            if len(fields) < 6:
                continue
            name = fields[5].rstrip("\n")
            is_memory = name.startswith(("anon_inode:", "/anon_hugepage", "/secretmem"))
            if is_memory or (
                not is_deleted and name.startswith("/dev/") and _is_device(base, name)
            ):
                special[name] = None
            elif is_deleted and name not in deleted:
                deleted[name] = _mapped_bytes(base, fields[0])
    return tuple(special), tuple(deleted.items())


def _is_device(base: Path, name: str) -> bool:
    try:
        mode = os.stat(f"{base}/root{name}").st_mode
    except OSError:
        return False
    return stat.S_ISCHR(mode) and name != "/dev/zero"


def _mapped_bytes(base: Path, addresses: str) -> int:
    """Return what the file mapped at *addresses* takes on its file system."""
    try:
        return os.stat(f"{base}/map_files/{addresses}").st_blocks * 512
    except OSError:
        return 0


@dataclass(frozen=True, kw_only=True)
class _UnixSockets:
    peers: dict[int, Peer]
    foreign: frozenset[int]
    since: frozenset[int]
    """Sockets that the application has now, whether or not it had them when it was read."""


def _unix_sockets(init: int, tree: list[int], found: list[ProcessFacts]) -> _UnixSockets:
    """Ask the kernel for the UNIX sockets among what was *found*.

    Connections come and go meanwhile: only what was there before the kernel was asked, and still
    is, stands for itself.
    """
    own = {
        each.inode
        for process in found
        for each in process.descriptors
        if each.protocol.startswith("UNIX")
    }
    if not own:
        return _UnixSockets(peers={}, foreign=frozenset(), since=frozenset())
    with Netns.of_process(init) as netns:
        sockets = unixdiag.sockets(netns)
    now = processes.socket_inodes(tree)
    lasting = own & now
    peers = {}
    for inode in lasting & sockets.keys():
        if peer := sockets[inode].peer:
            peers[inode] = Peer(inode=peer, name=sockets[peer].name if peer in sockets else "")
    foreign = lasting - sockets.keys() if sockets else ()  # a kernel that does not tell
    return _UnixSockets(peers=peers, foreign=frozenset(foreign), since=frozenset(now))


def _segments(init: int, tree: list[int]) -> tuple[Segment, ...]:
    own = sysvshm.attached(tree)
    total = sysvshm.attachments(init) if own else {}
    return tuple(
        Segment(identity=identity, own=count, total=total.get(identity, count))
        for identity, count in sorted(own.items())
    )


def _strangers(init: int, known: set[int]) -> Iterator[tuple[str, int]]:
    """Yield command and capabilities of what is in the container's pid namespace from outside."""
    space = os.readlink(f"/proc/{init}/ns/pid")
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) in known:
            continue
        try:
            if os.readlink(f"/proc/{name}/ns/pid") != space:
                continue
        except OSError:
            continue  # it has ended
        if not _is_below(int(name), known):
            yield processes.command(int(name)), tracers.held(int(name))


def _is_below(pid: int, known: set[int]) -> bool:
    """Whether an exec session or the tree has *pid* as a descendant."""
    while pid > 1:
        if pid in known:
            return True
        pid = processes.parent(pid) or 0
    return False
