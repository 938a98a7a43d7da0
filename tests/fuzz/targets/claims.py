"""A CRIU image that came from another node: what its processes claim, and whether it is allowed.

The input is one file of an image that is allowed otherwise; its first byte says which one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from architect.core.errors import FormatError, Rejected
from architect.shim.keeper import claims, privileges
from architect.shim.packets import protobuf
from fuzz import mutations, scratch
from support import criuimage

MUTATE = mutations.raw

FILES: Final = ("core-2.img", "seccomp.img", "pstree.img", "files.img", "ids-2.img")
CAPABILITIES: Final = 0b10000011
SPEC: Final[dict[str, Any]] = {
    "process": {
        "user": {"uid": 0, "gid": 0},
        "capabilities": {"bounding": ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_SETUID"]},
        "noNewPrivileges": True,
    },
    "linux": {"namespaces": [{"type": "ipc"}], "seccomp": {"defaultAction": "SCMP_ACT_ERRNO"}},
}
ALLOWED: Final = privileges.allowance(SPEC, machine="x86_64")
DENYING: Final = struct.pack("=HBBI", 6, 0, 0, 0x00050001)
LOOKING: Final = struct.pack("=HBBIHBBIHBBI", 0x20, 0, 0, 16, 0x15, 0, 1, 7, 6, 0, 0, 0) + DENYING


def _write(directory: Path, *, is_poor: bool) -> None:
    creds = (
        criuimage.credentials(capabilities=CAPABILITIES, no_new_privileges=True)
        if is_poor
        else criuimage.credentials(capabilities=1 << 21, profile="x", supplementary=(1,))
    )
    core = criuimage.core(creds, mode=2, filter_=1)
    files = [criuimage.regular("/proc/2/fd"), criuimage.unix(b"/a/../b"), criuimage.inet(1)]
    criuimage.write(directory, [core], files=files)
    filters = criuimage.seccomp((DENYING, None, 0), (LOOKING, 0, 1))
    criuimage.put(directory / "seccomp.img", filters)


def seeds() -> Iterator[bytes]:
    directory = scratch.directory("claims-seeds")
    for is_poor in (True, False):
        _write(directory, is_poor=is_poor)
        for at, name in enumerate(FILES):
            yield bytes([at]) + (directory / name).read_bytes()


def run(data: bytes) -> None:
    if not data:
        return
    directory = scratch.directory("claims")
    _write(directory, is_poor=True)
    (directory / FILES[data[0] % len(FILES)]).write_bytes(data[1:])
    try:
        found = claims.read(directory)
        privileges.check(found, ALLOWED)
    except (FormatError, Rejected) as error:
        assert len(str(error)) < 4000
        return
    # What is let through has no capability of which CRIU's own reading would be another one.
    if any(task.threads for task in found.tasks):
        _assert_poor(directory / "core-2.img")


def _assert_poor(path: Path) -> None:
    core = next(protobuf.entries(path))
    creds = _merged(_merged(core, path, criuimage.CORE_THREAD), path, criuimage.THREAD_CREDENTIALS)
    for number in range(criuimage.INHERITABLE, criuimage.BOUNDING + 1):
        words: list[int] = []
        for key, value in protobuf.fields(creds, path):
            if key % (1 << 32) >> 3 == number:
                words += [value] if isinstance(value, int) else protobuf.unpacked(value, path)
        mask = sum(word % (1 << 32) << 32 * at for at, word in enumerate(words))
        assert not mask & ~CAPABILITIES, (number, mask)


def _merged(message: bytes, path: Path, number: int) -> bytes:
    """Return the message in a field as C has it: one that is there twice is put together."""
    return b"".join(
        value
        for key, value in protobuf.fields(message, path)
        if key % (1 << 32) >> 3 == number and isinstance(value, bytes)
    )
