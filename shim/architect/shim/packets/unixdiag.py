"""The UNIX sockets of a network namespace and who is at their other ends (linux/unix_diag.h).

The kernel tells a peer by its inode, also one whose socket belongs to another namespace.
"""

from __future__ import annotations

import errno
import itertools
import socket
import struct
from typing import Final, NamedTuple

from . import netlink
from .netns import Netns

_SOCK_DIAG_BY_FAMILY: Final = 20
_SHOW_NAME: Final = 1 << 0
_SHOW_PEER: Final = 1 << 2
_NAME: Final = 0
_PEER: Final = 2
_ALL_STATES: Final = 0xFFFFFFFF

#: struct unix_diag_req: family, protocol, padding, states, inode, what to show, cookie.
_REQUEST: Final = struct.Struct("=BBHIII8s")
#: struct unix_diag_msg: family, type, state, padding, inode, cookie.
_MESSAGE: Final = struct.Struct("=BBBxI8s")

MAX_SOCKETS: Final = 1 << 16
"""More are not read: whoever has them does not decide what a look costs."""


class UnixSocket(NamedTuple):
    """One UNIX socket."""

    inode: int
    #: Inode of the socket at the other end; 0: there is none.
    peer: int
    #: Path, or ``@`` and an abstract name; empty: it has no name.
    name: str


def sockets(netns: Netns) -> dict[int, UnixSocket]:
    """Return the UNIX sockets of *netns* by inode; none where the kernel cannot tell. OSError."""
    request = netlink.message(
        _SOCK_DIAG_BY_FAMILY,
        _REQUEST.pack(socket.AF_UNIX, 0, 0, _ALL_STATES, 0, _SHOW_NAME | _SHOW_PEER, b"\xff" * 8),
        flags=netlink.NLM_F_DUMP,
    )
    found = {}
    with netns.netlink(netlink.NETLINK_SOCK_DIAG) as asked:
        try:
            answers = netlink.dump(asked, request, what="list unix sockets")
            for answer in itertools.islice(answers, MAX_SOCKETS):
                if (one := parse(answer.body)) is not None:
                    found[one.inode] = one
        except OSError as error:
            if error.errno != errno.ENOENT:  # a kernel without unix_diag
                raise
    return found


def parse(body: bytes) -> UnixSocket | None:
    """Return the socket of one answer; None if it is too short to be one."""
    if len(body) < _MESSAGE.size:
        return None
    _, _, _, inode, _ = _MESSAGE.unpack_from(body)
    extra = netlink.attributes(body, offset=_MESSAGE.size)
    peer = extra.get(_PEER, b"")
    name = extra.get(_NAME, b"")
    shown = f"@{name[1:].decode(errors='replace')}" if name[:1] == b"\0" else ""
    return UnixSocket(
        inode=inode,
        peer=struct.unpack("=I", peer)[0] if len(peer) == 4 else 0,
        name=shown or name.rstrip(b"\0").decode(errors="replace"),
    )
