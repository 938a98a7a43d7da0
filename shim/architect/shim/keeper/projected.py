"""Open files of ConfigMaps, Secrets and tokens are those of the new pod.

kubelet keeps the files of such a volume in a directory that is named after the time, and has the
link ``..data`` lead there (pkg/volume/util/atomic_writer.go). So what an application has open or
watches there, such as the script that its shell runs, has a path that no other pod has. An image
that came from one is made to say the path that it has in this pod.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from architect.shim.layers import places
from architect.shim.packets import protobuf

LINK: Final = "..data"
_TIMED: Final = re.compile(r"\.\.\d{4}(_\d\d){5}\.\d+")
"""As the directory is named: os.MkdirTemp() of ``..2006_01_02_15_04_05.``"""
_NAMES: Final = ((3, 6), (13, 5, 7, 4), (14, 6, 7, 2, 4))
"""Where paths are in CRIU's FileEntry (fdinfo.proto): by the numbers of the fields that lead there.

Files (regfile.proto), and what inotify and fanotify watch (fsnotify.proto, fh.proto).
"""


def follow(image: Path, *, init_pid: int, pod_uid: str) -> int:
    """Have the files of *image* looked for where the container of *init_pid* has them now.

    Return how many there are. Raises FormatError, OSError.
    """
    table = Path(f"/proc/{init_pid}/mountinfo").read_bytes()
    # A mount point leads over no link, and nothing of the application runs yet.
    seen = Path(f"/proc/{init_pid}/root")
    volumes = {where: seen / where[1:] for where in places.projections(table, pod_uid)}
    return rename(image, volumes)


def rename(image: Path, volumes: Mapping[str, Path]) -> int:
    """As :func:`follow`, with *volumes*: mount point → where the keeper finds the same."""
    path = image / "files.img"

    def now(value: bytes) -> bytes | None:
        name = os.fsdecode(value)
        new = name_now(name, volumes)
        return None if new == name else os.fsencode(new)

    def change(entry: bytes) -> bytes | None:
        found = None
        for numbers in _NAMES:
            new = protobuf.replaced(entry if found is None else found, numbers, now, path)
            found = found if new is None else new
        return found

    return protobuf.rewrite(path, change)


def name_now(name: str, volumes: Mapping[str, Path]) -> str:
    """Return the path that the file at *name* has in a pod with *volumes*."""
    inside = [where for where in volumes if name.startswith(f"{where}/")]
    if not inside:
        return name
    where = max(inside, key=len)
    timed, slash, rest = name[len(where) + 1 :].partition("/")
    source = volumes[where]
    if not _TIMED.fullmatch(timed) or (source / timed).exists():
        return name
    try:
        now = os.readlink(source / LINK)
    except OSError:
        return name
    return f"{where}/{now}{slash}{rest}" if _TIMED.fullmatch(now) else name
