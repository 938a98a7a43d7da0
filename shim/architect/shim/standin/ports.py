"""What a sleeping application listened on, and listening there in its place."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from dataclasses import dataclass

BACKLOG = 128
"""Connections of probes that may wait for one turn of the keeper's loop."""


@dataclass(frozen=True, kw_only=True, order=True)
class Listener:
    """One listening TCP socket of an application, as the kernel described it."""

    family: int
    """``socket.AF_INET`` or ``socket.AF_INET6``."""

    address: str
    """The bound address as ``inet_ntop`` writes it, without a scope."""

    port: int

    v6only: bool = False
    """IPV6_V6ONLY: a wildcard without it also takes IPv4 connections."""

    scope_id: int = 0
    """The interface index of a link-local IPv6 address."""

    def __str__(self) -> str:
        return (
            f"[{self.address}]:{self.port}"
            if self.family == socket.AF_INET6
            else (f"{self.address}:{self.port}")
        )

    @property
    def wildcard(self) -> bool:
        """Whether it takes connections to every address of its family."""
        return self.address in ("0.0.0.0", "::")

    @property
    def dual_stack(self) -> bool:
        """Whether it takes IPv4 connections as well."""
        return self.family == socket.AF_INET6 and self.wildcard and not self.v6only

    def covers(self, other: Listener) -> bool:
        """Whether a connection for *other* would reach this socket too."""
        if self.port != other.port:
            return False
        if self.dual_stack:
            return True
        if self.family != other.family:
            return False
        return self.wildcard or (self.address, self.scope_id) == (other.address, other.scope_id)


def needed(listeners: Iterable[Listener]) -> tuple[Listener, ...]:
    """Return the fewest listeners that take every connection the given ones would take.

    An application may have several sockets on one port (SO_REUSEPORT); a second one of ours
    would only fail with EADDRINUSE.
    """
    kept: list[Listener] = []
    for listener in sorted(
        set(listeners), key=lambda each: (not each.dual_stack, not each.wildcard, each)
    ):
        if not any(wider.covers(listener) for wider in kept):
            kept.append(listener)
    return tuple(kept)


def listen(listener: Listener) -> socket.socket:
    """Listen like *listener* in the present network namespace, without blocking.

    SO_REUSEADDR is inherited by every accepted connection; with it the application's own
    socket can be bound again while conversations are still under way. SO_REUSEPORT is not
    set: it would share the port with another container's listener instead of failing.

    Raises OSError: EADDRINUSE if somebody else listens there, EADDRNOTAVAIL if the address
    is not the namespace's own, EAFNOSUPPORT without IPv6.
    """
    family = socket.AddressFamily(listener.family)
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.setblocking(False)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, listener.v6only)
            opened.bind((listener.address, listener.port, 0, listener.scope_id))
        else:
            opened.bind((listener.address, listener.port))
        opened.listen(BACKLOG)
    except OSError:
        opened.close()
        raise
    return opened
