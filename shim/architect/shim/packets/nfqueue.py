"""One netfilter queue: packets wait in the kernel until they get a verdict.

(linux/netfilter/nfnetlink_queue.h.) The queue belongs to its socket, not to a process: a duplicate
of the descriptor in another process keeps it bound and its packets waiting. When the last
duplicate closes, the kernel drops what still waits, so `passthrough` comes before `close`.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from typing import Final, NamedTuple

from architect.core.errors import NodeError

from . import netlink
from .netlink import attribute
from .netns import Netns
from .ruleset import QUEUE_NUMBER

_SUBSYSTEM: Final = 3 << 8  # NFNL_SUBSYS_QUEUE
_PACKET, _VERDICT, _CONFIG, _VERDICT_BATCH = range(4)

_CFG_CMD, _CFG_PARAMS, _CFG_MAXLEN, _CFG_MASK, _CFG_FLAGS = range(1, 6)
_CMD_BIND: Final = 1
_COPY_PACKET: Final = 2
_FAIL_OPEN: Final = 1
_GSO: Final = 4

_NF_DROP: Final = 0
_NF_ACCEPT: Final = 1

_NETLINK_NO_ENOBUFS: Final = 5
_SOL_NETLINK: Final = 270
_SO_RCVBUFFORCE: Final = 33

#: Covers IPv4 with all options and TCP with all options (60 + 60), IPv6 with one short extension.
COPY_BYTES: Final = 128

#: The kernel drops what comes when so many wait; its default is 1024. Our own bounds are lower
#: (`hold`), this one is for the time in which nobody reads.
MAX_WAITING: Final = 16384

#: A message of a copied packet takes under 1.25 KiB of the buffer's account (a 128-byte copy in
#: a 1 KiB skb): room for `MAX_WAITING` and the answers to our own requests.
_BUFFER_BYTES: Final = 32 << 20

#: Far enough ahead of any identifier in use, below the half of the number space at which
#: the kernel's comparison (a signed difference) turns round.
_AHEAD: Final = 1 << 30

_VERDICTS_PER_SEND: Final = 512
#: For an answer that the kernel gives before send() returns; more than that is a full buffer.
_ANSWER_SECONDS: Final = 1.0

_NLMSG: Final = struct.Struct("=IH")
_ATTRIBUTE: Final = struct.Struct("=HH")
_VERDICT_MESSAGE: Final = struct.Struct("=IHHIIBB")

#: Where `NfQueue.read` receives, of whatever queue: nothing of it is used after the next receive.
#: One for each of fifty pods was 3 MB of the keeper's memory.
_RECEIVED: Final = memoryview(bytearray(netlink.RECEIVE_BYTES))


class QueuedPacket(NamedTuple):
    """A packet that waits for its verdict."""

    identifier: int
    data: bytes
    #: The packet's whole length; `data` may be less.
    packet_bytes: int
    #: Index of the interface on which it came in.
    interface: int


class QueueStatus(NamedTuple):
    """A line of /proc/net/netfilter/nfnetlink_queue."""

    port: int
    waiting: int
    dropped_full: int
    dropped_unread: int
    last_identifier: int


def read_status(netns: Netns, *, number: int = QUEUE_NUMBER) -> QueueStatus | None:
    """What the kernel says about the queue; None if nobody is bound to it. OSError."""
    for line in netns.read("netfilter/nfnetlink_queue").splitlines():
        fields = [int(word) for word in line.split()]
        if len(fields) >= 8 and fields[0] == number:
            return QueueStatus(fields[1], fields[2], fields[5], fields[6], fields[7])
    return None


class NfQueue:
    """The reader of a queue. Verdicts are collected and go out with `flush`."""

    def __init__(self, sock: socket.socket, *, number: int) -> None:
        """Use `bind` or `adopt` instead."""
        self._sock = sock
        self._number = number
        self._resource = struct.pack("!H", number)
        self._early: list[bytes] = []
        self._verdicts: list[bytes] = []
        self._sequence = 0
        #: Verdicts that found no packet: its interface went away, or it was answered before.
        self.misses = 0

    @classmethod
    def bind(cls, netns: Netns, *, number: int = QUEUE_NUMBER, fail_open: bool = False) -> NfQueue:
        """Become the reader. NodeError: EPERM if another socket already is."""
        sock = netns.netlink(netlink.NETLINK_NETFILTER)
        try:
            # Without it a full buffer fails the next read instead of dropping one packet.
            sock.setsockopt(_SOL_NETLINK, _NETLINK_NO_ENOBUFS, 1)
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
            sock.setblocking(False)
            queue = cls(sock, number=number)
            # One message: between a bind alone and its parameters the kernel drops all.
            queue._configure(
                attribute(_CFG_CMD, struct.pack("!BxH", _CMD_BIND, 0))
                + attribute(_CFG_PARAMS, struct.pack("!IB", COPY_BYTES, _COPY_PACKET))
                + _limits(fail_open=fail_open, max_waiting=MAX_WAITING, gso=True),
                what="bind",
            )
        except BaseException:
            sock.close()
            raise
        return queue

    @classmethod
    def adopt(cls, fd: int, *, number: int = QUEUE_NUMBER) -> NfQueue:
        """Go on reading with a descriptor that another process kept; takes it over."""
        sock = socket.socket(fileno=fd)
        sock.setblocking(False)
        return cls(sock, number=number)

    def fileno(self) -> int:
        """The descriptor, for a poller and for whoever shall keep a duplicate."""
        return self._sock.fileno()

    def set_fail_open(self, fail_open: bool) -> None:
        """Whether a packet that finds the queue full passes instead of being dropped.

        Also takes back `passthrough`. NodeError.
        """
        self._configure(
            _limits(fail_open=fail_open, max_waiting=MAX_WAITING, gso=False), what="set flags"
        )

    def read(self, *, limit: int = 4096) -> list[QueuedPacket]:
        """The packets that can be read now, in order of arrival, at most about `limit`.

        Queues are read one after the other, by one thread.
        """
        packets: list[QueuedPacket] = []
        early, self._early = self._early, []
        for data in early:
            self._collect(memoryview(data), packets)
        while len(packets) < limit:
            try:
                size = self._sock.recv_into(_RECEIVED)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                continue
            self._collect(_RECEIVED[:size], packets)
        return packets

    def _collect(self, data: memoryview, packets: list[QueuedPacket]) -> None:
        offset = 0
        while offset + 16 <= len(data):
            size, kind = _NLMSG.unpack_from(data, offset)
            if size < 16 or offset + size > len(data):
                return
            if kind == _SUBSYSTEM | _PACKET:
                packet = _packet(bytes(data[offset + 20 : offset + size]))
                if packet is not None:
                    packets.append(packet)
            elif kind == netlink.NLMSG_ERROR:
                # Only verdicts that failed: acknowledged requests are read by `_configure`.
                self.misses += 1
            offset += (size + 3) & ~3

    def accept(self, identifier: int) -> None:
        """Let a packet go on its way, at the next `flush`."""
        self._verdicts.append(self._verdict(_VERDICT, _NF_ACCEPT, identifier))

    def drop(self, identifier: int) -> None:
        """Discard a packet, at the next `flush`."""
        self._verdicts.append(self._verdict(_VERDICT, _NF_DROP, identifier))

    def _verdict(self, kind: int, verdict: int, identifier: int) -> bytes:
        return (
            _VERDICT_MESSAGE.pack(32, _SUBSYSTEM | kind, netlink.NLM_F_REQUEST, 0, 0, 0, 0)
            + self._resource
            + struct.pack("=HH", 12, 2)
            + struct.pack("!II", verdict, identifier)
        )

    def accept_through(self, identifier: int) -> None:
        """Let all that waits up to a packet, this one included, go in order. OSError."""
        self.flush()
        self._send(self._verdict(_VERDICT_BATCH, _NF_ACCEPT, identifier))

    def flush(self) -> None:
        """Send the collected verdicts in order. OSError."""
        verdicts, self._verdicts = self._verdicts, []
        for start in range(0, len(verdicts), _VERDICTS_PER_SEND):
            self._send(b"".join(verdicts[start : start + _VERDICTS_PER_SEND]))

    def _send(self, data: bytes) -> None:
        """Send; the kernel has carried out all of it when this returns."""
        while True:
            try:
                self._sock.send(data)
                return
            except BlockingIOError:
                # Another request of this socket is still accounted for; it is being processed.
                self._wait(select.POLLOUT)

    def passthrough(self, last_identifier: int) -> None:
        """Release all that waits, in order, and let whatever comes from now on pass by itself.

        `last_identifier` is any identifier of this queue, best the newest one known. The first
        batches empty the queue but for what arrives meanwhile (accepting a packet delivers it on
        the spot, which takes its time); then come "full, let it pass" and one more batch in the
        same system call, so that the window in which a packet could overtake is a few µs.
        """
        self.flush()
        limit = (last_identifier + _AHEAD) & 0xFFFFFFFF
        batch = self._verdict(_VERDICT_BATCH, _NF_ACCEPT, limit)
        self._sequence += 1
        # Flags first and by themselves: in one message the kernel would set the length before
        # the flags, and drop what comes between the two.
        flags = attribute(_CFG_MASK, struct.pack("!I", _FAIL_OPEN)) + attribute(
            _CFG_FLAGS, struct.pack("!I", _FAIL_OPEN)
        )
        length = attribute(_CFG_MAXLEN, struct.pack("!I", 0))
        self._send(
            batch
            + batch
            + batch
            + self._config_message(flags, acknowledge=False)
            + self._config_message(length)
            + batch
        )
        self._acknowledged(what="let packets pass")

    def close(self) -> None:
        """Give the queue up; if this is its last descriptor, what waits is dropped."""
        self._sock.close()

    def _wait(self, event: int) -> bool:
        """Wait for the socket, bounded; not with select(2), which ends at descriptor 1023."""
        poller = select.poll()
        poller.register(self._sock, event)
        return bool(poller.poll(_ANSWER_SECONDS * 1000))

    def _config_message(self, attributes: bytes, *, acknowledge: bool = True) -> bytes:
        return netlink.message(
            _SUBSYSTEM | _CONFIG,
            struct.pack("!BB", 0, 0) + self._resource + attributes,
            flags=netlink.NLM_F_ACK if acknowledge else 0,
            sequence=self._sequence,
        )

    def _configure(self, attributes: bytes, *, what: str) -> None:
        self._sequence += 1
        self._send(self._config_message(attributes))
        self._acknowledged(what=what)

    def _acknowledged(self, *, what: str) -> None:
        """Read up to the answer of the newest request; packets that come first are kept."""
        while True:
            if not self._wait(select.POLLIN):
                raise NodeError(
                    f"packet queue {self._number}: {what}: no answer from the kernel",
                    reason="Netfilter",
                    errno=errno.ENOBUFS,
                )
            data = self._sock.recv(netlink.RECEIVE_BYTES)
            for answer in netlink.messages(data):
                if answer.kind != netlink.NLMSG_ERROR:
                    self._early.append(data)
                    break
                if answer.sequence != self._sequence:
                    self.misses += 1
                    continue
                number = netlink.error_number(answer.body)
                if number:
                    raise NodeError(
                        f"packet queue {self._number}: {what}: {os.strerror(number)}",
                        reason="Netfilter",
                        errno=number,
                        hint=_hint(number),
                    )
                return


def _hint(number: int) -> str:
    # The kernel compares the owner before it looks at the command: EPERM, not EBUSY.
    if number in (errno.EPERM, errno.EBUSY):
        return "another process reads the queue, or CAP_NET_ADMIN is missing"
    return ""


def _limits(*, fail_open: bool, max_waiting: int, gso: bool) -> bytes:
    """Queue length and flags; the mask says which flags the message is about."""
    flags = (_FAIL_OPEN if fail_open else 0) | (_GSO if gso else 0)
    mask = _FAIL_OPEN | (_GSO if gso else 0)
    return (
        attribute(_CFG_MAXLEN, struct.pack("!I", max_waiting))
        + attribute(_CFG_MASK, struct.pack("!I", mask))
        + attribute(_CFG_FLAGS, struct.pack("!I", flags))
    )


def _packet(body: bytes) -> QueuedPacket | None:
    """The attributes of an NFQNL_MSG_PACKET."""
    identifier: int | None = None
    data = b""
    whole = interface = 0
    offset = 0
    while offset + 4 <= len(body):
        size, kind = _ATTRIBUTE.unpack_from(body, offset)
        if size < 4:
            break
        kind &= 0x3FFF
        if kind == 1:  # NFQA_PACKET_HDR
            identifier = int.from_bytes(body[offset + 4 : offset + 8], "big")
        elif kind == 10:  # NFQA_PAYLOAD
            data = body[offset + 4 : offset + size]
        elif kind == 13:  # NFQA_CAP_LEN: the whole length, where it was cut
            whole = int.from_bytes(body[offset + 4 : offset + 8], "big")
        elif kind == 5:  # NFQA_IFINDEX_INDEV
            interface = int.from_bytes(body[offset + 4 : offset + 8], "big")
        offset += (size + 3) & ~3
    if identifier is None:
        return None
    return QueuedPacket(identifier, data, max(whole, len(data)), interface)
