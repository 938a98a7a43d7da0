"""Files of /proc, of a process that calls itself whatever it likes.

The input is the name, as ``prctl`` takes it and the kernel writes it; what the kernel says besides
must be read as it was said.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from architect.core.errors import NodeError
from architect.shim import procfs
from architect.shim.keeper import sysvshm
from architect.shim.layers.places import upper_of_root
from fuzz import mutations

MUTATE = mutations.raw

NAME_BYTES: Final = 15
STATUS: Final = (
    b"State:\tS (sleeping)\nNSpid:\t700\t7\nRssAnon:\t     512 kB\nCapPrm:\t00000000a80425fb\n"
)
STAT: Final = b"S 1 7 7 0 -1 4194304 98 0 0 0 3 4 0 0 20 0 1 0 555 9000"
ROOT: Final = (
    b"36 35 0:50 / / rw,relatime - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w\n"
)


def seeds() -> Iterator[bytes]:
    yield b"nginx"
    yield b"\xe6\x97\xa5\xe6\x9c\xac\xe8\xaa\x9e\xe3\x81\xae\xe5\x90"  # cut in the middle
    yield b"\x0cNSpid:\t1"
    yield b"\x0cCapPrm:\tzz"
    yield b"a) R 1 (b"
    yield b"\xe2\x80\xa8NSpid:\t1"
    yield b"\r/ x - overlay"
    yield b"a\x0c0-1 rw-s 00000000 00:01 6 /SYSV0"


def run(data: bytes) -> None:
    name = data.split(b"\0")[0][:NAME_BYTES]
    escaped = name.replace(b"\\", b"\\\\").replace(b"\n", b"\\n")
    status = procfs.status_of(b"Name:\t" + escaped + b"\n" + STATUS)
    assert status["NSpid"].split() == ["700", "7"]
    assert status["RssAnon"] == "512 kB"
    assert int(status["CapPrm"], 16) == 0xA80425FB
    assert set(status) == {"Name", "State", "NSpid", "RssAnon", "CapPrm"}
    # Here the kernel escapes nothing: the last parenthesis is its own.
    assert procfs.stat_of(b"7 (" + name + b") " + STAT) == STAT.decode().split()
    _mounts(data)
    _mappings(data)


def _mappings(data: bytes) -> None:
    """Have a file of that name mapped, of which only line feeds are escaped."""
    name = data.split(b"\0")[0].replace(b"\n", b"\\012")
    mapped = b"7f00-7f01 r--s 00000000 08:01 99                         /" + name + b"\n"
    segment = b"7f02-7f03 rw-s 00000000 00:01 5                          /SYSV00000000 (deleted)\n"
    if not name.startswith(b"SYSV"):
        assert list(sysvshm.attached_in(mapped + segment)) == [5]


def _mounts(data: bytes) -> None:
    """Have a mount point of that name, which the kernel escapes where it would end a word."""
    point = data.split(b"\0")[0]
    for byte in (b"\\", b" ", b"\t", b"\n", b"#"):
        point = point.replace(byte, b"\\%03o" % byte[0])
    mounted = b"40 36 8:1 / /" + point + b" rw - ext4 /dev/sda1 rw\n"
    if point in (b"", b"/"):
        return
    assert procfs.lines_of(ROOT + mounted)[0].encode() == ROOT.rstrip(b"\n")
    assert len(procfs.lines_of(ROOT + mounted)) == 2
    try:
        assert str(upper_of_root(ROOT + mounted)) == "/u"
    except NodeError as error:
        raise AssertionError(f"the root is not found beside {point!r}: {error}") from error
