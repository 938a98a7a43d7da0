"""Where what a container wrote lies on the node.

The upper directory of its root comes from the mounts that its init sees, the volumes from
``config.json``. An emptyDir is named as a whole, whatever parts of it are mounted.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from architect.core.errors import FormatError, NodeError, Rejected

SHARED_MEMORY: Final = "/dev/shm"
VOLUME_NOT_MOUNTED: Final = "VolumeNotMounted"
"""Reason of a fresh start."""

_ESCAPED = re.compile(rb"\\([0-7]{3})")
_EMPTY_DIR: Final = "kubernetes.io~empty-dir"
_VOLUME = r"(?P<pod>/.*/pods/{uid})/volumes/kubernetes\.io~empty-dir/(?P<name>[^/]+)(/.*)?"
"""Kubelet's root directory is configurable; what is below it is not."""
_PROJECTION = (
    r"/(.*/)?pods/{uid}/volumes/kubernetes\.io~(configmap|downward-api|projected|secret)/[^/]+"
)
_SUB_PATH = r"(?P<pod>/.*/pods/{uid})/volume-subpaths/(?P<name>[^/]+)/[^/]+/[0-9]+"
"""A subPath of any kind of volume, bound there by kubelet: ``NAME/CONTAINER/INDEX``."""


def upper_directory(init_pid: int) -> Path:
    """Return the upper directory of the overlay that is the root of process *init_pid*.

    The path is as whoever mounted it saw it: the engine, in the node's mount namespace.

    Raises NodeError: ``RootNotOverlay``, ``NoUpperDirectory`` (a read-only overlay, or the
    directory is not to be seen from here), ``UserXattr`` (its marks are attributes that anybody can
    set), or ``ContainerGone``.
    """
    file = Path(f"/proc/{init_pid}/mountinfo")
    try:
        table = file.read_bytes()
    except OSError as error:  # also EINVAL: of a process that has ended and was not waited for
        raise NodeError(f"process {init_pid} is gone", reason="ContainerGone") from error
    upper = upper_of_root(table)
    if not upper.is_absolute() or not upper.is_dir():
        raise NodeError(
            f"the upper directory {upper} of process {init_pid} is not to be seen from here",
            reason="NoUpperDirectory",
            hint="the engine mounted it in another mount namespace",
        )
    return upper


def upper_of_root(mountinfo: bytes) -> Path:
    """Return what ``mountinfo`` says of the root; see :func:`upper_directory`. Pure."""
    kind, options = "none", b""
    # By line feeds alone: carriage returns in the names of mount points are not escaped.
    for line in mountinfo.split(b"\n"):
        head, _, tail = line.partition(b" - ")
        if head.split(b" ")[4:5] == [b"/"]:  # the last one covers those before
            words = tail.split(b" ")
            kind, options = os.fsdecode(words[0]), words[-1]
    if kind != "overlay":
        raise NodeError(
            f"the container's root is a mount of type {kind}, not an overlay",
            reason="RootNotOverlay",
            hint="the engine's snapshotter must be overlayfs for its files to travel",
        )
    found = dict(option.partition(b"=")[::2] for option in options.split(b","))
    if b"userxattr" in found:
        raise NodeError("the container's root is an overlay with userxattr", reason="UserXattr")
    if b"upperdir" not in found:
        raise NodeError("the container's root has no upper directory", reason="NoUpperDirectory")
    return Path(os.fsdecode(unescaped(found[b"upperdir"])))


def unescaped(text: bytes) -> bytes:
    """Return what the kernel wrote with octal escapes: blanks, commas, backslashes. Pure."""
    return _ESCAPED.sub(lambda found: bytes([int(found[1], 8) & 0xFF]), text)


def spec_in(bundle: str) -> dict[str, Any]:
    """Return the ``config.json`` of a bundle. Raises NodeError or FormatError."""
    file = Path(bundle) / "config.json"
    try:
        value = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise NodeError(f"cannot read {file}: {error}", reason="NoBundle", path=file) from error
    if not isinstance(value, dict):
        raise FormatError(f"{file} holds no object")
    return value


def in_memory(spec: Mapping[str, Any], pod_uid: str) -> list[str]:
    """Return which of the places of the container of *spec* hold files that a reboot takes.

    Volumes in memory are mounts of their own, those on a disk are plain directories. Raises
    OSError, and what :func:`shared_memory` does.
    """
    found = [
        f"volume {name}"
        for name, path in volumes(spec, pod_uid).items()
        if os.path.ismount(path) and os.listdir(path)
    ]
    shared = shared_memory(spec, pod_uid)
    if shared is not None and os.listdir(shared):
        found.append(SHARED_MEMORY)
    return sorted(found)


def volumes(
    spec: Mapping[str, Any],
    pod_uid: str,
    *,
    is_directory: Callable[[Path], bool] = Path.is_dir,
) -> dict[str, Path]:
    """Return the emptyDirs that the container of *spec* mounts, by the volume's name.

    A mount with ``subPath`` comes from ``volume-subpaths/NAME/…`` whatever the volume is: it counts
    if *is_directory* says that the pod has an emptyDir of that name.
    """
    found: dict[str, Path] = {}
    for source in _bind_sources(spec):
        if (match := _matched(_VOLUME, source, pod_uid)) is not None:
            found[match["name"]] = _empty_dir(match)
        elif (match := _matched(_SUB_PATH, source, pod_uid)) is not None:
            volume = _empty_dir(match)
            if is_directory(volume):
                found[match["name"]] = volume
    return found


def shared_memory(spec: Mapping[str, Any], pod_uid: str) -> Path | None:
    """Return the directory on the node that the container has at ``/dev/shm``.

    That is the sandbox's, which all containers of the pod share. None: nothing is bound there (a
    tmpfs of the container's own lies below its root), or one of the pod's volumes, which is its
    own matter.

    Raises Rejected with ``HostIpc`` if it is the node's.
    """
    source = None
    for mount in spec.get("mounts") or ():
        if str(mount.get("destination", "")).rstrip("/") == SHARED_MEMORY:
            source = str(mount.get("source", "")) if _is_bind(mount) else None
    if source is None:
        return None
    source = os.path.normpath(source)
    if source == SHARED_MEMORY:
        raise Rejected(
            "the container's /dev/shm is the node's (hostIPC), which cannot travel",
            reason="HostIpc",
        )
    return None if f"/pods/{pod_uid}/" in source else Path(source)


def bound_at(spec: Mapping[str, Any], path: str) -> Path:
    """Return the directory of the node that the container of *spec* has at *path*.

    Raises NodeError with reason ``VolumeNotMounted``.
    """
    wanted = os.path.normpath(path)
    sources = [
        str(mount.get("source", ""))
        for mount in spec.get("mounts") or ()
        if _is_bind(mount) and os.path.normpath(str(mount.get("destination", ""))) == wanted
    ]
    if not sources:
        raise NodeError(f"the container has no volume at {path}", reason=VOLUME_NOT_MOUNTED)
    return Path(sources[-1])  # the last one covers those before


def projections(mountinfo: bytes, pod_uid: str) -> list[str]:
    """Return where a container may have ConfigMaps, Secrets and their like, as it sees it. Pure.

    Those on a disk are directories of the pod's; those in memory are mounts of their own, which
    tell nothing of whose they are: each tmpfs counts. What is mounted by ``subPath`` does not.
    """
    found = []
    for line in mountinfo.split(b"\n"):
        head, _, tail = line.partition(b" - ")
        fields = head.split(b" ")
        if len(fields) < 5:
            continue
        root, point = (os.fsdecode(unescaped(field)) for field in fields[3:5])
        if tail.startswith(b"tmpfs ") or _matched(_PROJECTION, root, pod_uid) is not None:
            found.append(point)
    return found


@dataclass(frozen=True, kw_only=True)
class Mounted:
    """A mount as its processes see it."""

    point: str
    kind: str
    is_read_only: bool


def mounts(mountinfo: bytes) -> list[Mounted]:
    """Return what ``mountinfo`` says (proc_pid_mountinfo(5)), in its order. Pure."""
    found = []
    for line in mountinfo.split(b"\n"):
        head, _, tail = line.partition(b" - ")
        fields, words = head.split(b" "), tail.split(b" ")
        if len(fields) < 6:
            continue
        options = {*fields[5].split(b","), *words[-1].split(b",")}
        mount = Mounted(
            point=os.fsdecode(unescaped(fields[4])),
            kind=os.fsdecode(words[0]),
            is_read_only=b"ro" in options,
        )
        found.append(mount)
    return found


def mount_of(path: str, table: Sequence[Mounted]) -> Mounted | None:
    """Return the mount of *table* on which *path* is looked for. Pure."""
    found = None
    for mount in table:
        top = mount.point.rstrip("/")
        is_above = path == top or path.startswith(f"{top}/")
        # Of several at the same place the last one covers those before.
        if is_above and (found is None or len(mount.point) >= len(found.point)):
            found = mount
    return found


def _bind_sources(spec: Mapping[str, Any]) -> Iterator[str]:
    for mount in spec.get("mounts") or ():
        if _is_bind(mount):
            yield os.path.normpath(str(mount.get("source", "")))


def _is_bind(mount: Mapping[str, Any]) -> bool:
    options = mount.get("options") or ()
    return mount.get("type") == "bind" or "bind" in options or "rbind" in options


def _matched(pattern: str, source: str, uid: str) -> re.Match[str] | None:
    return re.fullmatch(pattern.format(uid=re.escape(uid)), source, re.DOTALL)


def _empty_dir(match: re.Match[str]) -> Path:
    return Path(match["pod"], "volumes", _EMPTY_DIR, match["name"])
