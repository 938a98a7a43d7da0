"""What /proc and the kernel say about a living container's processes; nothing is decided here.

Processes come and go meanwhile: whatever has ended is left out. :mod:`architect.shim.inspection`
says what the facts mean.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from architect.core.errors import ArchitectError
from architect.shim.inspection import ContainerFacts, Descriptor, Mount, ProcessFacts, Segment
from architect.shim.keeper import processes, sysvshm, tracers
from architect.shim.keeper.container import Container
from architect.shim.keeper.loop import Loop, Task

NAMESPACES: Final = ("mnt", "pid", "user", "net", "ipc", "uts", "cgroup")
"""Not ``time``: CRIU puts what it restores into a new one, and dumps it again."""

_KINDS: Final = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
}


def of_container(container: Container, loop: Loop) -> Task[ContainerFacts]:
    """Return the facts of *container*; other tasks run between two processes."""
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
    found: list[ProcessFacts] = []
    for pid in tree:
        if (facts := of_process(pid, init=init.pid)) is not None:
            found.append(facts)
        yield loop.sleep(0)
    return ContainerFacts(
        name=container.name,
        processes=tuple(found),
        mounts=mounts(init.pid),
        segments=_segments(init.pid, tree),
        sessions=tuple(processes.command(pid) for pid in container.exec_sessions()),
        strangers=tuple(_strangers(init.pid, {init.pid, *tree, *container.exec_sessions()})),
    )


def of_process(pid: int, *, init: int) -> ProcessFacts | None:
    """Return the facts of process *pid* of the container of *init*; None if it has ended."""
    base = Path(f"/proc/{pid}")
    try:
        status = dict(
            line.split(":\t", 1)
            for line in (base / "status").read_text().splitlines()
            if ":\t" in line
        )
        return ProcessFacts(
            pid=int(status["NSpid"].split()[-1]),
            command=status["Name"],
            other_namespaces=tuple(_other_namespaces(pid, init)),
            is_traced=status["TracerPid"].strip() != "0",
            capabilities=tracers.held(pid),
            is_in_own_cgroup=_cgroup(pid) != _cgroup(init),
            descriptors=tuple(_descriptors(base)),
            mappings=tuple(_mappings(base)),
        )
    except (OSError, KeyError):
        return None


def mounts(pid: int) -> dict[int, Mount]:
    """Return the mounts that *pid* sees by their id (proc_pid_mountinfo(5))."""
    found = {}
    for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        major, minor = map(int, fields[2].split(":"))
        found[int(fields[0])] = Mount(
            file_system=after.split()[0], device=(major, minor), point=fields[4]
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
    return Path(f"/proc/{pid}/cgroup").read_text()


def _descriptors(base: Path) -> Iterator[Descriptor]:
    for name in sorted(os.listdir(base / "fd"), key=int):
        path = base / "fd" / name
        try:
            target = os.readlink(path)
            found = path.stat()
            info = (base / "fdinfo" / name).read_text().splitlines()
        except OSError:
            continue  # closed in between
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "anonymous")
        words = [line.split() for line in info]
        yield Descriptor(
            number=int(name),
            target=target,
            kind=kind,
            device=(os.major(found.st_rdev), os.minor(found.st_rdev)),
            size_bytes=found.st_blocks * 512,
            protocol=_protocol(path) if kind == "socket" else "",
            mount=next((int(w[1]) for w in words if w[0] == "mnt_id:"), 0),
            terminal=next((int(w[1]) for w in words if w[0] == "tty-index:"), None),
            watched=frozenset(
                _device(word.removeprefix("sdev:"))
                for w in words
                if w[0] in ("inotify", "fanotify")
                for word in w
                if word.startswith("sdev:")
            ),
        )


def _protocol(path: Path) -> str:
    """Return the kernel's name of a socket's protocol: sockfs_xattr_get() in net/socket.c."""
    try:
        return os.getxattr(path, "system.sockprotoname").rstrip(b"\0").decode(errors="replace")
    except OSError:
        return ""


def _device(text: str) -> tuple[int, int]:
    """Return what the kernel's own encoding of a device means: MKDEV() in linux/kdev_t.h."""
    value = int(text, 16)
    return value >> 20, value & 0xFFFFF


def _mappings(base: Path) -> Iterator[str]:
    """Yield what is mapped and is neither an ordinary file nor memory of its own."""
    seen = set()
    for line in (base / "maps").read_text(errors="replace").splitlines():
        fields = line.split(None, 5)
        if len(fields) < 6 or fields[5] in seen:
            continue
        seen.add(fields[5])
        name = fields[5]
        is_special = name.startswith(("anon_inode:", "/anon_hugepage"))
        if is_special or (name.startswith("/dev/") and _is_device(base, name)):
            yield name


def _is_device(base: Path, name: str) -> bool:
    try:
        mode = os.stat(f"{base}/root{name}").st_mode
    except OSError:
        return False
    return stat.S_ISCHR(mode) and name != "/dev/zero"


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
