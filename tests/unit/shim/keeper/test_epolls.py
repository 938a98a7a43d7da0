from __future__ import annotations

import os
import select
from pathlib import Path

from architect.shim.keeper import epolls
from architect.shim.keeper.epolls import Target

INFO = """pos:\t0
flags:\t02
tfd:        3 events:       1f data:                3  pos:0 ino:200be1 sdev:f
tfd:        3 events:       1f data:                3  pos:0 ino:200be2 sdev:f
tfd:       12 events:       1f data:                c  pos:0 ino:1a sdev:f
tfd:
"""


def targets(text: str) -> list[Target]:
    return list(epolls.targets([line.split() for line in text.splitlines()]))


def test_what_epoll_waits_for_is_told_by_number_inode_and_place() -> None:
    assert targets(INFO) == [
        Target(number=3, inode=0x200BE1, offset=0),
        Target(number=3, inode=0x200BE2, offset=1),
        Target(number=12, inode=0x1A, offset=0),
    ]


def test_what_is_closed_is_looked_for_among_the_others() -> None:
    base = Path(f"/proc/{os.getpid()}")
    reader, writer = os.pipe()
    with select.epoll() as epoll:
        epoll.register(reader)

        def is_closed() -> bool:
            text = (base / "fdinfo" / str(epoll.fileno())).read_text()
            (target,) = targets(text)
            return epolls.is_closed(base, epoll=epoll.fileno(), target=target)

        assert not is_closed()
        kept = os.dup(reader)
        os.close(reader)
        assert not is_closed(), "it has another number"
        # The pipe's other end has the same inode, and is another file. No fork: other tests may
        # have left threads, of which a later Python warns then.
        place = [(os.POSIX_SPAWN_DUP2, kept, 100)]
        child = os.posix_spawn("/bin/sleep", ["sleep", "1000"], {}, file_actions=place)
        try:
            os.close(kept)
            assert is_closed()
        finally:
            os.kill(child, 9)
            os.waitpid(child, 0)
            os.close(writer)
