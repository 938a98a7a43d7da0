"""The node's own addresses, kept current by the kernel's notices (rtnetlink(7))."""

from __future__ import annotations

import errno
import socket
import struct
from typing import Final

from . import netlink
from .netns import Netns

_RTM_GETADDR: Final = 22
_RTM_NEWADDR: Final = 20
_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2
_IFADDRMSG_BYTES: Final = 8
#: The first byte.
_LOOPBACK4: Final = 127
_LOOPBACK6: Final = bytes([*bytes(15), 1])
#: RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR (linux/rtnetlink.h)
_GROUPS: Final = 0x10 | 0x100


class NodeAddresses:
    """Whether an address is the node's; a new one is known as soon as the kernel has it.

    Loopback addresses are left out: seen in a pod they are the pod's own.
    """

    def __init__(self, netns: Netns | None = None) -> None:
        """Look at `netns`, by default at the caller's own namespace. OSError."""
        home = netns if netns is not None else Netns.own()
        try:
            self._notices = home.open_socket(
                socket.AF_NETLINK, socket.SOCK_RAW, netlink.NETLINK_ROUTE
            )
            self._notices.bind((0, _GROUPS))
            self._notices.setblocking(False)
            self._asking = home.netlink(netlink.NETLINK_ROUTE)
        finally:
            if netns is None:
                home.close()
        #: Grows with each change, so that users of a copy know when to renew it.
        self.generation = 0
        self._known: frozenset[str] = frozenset()
        self._read()

    def fileno(self) -> int:
        """Readable when addresses changed; `current` takes the notices in."""
        return self._notices.fileno()

    def current(self) -> frozenset[str]:
        """The addresses, as canonical text. OSError."""
        if self._changed():
            self._read()
        return self._known

    def __contains__(self, address: str) -> bool:
        return address in self.current()

    def close(self) -> None:
        """Close both sockets."""
        self._notices.close()
        self._asking.close()

    def _changed(self) -> bool:
        """Whether notices came; their content does not matter, the dump tells all."""
        changed = False
        while True:
            try:
                self._notices.recv(netlink.RECEIVE_BYTES)
            except BlockingIOError:
                return changed
            except OSError as error:
                # Notices were lost: something changed.
                if error.errno != errno.ENOBUFS:
                    raise
            changed = True

    def _read(self) -> None:
        found = _listed(self._asking)
        if found != self._known:
            self._known = found
            self.generation += 1


def of(netns: Netns) -> frozenset[str]:
    """The addresses of a namespace now, loopback left out, as canonical text. OSError."""
    with netns.netlink(netlink.NETLINK_ROUTE) as asking:
        return _listed(asking)


def _listed(asking: socket.socket) -> frozenset[str]:
    found: set[str] = set()
    request = netlink.message(_RTM_GETADDR, bytes(_IFADDRMSG_BYTES), flags=netlink.NLM_F_DUMP)
    for answer in netlink.dump(asking, request, what="list addresses"):
        address = parse_address(answer.body) if answer.kind == _RTM_NEWADDR else None
        if address is not None:
            found.add(address)
    return frozenset(found)


def parse_address(body: bytes) -> str | None:
    """The local address in an RTM_NEWADDR; None for loopback and what is not IP."""
    if len(body) < _IFADDRMSG_BYTES:
        return None
    (family,) = struct.unpack_from("=B", body)
    fields = netlink.attributes(body, offset=_IFADDRMSG_BYTES)
    # On point-to-point links IFA_ADDRESS is the peer's.
    raw = fields.get(_IFA_LOCAL) or fields.get(_IFA_ADDRESS) or b""
    if (family, len(raw)) not in ((socket.AF_INET, 4), (socket.AF_INET6, 16)):
        return None
    if (family == socket.AF_INET and raw[0] == _LOOPBACK4) or raw == _LOOPBACK6:
        return None
    return socket.inet_ntop(family, raw)
