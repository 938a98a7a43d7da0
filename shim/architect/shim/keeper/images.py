"""Memory images on the node's disk.

::

    /var/lib/architect/pods/<uid>/pod.json              what the keeper remembers (podstate)
    /var/lib/architect/pods/<uid>/<container>/image/    what CRIU wrote
    /var/lib/architect/pods/<uid>/<container>/meta.json what the restore needs besides
    /var/lib/architect/pods/<uid>/<container>/failed-N/ an image that could not be restored
    /var/lib/architect/arrivals/<uid>/containers/<container>/   what came from another pod: image/
                                                        and meta.json, adopted as the pod's own

Directories are 0700 and files 0600: an image is a process's memory, secrets included.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Final

from architect.api import names, saved
from architect.core import fields, files
from architect.core.errors import FormatError, NodeError
from architect.shim.keeper import initfiles, machinerun

VERSION: Final = 1
SIGNALLED: Final = 128
"""An exit status above it is this plus the signal that ended CRIU."""
NOT_REACHED: Final = 255
"""Exit status that says that CRIU was never started (``NOT_STARTED_STATUS`` of the server)."""
_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")
_CORE = re.compile(r"core-(\d+)\.img")
"""CRIU's image of one process or thread."""
_OPTIONAL: Final = ("is_moved", "addresses", "criu", "run", "upper", "volatile")
_EVERYTHING: Final = "/"
"""As one of the places that a reboot takes."""
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, kw_only=True)
class Meta:
    """What must be known to restore one container's image, besides the image."""

    tree_pid: int
    """Pid of the tree's root in its pid namespace."""
    highest_pid: int
    """Highest pid in the tree before its dump: see :func:`highest_pid`."""
    pipes: dict[str, int]
    """stdio pipes of the dumped tree, ``pipe:[inode]`` to init's descriptor number."""
    init_sha: str
    slept_at: float
    is_moved: bool = False
    """It was another pod's: its peers were told that their connections have ended."""
    addresses: list[str] = field(default_factory=list)
    """Of the pod that left, once it has: what its sockets may be bound to."""
    criu: str = ""
    """Version of the CRIU that wrote it; empty: not known."""
    run: str = ""
    """The machine's run in which it sleeps (:mod:`.machinerun`); empty: not known."""
    upper: str = ""
    """Where on the node lies what the container wrote to its root; empty: nothing could be."""
    volatile: list[str] = field(default_factory=list)
    """Places whose files a reboot takes: volumes in memory that are not empty."""

    @classmethod
    def read(cls, directory: Path) -> Meta:
        """Read ``meta.json``. Raises FileNotFoundError or FormatError."""
        path = directory / "meta.json"
        meta = fields.read(cls, files.read_json(path, version=VERSION), path)
        meta._check(path)
        return meta

    def _check(self, path: Path) -> None:
        """Raise FormatError unless it is what a keeper writes: it may have come from elsewhere.

        Words of it become CRIU's command line.
        """
        if not all(type(pid) is int and pid > 0 for pid in (self.tree_pid, self.highest_pid)):
            raise FormatError(f"{path}: a pid is no pid")
        if type(self.slept_at) not in (int, float):
            raise FormatError(f"{path}: a time is no time")
        if not isinstance(self.pipes, dict) or not all(
            initfiles.PIPE.fullmatch(pipe) and type(number) is int and number in (0, 1, 2)
            for pipe, number in self.pipes.items()
        ):
            raise FormatError(f"{path}: pipes that are none")
        for words in (self.addresses, self.volatile):
            if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
                raise FormatError(f"{path}: a list of words is none")
        if not all(
            isinstance(word, str) for word in (self.init_sha, self.criu, self.run, self.upper)
        ):
            raise FormatError(f"{path}: a word is none")

    def write(self, directory: Path) -> None:
        """Write ``meta.json`` beside the image."""
        value = asdict(self)
        # Without them it is what versions before this one wrote, and read.
        for name in [key for key in _OPTIONAL if not value[key]]:
            del value[name]
        files.write_json(directory / "meta.json", {"version": VERSION, **value}, durable=False)


def pod_directory(uid: str) -> Path:
    """Return the pod's directory. Raises NodeError if *uid* could leave it."""
    if not _SAFE.fullmatch(uid):
        raise NodeError(f"pod uid {uid!r:.80} is not usable as a file name", reason="BadName")
    return names.PODS / uid


def container_directory(uid: str, container: str) -> Path:
    """Return one container's directory. Raises NodeError for names that could leave the pod's."""
    return pod_directory(uid) / _checked(container)


def _checked(container: str) -> str:
    if not _SAFE.fullmatch(container):
        raise NodeError(
            f"container {container!r:.80} is not usable as a file name", reason="BadName"
        )
    return container


def make_private(*directories: Path) -> None:
    """Make *directories* of a pod, and all that is above them. Raises OSError."""
    for directory in directories:
        if not directory.is_dir():
            files.make_private(directory)


def prepare(directory: Path) -> Path:
    """Make an empty image directory below *directory* and return it."""
    image = directory / "image"
    make_private(directory.parent, directory)
    for old in (image, *directory.glob("used-*")):
        files.remove_tree(old)
    image.mkdir(mode=0o700)
    return image


def arrival(uid: str, container: str) -> Path:
    """Return where another pod's image lies that came for a container. Raises NodeError."""
    return arrival_of_pod(uid) / saved.container(_checked(container))


def arrival_of_pod(uid: str) -> Path:
    """Return where lies what came for a pod. Raises NodeError if *uid* could leave it."""
    return names.ARRIVALS / pod_directory(uid).name


def has_moved(uid: str, container: str) -> bool:
    """Whether a container's image came from another pod and has never run here. NodeError."""
    try:
        return Meta.read(container_directory(uid, container)).is_moved
    except (FileNotFoundError, FormatError):
        return False


def kept_data(uid: str) -> Path:
    """Return where lies what the volumes of a pod that came asleep hold, if it has any.

    It counts as long as none of its images has run here (:attr:`Meta.is_moved`). NodeError.
    """
    return pod_directory(uid) / saved.DATA


def keep_data(uid: str) -> None:
    """Keep what came for a pod about its volumes until it wakes. Raises OSError, NodeError."""
    come = arrival_of_pod(uid) / saved.DATA
    if not come.exists():
        return
    make_private(pod_directory(uid))
    files.write_atomic(kept_data(uid), come.read_bytes(), mode=0o600)


def came_asleep(uid: str) -> bool:
    """Whether what came for a pod is of one that slept, and not only to be saved. NodeError."""
    return (arrival_of_pod(uid) / saved.ASLEEP).exists()


def has_returned(uid: str) -> bool:
    """Whether what came for a pod is its own, of before its machine was rebooted. NodeError."""
    return (arrival_of_pod(uid) / saved.RETURNED).exists()


def forget_return(uid: str) -> bool:
    """Remove what is left of what returned for a pod, once no image is; whether it had returned.

    What came from elsewhere is its daemon's. Raises NodeError.
    """
    if not has_returned(uid):
        return False
    arrival = arrival_of_pod(uid)
    if not files.matching(arrival, saved.image("*")):
        files.remove_tree(arrival)
    return True


def refuse(directory: Path, *, arrival: Path) -> Path | None:
    """Keep what came for the container of *directory* as an image that failed; never again used.

    Return where it lies; None if nothing came. Raises OSError.
    """
    if not (arrival / "image").exists():
        return None
    make_private(directory.parent, directory)
    for number in range(1, 1000):
        kept = directory / f"failed-{number}"
        if kept.exists():
            continue
        (arrival / "image").rename(kept)
        try:
            replace(Meta.read(arrival), is_moved=True).write(kept)
        except (FileNotFoundError, FormatError):
            # What it is cannot be read, which may be why it failed; that it came is known.
            files.write_json(
                kept / "meta.json", {"version": VERSION, "is_moved": True}, durable=False
            )
        return kept
    return None


def adopt(directory: Path, *, arrival: Path) -> None:
    """Make the image in *arrival* that of the container of *directory*.

    The image comes last: until it is there, nothing looks like a sleeping container. Where on the
    disk its files are said to lie was another container's matter: they are not known to outlive a
    reboot until :func:`note_return` says so. Raises FileNotFoundError if none came, FormatError.
    """
    meta = Meta.read(arrival)
    image = prepare(directory)
    replace(meta, is_moved=True, run=machinerun.current(), upper="", volatile=[_EVERYTHING]).write(
        directory
    )
    image.rmdir()
    (arrival / "image").rename(image)


def note_return(
    directory: Path, *, addresses: Iterable[str], upper: str, volatile: Iterable[str]
) -> None:
    """Write down what a sleeping container needs to go on after a reboot. As `note_addresses`."""
    meta = Meta.read(directory)
    replace(
        meta,
        addresses=sorted(addresses),
        run=machinerun.current(),
        upper=upper,
        volatile=sorted(volatile),
    ).write(directory)


def note_addresses(directory: Path, addresses: Iterable[str]) -> None:
    """Write down the addresses of a pod that leaves. Raises FileNotFoundError, FormatError."""
    replace(Meta.read(directory), addresses=sorted(addresses)).write(directory)


def is_complete(directory: Path) -> bool:
    """Whether CRIU wrote the whole image and removed the tree."""
    image = directory / "image"
    return _has_succeeded(image, "dump") and (image / "inventory.img").exists()


def is_restored(directory: Path) -> bool:
    """Whether the tree runs again: its last restore came to its end."""
    return _has_succeeded(directory / "image", "restore")


def _has_succeeded(image: Path, kind: str) -> bool:
    """Tell from the exit status or, where nobody lived to write it, from CRIU's own last words.

    CRIU writes ``stats-dump`` after it has killed the tree and ``stats-restore`` after it has let
    the tree run, only if nothing failed (cr_dump_finish(), restore_root_task()).
    """
    status = exit_status(image, kind)
    if status == NOT_REACHED:
        return False
    if status is None or status > SIGNALLED:
        return (image / f"stats-{kind}").exists()
    return status == 0


def has_begun_restore(directory: Path) -> bool:
    """Whether a CRIU has begun to restore the image; it may be another container's by now."""
    return (directory / "image/restore.log").exists()


def begin_restore(directory: Path) -> None:
    """Forget how an earlier restore of the image ended."""
    for name in ("restore.exit", "stats-restore"):
        (directory / "image" / name).unlink(missing_ok=True)


def try_to_write(directory: Path) -> None:
    """See whether the disk takes what CRIU writes beside an image. Raises OSError."""
    probe = directory / "image" / ".probe"
    files.write_atomic(probe, b"-", durable=False)
    probe.unlink()


def tree_pids(directory: Path) -> frozenset[int]:
    """Return the pids, in their namespace, of all processes and threads in the image, if any."""
    try:
        entries = os.listdir(directory / "image")
    except FileNotFoundError:
        return frozenset()
    return frozenset(int(found[1]) for found in map(_CORE.fullmatch, entries) if found)


def highest_pid(directory: Path, meta: Meta) -> int:
    """Return the highest pid in the image, above which CRIU's own processes must lie.

    What the tree forked when CRIU was there already, and before it was frozen, lies right above
    the pids of that CRIU.
    """
    return max((meta.highest_pid, *tree_pids(directory)))


def exit_status(image: Path, kind: str) -> int | None:
    """Return what the last ``dump`` or ``restore`` ended with; None while unknown."""
    try:
        return int((image / f"{kind}.exit").read_text())
    except (FileNotFoundError, ValueError):
        return None


def size_bytes(directory: Path) -> int:
    """Return the bytes on disk below *directory*; 0 if it does not exist."""
    total = 0
    for root, _, found in os.walk(directory):
        for name in found:
            try:
                total += os.lstat(os.path.join(root, name)).st_blocks * 512
            except FileNotFoundError:
                continue
    return total


def discard(directory: Path) -> None:
    """Make a container's image unusable at once; what failed to restore earlier stays.

    Freeing the blocks of a large image takes the file system long (80 ms for 75 MB), so a thread
    does it; one that is killed leaves a directory that the next :func:`prepare` removes.
    """
    (directory / "meta.json").unlink(missing_ok=True)
    used = directory / f"used-{time.monotonic_ns()}"
    try:
        (directory / "image").rename(used)
    except FileNotFoundError:
        return
    threading.Thread(target=files.remove_tree, args=(used,), daemon=True).start()


def set_aside(directory: Path) -> Path | None:
    """Keep an image that could not be restored under another name; return where it lies."""
    image = directory / "image"
    if not image.exists():
        return None
    for number in range(1, 1000):
        kept = directory / f"failed-{number}"
        if not kept.exists():
            image.rename(kept)
            with contextlib.suppress(FileNotFoundError):  # that may be why it failed
                (directory / "meta.json").rename(kept / "meta.json")
            return kept
    return None


def remove_pod(uid: str) -> int:
    """Remove all that is kept for a pod; return the bytes freed."""
    directory = pod_directory(uid)
    freed = size_bytes(directory)
    files.remove_tree(directory)
    return freed


def known_pods() -> list[str]:
    """Return the uids that have a directory."""
    try:
        return sorted(os.listdir(names.PODS))
    except FileNotFoundError:
        return []


def free_bytes() -> int:
    """Return what is free for images on their file system."""
    directory = names.STATE
    while not directory.exists():
        directory = directory.parent
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize


def sync(directory: Path) -> None:
    """Write the file system of *directory* to its disk; slow, call it in a thread.

    syncfs(2) rather than fsync of each file: an image has dozens, and one journal commit serves
    them all. Raises OSError.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(fd):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(directory))
    finally:
        os.close(fd)
