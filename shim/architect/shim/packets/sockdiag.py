"""The sockets of a network namespace, from the kernel's own tables (linux/inet_diag.h).

One dump of all TCP sockets costs tens of microseconds plus about one per socket; the exact
look-up of one connection is a single hash access.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import Final, NamedTuple

from . import netlink
from .headers import TCP, UDP
from .netns import Netns

_SOCK_DIAG_BY_FAMILY: Final = 20
_EXT_INFO: Final = 1 << 1  # 1 << (INET_DIAG_INFO - 1)
_INFO: Final = 2
_SKV6ONLY: Final = 11
_ALL_STATES: Final = 0xFFFFFFFF
_NO_COOKIE: Final = b"\xff" * 8

#: include/net/tcp_states.h
ESTABLISHED: Final = 1
SYN_SENT: Final = 2
SYN_RECV: Final = 3
FIN_WAIT1: Final = 4
FIN_WAIT2: Final = 5
TIME_WAIT: Final = 6
CLOSE: Final = 7
CLOSE_WAIT: Final = 8
LAST_ACK: Final = 9
LISTEN: Final = 10
CLOSING: Final = 11
NEW_SYN_RECV: Final = 12

#: struct inet_diag_msg: family, state, timer, retrans, ports, addresses, interface, cookie,
#: expires, receive queue, send queue, uid, inode.
_MESSAGE: Final = struct.Struct("=4B2s2s16s16sI8sIIIII")

#: struct tcp_info (linux/tcp.h): offsets of the fields used here.
_LAST_DATA_SENT: Final = 44
_LAST_DATA_RECEIVED: Final = 52
_DATA_SEGMENTS: Final = 152


class TcpAges(NamedTuple):
    """When data last moved on a connection; resolution is that of a jiffy (1 to 10 ms)."""

    since_sent_seconds: float
    since_received_seconds: float
    #: Segments with data, not acknowledgements.
    data_segments_in: int
    data_segments_out: int


class Socket(NamedTuple):
    """One socket; mapped IPv4 addresses stand as IPv4."""

    protocol: str
    version: int
    state: int
    local: str
    local_port: int
    remote: str
    remote_port: int
    #: Bytes unread; of a listener: connections that nobody accepted yet.
    receive_queue: int
    #: Bytes unacknowledged; of a listener: how many connections may wait.
    send_queue: int
    #: 0 where no process has a descriptor: half-open, unaccepted, or closed and draining.
    inode: int
    v6only: bool = False
    ages: TcpAges | None = None


class SockDiag:
    """Asks about the sockets of one namespace."""

    def __init__(self, sock: socket.socket) -> None:
        """Use `of` or `own` instead."""
        self._sock = sock

    @classmethod
    def of(cls, netns: Netns) -> SockDiag:
        """For a pod's namespace."""
        return cls(netns.netlink(netlink.NETLINK_SOCK_DIAG))

    @classmethod
    def own(cls) -> SockDiag:
        """For the namespace of the calling thread."""
        sock = socket.socket(
            socket.AF_NETLINK,
            socket.SOCK_RAW | socket.SOCK_CLOEXEC,
            netlink.NETLINK_SOCK_DIAG,
        )
        sock.bind((0, 0))
        return cls(sock)

    def close(self) -> None:
        """Close the netlink socket."""
        self._sock.close()

    def __enter__(self) -> SockDiag:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def sockets(self) -> list[Socket]:
        """All TCP and UDP sockets, TIME_WAIT excepted. OSError."""
        states = _ALL_STATES & ~(1 << TIME_WAIT)
        found = []
        for protocol in (TCP, UDP):
            for family in (socket.AF_INET, socket.AF_INET6):
                found += self._dump(family, protocol, states=states)
        return found

    def udp(self) -> list[Socket]:
        """The UDP sockets. OSError."""
        return [
            found
            for family in (socket.AF_INET, socket.AF_INET6)
            for found in self._dump(family, UDP, states=_ALL_STATES)
        ]

    def listeners_on(self, port: int) -> list[Socket]:
        """The TCP sockets that listen on a port. OSError."""
        return [
            found
            for family in (socket.AF_INET, socket.AF_INET6)
            for found in self._dump(family, TCP, states=1 << LISTEN, local_port=port)
            if found.local_port == port
        ]

    def find_tcp(
        self, *, local: str, local_port: int, remote: str, remote_port: int
    ) -> Socket | None:
        """The connection with exactly these ends, in whatever state. OSError."""
        family = socket.AF_INET6 if ":" in local else socket.AF_INET
        identity = (
            struct.pack("!HH", local_port, remote_port)
            + socket.inet_pton(family, local).ljust(16, b"\0")
            + socket.inet_pton(family, remote).ljust(16, b"\0")
            + struct.pack("=I", 0)
            + _NO_COOKIE
        )
        self._sock.send(_request(family, TCP, states=_ALL_STATES, identity=identity, flags=0))
        for answer in netlink.messages(self._sock.recv(netlink.RECEIVE_BYTES)):
            if answer.kind == netlink.NLMSG_ERROR:
                number = netlink.error_number(answer.body)
                if number == errno.ENOENT:
                    return None
                raise OSError(number, f"look up a tcp socket: {os.strerror(number)}")
            found = parse_socket(answer.body, protocol="tcp")
            # The kernel falls back to a listener on the same port; that is not the connection.
            if found is not None and (found.local_port, found.remote_port) == (
                local_port,
                remote_port,
            ):
                return found
        return None

    def _dump(
        self, family: int, protocol: int, *, states: int, local_port: int = 0
    ) -> list[Socket]:
        identity = struct.pack("!HH", local_port, 0) + bytes(36) + _NO_COOKIE
        request = _request(
            family, protocol, states=states, identity=identity, flags=netlink.NLM_F_DUMP
        )
        name = "tcp" if protocol == TCP else "udp"
        try:
            return [
                found
                for answer in netlink.dump(self._sock, request, what=f"list {name} sockets")
                if (found := parse_socket(answer.body, protocol=name)) is not None
            ]
        except OSError as error:
            # A kernel without udp_diag or IPv6: no such sockets can be listed.
            if error.errno in (errno.ENOENT, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT):
                return []
            raise


def _request(family: int, protocol: int, *, states: int, identity: bytes, flags: int) -> bytes:
    body = struct.pack("=BBBxI", family, protocol, _EXT_INFO, states) + identity
    return netlink.message(_SOCK_DIAG_BY_FAMILY, body, flags=flags)


def parse_socket(body: bytes, *, protocol: str) -> Socket | None:
    """A socket from an inet_diag answer; None if it is too short to be one."""
    if len(body) < _MESSAGE.size:
        return None
    (
        family, state, _, _, local_port, remote_port, local, remote, _, _, _,
        receive_queue, send_queue, _, inode,
    ) = _MESSAGE.unpack_from(body)  # fmt: skip
    extra = netlink.attributes(body, offset=_MESSAGE.size)
    return Socket(
        protocol,
        4 if family == socket.AF_INET else 6,
        state,
        _address(family, local),
        int.from_bytes(local_port, "big"),
        _address(family, remote),
        int.from_bytes(remote_port, "big"),
        receive_queue,
        send_queue,
        inode,
        any(extra.get(_SKV6ONLY, b"")),
        _ages(extra.get(_INFO, b"")) if protocol == "tcp" else None,
    )


def _address(family: int, raw: bytes) -> str:
    if family == socket.AF_INET:
        return socket.inet_ntop(socket.AF_INET, raw[:4])
    return socket.inet_ntop(socket.AF_INET6, raw).removeprefix("::ffff:")


def _ages(info: bytes) -> TcpAges | None:
    # Kernels since 4.6 have the counts of data segments.
    if len(info) < _DATA_SEGMENTS + 8:
        return None
    (sent,) = struct.unpack_from("=I", info, _LAST_DATA_SENT)
    (received,) = struct.unpack_from("=I", info, _LAST_DATA_RECEIVED)
    segments_in, segments_out = struct.unpack_from("=II", info, _DATA_SEGMENTS)
    return TcpAges(sent / 1000, received / 1000, segments_in, segments_out)
