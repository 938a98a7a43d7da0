"""The stand-in's edge: one sleeping container's ports, moved along by the keeper's loop.

Everything is behind one descriptor, an epoll of its own, so that the keeper registers a
stand-in once: descriptors of conversations come and go, and their numbers are used again.
Nothing blocks, and memory and conversations are bounded.
"""

from __future__ import annotations

import collections
import contextlib
import select
import socket
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from architect.shim.standin.dialogue import Health, Kind, Progress
from architect.shim.standin.ports import Listener, listen, needed
from architect.shim.standin.sniff import Sniffer
from architect.shim.standin.tls import Certificate

CONVERSATIONS = 256
"""Kubelet has one connection per probe and period; the rest waits in the backlog."""

SILENCE_SECONDS = 5.0
"""A prober speaks at once or hangs up: its own time-out is 1 s unless changed."""

LIFETIME_SECONDS = 30.0
"""How long a conversation may drip along before it is hung up on."""

HOOK_SECONDS = 600.0
"""How long a lifecycle hook may wait; kubelet ends it with the pod's grace period."""

ACCEPT_PAUSE_SECONDS = 1.0
"""Rest after accept failed for want of descriptors or memory: the listener stays readable."""

ANSWERING_KINDS = frozenset((Kind.HTTP, Kind.HTTPS, Kind.GRPC))
"""Kinds whose answer can say that the application is not healthy."""

OUTPUT_LIMIT_BYTES = 16 * 1024
READ_BYTES = 4096
EVENTS_PER_TURN = 64


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A port that could not be taken, and why."""

    listener: Listener
    reason: str


@dataclass(kw_only=True)
class _Conversation:
    """A connection that the stand-in has accepted."""

    connection: socket.socket
    port: int
    dialogue: Sniffer
    opened_at: float
    heard_at: float
    output: bytearray = field(default_factory=bytearray)
    spoken: bool = False
    counted: bool = False
    mask: int = select.EPOLLIN

    @property
    def deadline(self) -> float:
        if self.dialogue.progress is Progress.WAITING:
            return self.opened_at + HOOK_SECONDS
        return min(self.heard_at + SILENCE_SECONDS, self.opened_at + LIFETIME_SECONDS)


class StandIn:
    """Answers kubelet's probes for one sleeping container.

    While unhealthy, a port refuses connections unless it is known to be probed only by kinds
    that have an answer to say so in: to a TCP probe, taking the connection is success.
    """

    def __init__(
        self,
        listeners: Iterable[Listener],
        *,
        enter_netns: Callable[[], contextlib.AbstractContextManager[object]],
        health: Health,
        certificate: Certificate | None,
        probed: Mapping[int, Collection[Kind]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Listen on the ports, inside ``with enter_netns():``.

        *probed* is what the pod's policy says of its probes, by port; kinds that show only
        later are learned.
        Ports that cannot be taken are in :attr:`skipped`. Raises OSError if there is no
        descriptor left for the epoll, and whatever *enter_netns* raises.
        """
        self._listeners = needed(listeners)
        self._enter_netns = enter_netns
        self._health = health
        self._certificate = certificate
        self._clock = clock
        self._retired = False
        self._accepting = True
        self._accept_again_at: float | None = None
        self._open: dict[int, tuple[Listener, socket.socket]] = {}
        self._conversations: dict[int, _Conversation] = {}
        self._kinds = {port: set(kinds) for port, kinds in (probed or {}).items()}
        self.skipped: tuple[Skipped, ...] = ()
        self.counters: collections.Counter[str] = collections.Counter()
        self._epoll = select.epoll()
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            self._settle_listeners()
            undo.pop_all()

    def fileno(self) -> int:
        """Return the descriptor that is readable whenever :meth:`ready` has work."""
        return self._epoll.fileno()

    @property
    def health(self) -> Health:
        """The state that probes are told."""
        return self._health

    @property
    def listening(self) -> tuple[Listener, ...]:
        """The listeners that are open."""
        return tuple(listener for listener, _ in self._open.values())

    @property
    def conversations(self) -> int:
        """How many connections are open."""
        return len(self._conversations)

    @property
    def wake_reason(self) -> str | None:
        """Why the application is needed: a lifecycle hook waits for it. Else None."""
        for each in self._conversations.values():
            if each.dialogue.progress is Progress.WAITING:
                return f"http lifecycle hook on port {each.port}"
        return None

    def set_health(self, health: Health) -> None:
        """Answer from another state from now on, also in conversations under way.

        Becoming unhealthy hangs up on waiting hooks: there is nothing to wait for. Becoming
        healthy takes refused ports again; raises whatever *enter_netns* raises.
        """
        self._health = health
        if not health.healthy:
            for each in [*self._conversations.values()]:
                if each.dialogue.progress is Progress.WAITING:
                    self._drop(each)
        self._settle_listeners()

    def ready(self) -> None:
        """Accept, read, answer and close whatever can be now; raises nothing."""
        for fd, mask in self._epoll.poll(0, EVENTS_PER_TURN):
            if fd in self._open:
                self._accept(*self._open[fd])
            elif fd in self._conversations:
                self._serve(self._conversations[fd], mask)
        self._settle_accepting()

    def tick(self) -> None:
        """End what is past its deadline; raises nothing."""
        now = self._clock()
        for each in [*self._conversations.values()]:
            if each.deadline <= now:
                self._count(each, Kind.UNKNOWN if each.spoken else Kind.SILENT)
                self._drop(each)
        if self._accept_again_at is not None and self._accept_again_at <= now:
            self._accept_again_at = None
        self._settle_accepting()

    def next_deadline(self) -> float | None:
        """Return when, by the clock, :meth:`tick` has work at the latest; None for never."""
        deadlines = [each.deadline for each in self._conversations.values()]
        if self._accept_again_at is not None:
            deadlines.append(self._accept_again_at)
        return min(deadlines, default=None)

    def close_listeners(self) -> None:
        """Free the application's ports at once, for its restore.

        Connections that are complete are taken in first and go on. One whose handshake is
        not complete is reset by the kernel: the packet gate holds new SYNs and lets begun
        handshakes end before this is called.
        """
        self._retired = True
        for listener, opened in [*self._open.values()]:
            self._accept(listener, opened)
        self._close_unwanted()

    def open_listeners(self) -> None:
        """Take the ports again after a restore that failed, as far as health allows.

        Raises whatever *enter_netns* raises.
        """
        self._retired = False
        self._settle_listeners()

    def application_is_back(self) -> None:
        """Send waiting lifecycle hooks to the application, which now listens itself."""
        for each in [*self._conversations.values()]:
            each.output += each.dialogue.application_is_back()
            self._flush(each)

    def close(self) -> None:
        """Close everything; conversations under way are cut. Twice does nothing."""
        for each in [*self._conversations.values()]:
            self._drop(each)
        for _, opened in self._open.values():
            opened.close()
        self._open.clear()
        self._epoll.close()

    # ---- listeners

    def _wanted(self, listener: Listener) -> bool:
        if self._retired:
            return False
        kinds = self._kinds.get(listener.port, set())
        says_so = bool(kinds & ANSWERING_KINDS) and Kind.TCP not in kinds
        return self._health.healthy or says_so

    def _close_unwanted(self) -> None:
        for fd, (listener, opened) in [*self._open.items()]:
            if not self._wanted(listener):
                del self._open[fd]
                opened.close()

    def _settle_listeners(self) -> None:
        """Make the open listeners those that are wanted."""
        self._close_unwanted()
        missing = [
            each for each in self._listeners if self._wanted(each) and each not in self.listening
        ]
        if not missing:
            return
        skipped = []
        with self._enter_netns():
            for listener in missing:
                try:
                    opened = listen(listener)
                except OSError as error:
                    reason = f"cannot listen on {listener}: {error.strerror or error}"
                    skipped.append(Skipped(listener=listener, reason=reason))
                    continue
                self._open[opened.fileno()] = listener, opened
                if self._accepting:
                    self._epoll.register(opened, select.EPOLLIN)
        self.skipped = tuple(skipped)

    def _settle_accepting(self) -> None:
        """Watch the listeners only while a connection could be taken: epoll repeats itself."""
        room = len(self._conversations) < CONVERSATIONS and self._accept_again_at is None
        if room == self._accepting:
            return
        self._accepting = room
        for fd in self._open:
            if room:
                self._epoll.register(fd, select.EPOLLIN)
            else:
                self._epoll.unregister(fd)

    def _accept(self, listener: Listener, opened: socket.socket) -> None:
        while len(self._conversations) < CONVERSATIONS:
            try:
                connection, _ = opened.accept()
            except BlockingIOError:
                return
            except ConnectionAbortedError:  # reset while it was queued
                continue
            except OSError:  # EMFILE, ENFILE, ENOBUFS, ENOMEM
                self.counters["accept_failed"] += 1
                self._accept_again_at = self._clock() + ACCEPT_PAUSE_SECONDS
                return
            self._admit(connection, port=listener.port)

    def _admit(self, connection: socket.socket, *, port: int) -> None:
        connection.setblocking(False)
        now = self._clock()
        conversation = _Conversation(
            connection=connection,
            port=port,
            dialogue=Sniffer(
                lambda: self._health,
                certificate=self._certificate,
                on_missing_certificate=self._missing_certificate,
            ),
            opened_at=now,
            heard_at=now,
        )
        try:
            self._epoll.register(connection, conversation.mask)
        except OSError:  # ENOSPC of max_user_watches, ENOMEM
            self.counters["accept_failed"] += 1
            connection.close()
            return
        self._conversations[connection.fileno()] = conversation

    # ---- conversations

    def _serve(self, each: _Conversation, mask: int) -> None:
        if mask & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
            try:
                data = each.connection.recv(READ_BYTES)
            except BlockingIOError:
                return
            except OSError:  # reset by the peer
                data = b""
            if not data:
                self._count(each, Kind.UNKNOWN if each.spoken else Kind.TCP)
                self._drop(each)
                return
            each.spoken = True
            each.heard_at = self._clock()
            each.output += each.dialogue.receive(data)
        self._flush(each)

    def _flush(self, each: _Conversation) -> None:
        """Send what can be sent, and hang up on what has failed or does not listen."""
        if each.output:
            try:
                sent = each.connection.send(each.output)
            except BlockingIOError:
                sent = 0
            except OSError:  # EPIPE, ECONNRESET: the peer has gone
                self._count(each, Kind.UNKNOWN)
                self._drop(each)
                return
            del each.output[:sent]
        if each.dialogue.kind is not None:
            self._count(each, each.dialogue.kind)
        failed = each.dialogue.progress is Progress.FAILED and not each.output
        if failed or len(each.output) > OUTPUT_LIMIT_BYTES:
            self._count(each, Kind.UNKNOWN)
            self._drop(each)
            return
        mask = select.EPOLLIN | (select.EPOLLOUT if each.output else 0)
        if mask != each.mask:
            self._epoll.modify(each.connection, mask)
            each.mask = mask

    def _count(self, each: _Conversation, kind: Kind) -> None:
        if each.counted:
            return
        each.counted = True
        kind = each.dialogue.kind or kind
        self.counters[kind.value] += 1
        if kind not in (Kind.UNKNOWN, Kind.SILENT):
            self._kinds.setdefault(each.port, set()).add(kind)
            if not self._health.healthy:
                self._close_unwanted()

    def _drop(self, each: _Conversation) -> None:
        del self._conversations[each.connection.fileno()]
        each.connection.close()

    def _missing_certificate(self) -> None:
        self.counters["https_without_certificate"] += 1
