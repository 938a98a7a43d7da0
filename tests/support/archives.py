"""Archives for tests of their readers: made by Python's own tar writer, wrong where wanted."""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from architect.shim.layers.apply import apply
from architect.shim.layers.archive import Kind, Limits, Summary
from architect.shim.layers.pack import pack


def member(name: str, kind: bytes = tarfile.REGTYPE, **values: object) -> tarfile.TarInfo:
    """Return one entry with the attributes *values* of TarInfo."""
    found = tarfile.TarInfo(name)
    found.type = kind
    found.uid, found.gid = os.getuid(), os.getgid()
    for key, value in values.items():
        setattr(found, key, value)
    return found


def directory(name: str, **values: object) -> tarfile.TarInfo:
    """Return a directory's entry."""
    return member(name, tarfile.DIRTYPE, mode=0o755, **values)


def archive(
    *members: tarfile.TarInfo | tuple[tarfile.TarInfo, bytes],
    kind: str = "volume",
    version: str = "1",
    has_root: bool = True,
) -> bytes:
    """Return an archive of *members*, each without or with its data, after the root's entry."""
    file = io.BytesIO()
    marks = {"ARCHITECT.version": version, "ARCHITECT.kind": kind}
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT, pax_headers=marks) as tar:
        for each in (*([directory("./")] if has_root else []), *members):
            info, data = each if isinstance(each, tuple) else (each, b"")
            if data:
                info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


@contextmanager
def opened(data: bytes) -> Iterator[int]:
    """Yield a descriptor that reads *data*."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        yield file.fileno()


def packed(source: Path, kind: Kind = Kind.VOLUME, limits: Limits | None = None) -> bytes:
    """Return the archive of *source*."""
    with tempfile.TemporaryFile() as file:
        pack(source, file.fileno(), kind=kind, limits=limits)
        file.seek(0)
        return file.read()


def applied(
    data: bytes,
    target: Path,
    kind: Kind = Kind.VOLUME,
    limits: Limits | None = None,
    *,
    devices: bool = False,
) -> Summary:
    """Apply the archive *data* to the directory *target*."""
    root = os.open(target, os.O_PATH | os.O_DIRECTORY)
    try:
        with opened(data) as source:
            return apply(source, root, kind=kind, limits=limits, are_devices_allowed=devices)
    finally:
        os.close(root)
