"""Build nf_tables transactions (linux/netfilter/nf_tables.h, nfnetlink.h) and send them.

A `Batch` is one transaction: the kernel applies all of it or nothing. Numbers in attributes are
in network order, data compared with packets stands as it does in the packet.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

from architect.core.errors import NodeError

from . import netlink
from .netlink import attribute, nested

NFPROTO_IPV4: Final = 2
NFPROTO_IPV6: Final = 10

_SUBSYSTEM: Final = 10  # NFNL_SUBSYS_NFTABLES
_BATCH_BEGIN: Final = 0x10
_BATCH_END: Final = 0x11

_NEWTABLE, _DELTABLE = 0, 2
_NEWCHAIN = 3
_NEWRULE, _DELRULE = 6, 8
_NEWSET = 9
_NEWSETELEM, _GETSETELEM, _DELSETELEM = 12, 13, 14
_NEWOBJ, _GETOBJ = 18, 19

_PREROUTING: Final = 0  # NF_INET_PRE_ROUTING
_OBJECT_COUNTER: Final = 1
_SET_TIMEOUT: Final = 0x10
_SET_EVAL: Final = 0x20
_DYNSET_UPDATE: Final = 1

#: Registers of 4 bytes; a value of several words takes those that follow (NFT_REG32_00).
REGISTER: Final = 8

META_IIFTYPE: Final = 8
META_L4PROTO: Final = 16
NETWORK_HEADER: Final = 1
TRANSPORT_HEADER: Final = 2

ACCEPT: Final = 1
DROP: Final = 0
_GOTO: Final = -4

#: Types of set keys as the `nft` tool lists them (libnftables datatype.h).
TYPE_IPV4: Final = 7
TYPE_IPV6: Final = 8
TYPE_PROTOCOL: Final = 12
TYPE_SERVICE: Final = 13
_TYPE_BITS: Final = 6

#: A message's attribute length has 16 bits; 400 elements of at most 36 bytes stay far below.
_ELEMENTS_PER_MESSAGE: Final = 400


def _text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode("ascii") + b"\0")


def _number(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("!I", value))


def _expression(name: str, *attributes: bytes) -> bytes:
    return nested(1, _text(1, name), nested(2, *attributes))


def meta(key: int, *, register: int = REGISTER) -> bytes:
    """Load a property of the packet."""
    return _expression("meta", _number(1, register), _number(2, key))


def payload(base: int, *, offset: int, length: int, register: int = REGISTER) -> bytes:
    """Load bytes of the packet; where it has none (later fragments), the rule does not match."""
    return _expression(
        "payload", _number(1, register), _number(2, base), _number(3, offset), _number(4, length)
    )


def equals(value: bytes, *, register: int = REGISTER) -> bytes:
    """Go on with the rule only where the register holds `value`."""
    return _expression("cmp", _number(1, register), _number(2, 0), nested(3, attribute(1, value)))


def mask(bits: bytes, *, register: int = REGISTER) -> bytes:
    """Keep only `bits` of the register."""
    return _expression(
        "bitwise",
        _number(1, register),
        _number(2, register),
        _number(3, len(bits)),
        nested(4, attribute(1, bits)),
        nested(5, attribute(1, bytes(len(bits)))),
    )


def lookup(set_name: str, *, absent: bool = False) -> bytes:
    """Go on with the rule only where the registers' value is (or is not) in a set."""
    inverted = (_number(5, 1),) if absent else ()
    return _expression("lookup", _text(1, set_name), _number(2, REGISTER), *inverted)


def update(set_name: str) -> bytes:
    """Put the registers' value into a set, or set its time-out anew; a full set ends the rule."""
    return _expression(
        "dynset", _text(1, set_name), _number(3, _DYNSET_UPDATE), _number(4, REGISTER)
    )


def count(counter: str) -> bytes:
    """Add the packet to a named counter."""
    return _expression("objref", _number(1, _OBJECT_COUNTER), _text(2, counter))


def verdict(code: int) -> bytes:
    """End with `ACCEPT` or `DROP`."""
    return _expression("immediate", _number(1, 0), nested(2, nested(2, _number(1, code))))


def goto(chain: str) -> bytes:
    """Go on in another chain and do not come back."""
    code = attribute(1, struct.pack("!i", _GOTO))
    return _expression("immediate", _number(1, 0), nested(2, nested(2, code, _text(2, chain))))


def queue_native(number: int, *, bypass: bool) -> bytes:
    """nft's own `queue` (CONFIG_NFT_QUEUE)."""
    return _expression(
        "queue",
        attribute(1, struct.pack("!H", number)),
        attribute(2, struct.pack("!H", 1)),
        attribute(3, struct.pack("!H", 1 if bypass else 0)),
    )


def queue_xtables(number: int, *, bypass: bool) -> bytes:
    """The xtables target NFQUEUE, revision 3, through nft_compat (CONFIG_NFT_COMPAT)."""
    # struct xt_NFQ_info_v3 is in host order and padded to 8 bytes (XT_ALIGN).
    info = struct.pack("=HHHxx", number, 1, 1 if bypass else 0)
    return _expression("target", _text(1, "NFQUEUE"), _number(2, 3), attribute(3, info))


class Batch:
    """Messages of one transaction, in order."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._labels: list[str] = []

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to commit."""
        return not self._labels

    def _add(self, family: int, kind: int, label: str, *attributes: bytes, flags: int = 0) -> None:
        self._labels.append(label)
        # Sequence 0 is the batch's own begin; NLM_F_ACK on all would cost a datagram each.
        self._parts.append(
            netlink.message(
                _SUBSYSTEM << 8 | kind,
                struct.pack("!BBH", family, 0, 0) + b"".join(attributes),
                flags=flags,
                sequence=len(self._labels),
            )
        )

    def add_table(self, family: int, table: str) -> None:
        """Make the table unless it is there."""
        self._add(
            family,
            _NEWTABLE,
            f"add table {table}",
            _text(1, table),
            _number(2, 0),
            flags=netlink.NLM_F_CREATE,
        )

    def delete_table(self, family: int, table: str) -> None:
        """Remove the table with all it holds; ENOENT if there is none."""
        self._add(family, _DELTABLE, f"delete table {table}", _text(1, table))

    def add_chain(self, family: int, table: str, chain: str) -> None:
        """Make a chain that others go to, unless it is there."""
        self._add(
            family,
            _NEWCHAIN,
            f"add chain {table} {chain}",
            _text(1, table),
            _text(3, chain),
            flags=netlink.NLM_F_CREATE,
        )

    def add_prerouting(self, family: int, table: str, chain: str, *, priority: int) -> None:
        """Make a chain that sees every packet that comes in, unless it is there."""
        hook = nested(4, _number(1, _PREROUTING), attribute(2, struct.pack("!i", priority)))
        self._add(
            family,
            _NEWCHAIN,
            f"add chain {table} {chain}",
            _text(1, table),
            _text(3, chain),
            hook,
            _number(5, ACCEPT),
            _text(7, "filter"),
            flags=netlink.NLM_F_CREATE,
        )

    def flush_chain(self, family: int, table: str, chain: str) -> None:
        """Remove the chain's rules."""
        self._add(
            family, _DELRULE, f"flush chain {table} {chain}", _text(1, table), _text(2, chain)
        )

    def add_rule(self, family: int, table: str, chain: str, *expressions: bytes) -> None:
        """Append a rule."""
        self._add(
            family,
            _NEWRULE,
            f"add rule {table} {chain}",
            _text(1, table),
            _text(2, chain),
            nested(4, *expressions),
            flags=netlink.NLM_F_CREATE | netlink.NLM_F_APPEND,
        )

    def add_counter(self, family: int, table: str, counter: str) -> None:
        """Make a named counter unless it is there; one that is there keeps its value."""
        self._add(
            family,
            _NEWOBJ,
            f"add counter {table} {counter}",
            _text(1, table),
            _text(2, counter),
            _number(3, _OBJECT_COUNTER),
            nested(4),
            flags=netlink.NLM_F_CREATE,
        )

    def add_set(
        self,
        family: int,
        table: str,
        set_name: str,
        *,
        types: tuple[int, ...],
        length: int,
        timeout_seconds: int = 0,
        collect_seconds: int = 0,
        dynamic_bound: int = 0,
    ) -> None:
        """Make a set unless it is there; with a time-out its elements go by themselves.

        `collect_seconds` is how often the kernel frees those that went (0: each second). With
        `dynamic_bound` rules may `update` the set, up to that many elements.
        """
        key_type = 0
        for kind in types:
            key_type = key_type << _TYPE_BITS | kind
        extra: tuple[bytes, ...] = ()
        if timeout_seconds:
            extra = (attribute(11, struct.pack("!Q", timeout_seconds * 1000)),)
        if collect_seconds:
            extra += (_number(12, collect_seconds * 1000),)
        if dynamic_bound:
            extra += (nested(9, _number(1, dynamic_bound)),)
        flags = _SET_TIMEOUT if timeout_seconds else 0
        flags |= _SET_EVAL if dynamic_bound else 0
        self._add(
            family,
            _NEWSET,
            f"add set {table} {set_name}",
            _text(1, table),
            _text(2, set_name),
            _number(3, flags),
            _number(4, key_type),
            _number(5, length),
            _number(10, len(self._labels) + 1),
            *extra,
            flags=netlink.NLM_F_CREATE,
        )

    def flush_set(self, family: int, table: str, set_name: str) -> None:
        """Remove the set's elements."""
        self._add(
            family,
            _DELSETELEM,
            f"flush set {table} {set_name}",
            _text(1, table),
            _text(2, set_name),
        )

    def add_elements(self, family: int, table: str, set_name: str, keys: Iterable[bytes]) -> None:
        """Put keys into a set."""
        elements = [nested(1, nested(1, attribute(1, key))) for key in keys]
        for start in range(0, len(elements), _ELEMENTS_PER_MESSAGE):
            part = elements[start : start + _ELEMENTS_PER_MESSAGE]
            self._add(
                family,
                _NEWSETELEM,
                f"add to set {table} {set_name}",
                _text(1, table),
                _text(2, set_name),
                nested(3, *part),
                flags=netlink.NLM_F_CREATE,
            )

    def commit(self, sock: socket.socket) -> None:
        """Apply everything or nothing. NodeError names the message that the kernel refused."""
        last = len(self._labels)
        # Two empty-bodied frames of the nfnetlink layer; res_id names the subsystem.
        frame = struct.pack("!BBH", 0, 0, _SUBSYSTEM)
        data = b"".join(
            (
                netlink.message(_BATCH_BEGIN, frame),
                *self._parts[:-1],
                _with_acknowledgement(self._parts[-1]),
                netlink.message(_BATCH_END, frame, sequence=last + 1),
            )
        )
        sock.send(data)
        failure: tuple[int, int] | None = None
        acknowledged = False
        while not acknowledged:
            # The kernel has answered before send() returned: nothing to read is a lost answer.
            try:
                answers = sock.recv(netlink.RECEIVE_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            for answer in netlink.messages(answers):
                if answer.kind != netlink.NLMSG_ERROR:
                    continue
                number = netlink.error_number(answer.body)
                if number and failure is None:
                    failure = number, answer.sequence
                acknowledged = acknowledged or answer.sequence == last
        if failure is not None:
            number, sequence = failure
            label = self._labels[sequence - 1] if 0 < sequence <= last else "commit"
            raise NodeError(
                f"nf_tables: {label}: {os.strerror(number)}", reason="Netfilter", errno=number
            )
        if not acknowledged:
            raise NodeError(
                "nf_tables: the kernel did not answer a transaction",
                reason="Netfilter",
                errno=errno.EIO,
            )


def _with_acknowledgement(request: bytes) -> bytes:
    flags = struct.unpack_from("=H", request, 6)[0] | netlink.NLM_F_ACK
    return request[:6] + struct.pack("=H", flags) + request[8:]


def read_counters(sock: socket.socket, table: str) -> dict[tuple[int, str], tuple[int, int]]:
    """(family, counter) → (packets, bytes) of the named counters of a table."""
    request = netlink.message(
        _SUBSYSTEM << 8 | _GETOBJ,
        struct.pack("!BBH", 0, 0, 0) + _text(1, table) + _number(3, _OBJECT_COUNTER),
        flags=netlink.NLM_F_DUMP,
    )
    found: dict[tuple[int, str], tuple[int, int]] = {}
    for answer in netlink.dump(sock, request, what=f"read counters of nf_tables {table}"):
        fields = netlink.attributes(answer.body, offset=4)
        if fields.get(1, b"").rstrip(b"\0") != table.encode("ascii") or not answer.body:
            continue
        values = netlink.attributes(fields.get(4, b""))
        if len(values.get(1, b"")) == 8 and len(values.get(2, b"")) == 8:
            name = fields.get(2, b"").rstrip(b"\0").decode("ascii", "replace")
            found[answer.body[0], name] = (
                int.from_bytes(values[2], "big"),
                int.from_bytes(values[1], "big"),
            )
    return found


class Element(NamedTuple):
    """One element of a set."""

    key: bytes
    #: Until it goes; None where elements stay.
    expires_milliseconds: int | None


def read_elements(sock: socket.socket, family: int, table: str, set_name: str) -> list[Element]:
    """The elements of a set; none if there is no such set. OSError."""
    request = netlink.message(
        _SUBSYSTEM << 8 | _GETSETELEM,
        struct.pack("!BBH", family, 0, 0) + _text(1, table) + _text(2, set_name),
        flags=netlink.NLM_F_DUMP,
    )
    found: list[Element] = []
    try:
        for answer in netlink.dump(sock, request, what=f"read set {set_name} of nf_tables {table}"):
            found += parse_elements(answer.body)
    except FileNotFoundError:
        return []
    return found


def parse_elements(body: bytes) -> list[Element]:
    """The elements in one message of a dump."""
    found: list[Element] = []
    listed = netlink.attributes(body, offset=4).get(3, b"")
    for _, value in netlink.each_attribute(listed):
        fields = netlink.attributes(value)
        key = netlink.attributes(fields.get(1, b"")).get(1, b"")
        left = fields.get(5)
        found.append(Element(key, None if left is None else int.from_bytes(left, "big")))
    return found
