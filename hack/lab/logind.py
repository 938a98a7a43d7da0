"""A double of systemd-logind, as far as kubelet's graceful shutdown of a node needs one.

Run by a machine's Python, beside a real ``dbus-daemon``, with the seconds of the longest delay. It
has what org.freedesktop.login1(5) says of delay locks: who holds one has as long after the signal
``PrepareForShutdown(true)``. It ends no machine: ``PowerOff`` begins a shutdown, which stays under
way until ``CancelScheduledShutdown`` takes it back.
"""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jeepney import (
    DBusAddress,
    HeaderFields,
    Message,
    MessageType,
    message_bus,
    new_error,
    new_method_return,
    new_signal,
)
from jeepney.io.blocking import DBusConnection, open_dbus_connection

NAME = "org.freedesktop.login1"
PATH = "/org/freedesktop/login1"
MANAGER = "org.freedesktop.login1.Manager"
PROPERTIES = "org.freedesktop.DBus.Properties"
IN_PROGRESS = "org.freedesktop.login1.OperationInProgress"
UNKNOWN = "org.freedesktop.DBus.Error.UnknownMethod"
STEP_SECONDS = 0.1


class Refused(Exception):
    """An answer that is an error: its D-Bus name, then a text."""


@dataclass(frozen=True)
class Lock:
    """A lock that lasts as long as somebody has the other end of a pipe."""

    what: str
    who: str
    why: str
    mode: str
    end: int

    @property
    def is_held(self) -> bool:
        poll = select.poll()
        poll.register(self.end, 0)
        return not poll.poll(0)

    def row(self) -> tuple[str, str, str, str, int, int]:
        return (self.what, self.who, self.why, self.mode, 0, 0)


class Manager:
    """Logind's object, of one thread."""

    def __init__(self, connection: DBusConnection, *, delay_seconds: float) -> None:
        self._connection = connection
        self._delay_seconds = delay_seconds
        self._locks: list[Lock] = []
        self._sent: list[int] = []
        """Our copies of what is in an answer that is on its way."""
        self._began_at: float | None = None
        self._is_told = False

    def serve(self) -> None:
        """Answer for ever."""
        while True:
            try:
                message = self._connection.receive(timeout=STEP_SECONDS)
            except TimeoutError:
                message = None
            if message is not None and message.header.message_type is MessageType.method_call:
                self._connection.send(self._answer(message))
                while self._sent:  # the lock ends with its last holder
                    os.close(self._sent.pop())
            self._look()

    def _answer(self, message: Message) -> Message:
        member = message.header.fields.get(HeaderFields.member)
        interface = message.header.fields.get(HeaderFields.interface)
        methods: dict[tuple[Any, Any], tuple[str | None, Callable[..., Any]]] = {
            (PROPERTIES, "Get"): ("v", self._get),
            (MANAGER, "Inhibit"): ("h", self._inhibit),
            (MANAGER, "ListInhibitors"): ("a(ssssuu)", self._list),
            (MANAGER, "PowerOff"): (None, self._power_off),
            (MANAGER, "CancelScheduledShutdown"): ("b", self._cancel),
        }
        found = methods.get((interface, member))
        if found is None:
            return new_error(message, UNKNOWN, "s", (f"{interface}.{member} is not doubled",))
        signature, method = found
        try:
            return new_method_return(message, signature, method(*message.body))
        except Refused as error:
            name, text = error.args
            return new_error(message, name, "s", (text,))

    def _look(self) -> None:
        """Let go of locks whose holder has; say when the machine would end."""
        for lock in [one for one in self._locks if not one.is_held]:
            os.close(lock.end)
            self._locks.remove(lock)
            say(f"{lock.who} lets the machine go")
        if self._began_at is None or self._is_told:
            return
        waited = time.monotonic() - self._began_at
        holders = [lock.who for lock in self._delaying()]
        if not holders or waited > self._delay_seconds:
            self._is_told = True
            say(f"the machine would end now, after {waited:.1f} s, held by {holders or 'nobody'}")

    def _delaying(self) -> list[Lock]:
        return [x for x in self._locks if "shutdown" in x.what.split(":") and x.mode == "delay"]

    def _inhibit(self, what: str, who: str, why: str, mode: str) -> tuple[int]:
        if self._began_at is not None and "shutdown" in what.split(":") and mode == "delay":
            raise Refused(IN_PROGRESS, "a shutdown is under way already")
        ours, theirs = os.pipe()
        self._locks.append(Lock(what, who, why, mode, ours))
        self._sent.append(theirs)
        say(f"{who} delays {what}: {why}")
        return (theirs,)

    def _list(self) -> tuple[list[tuple[str, str, str, str, int, int]]]:
        return ([lock.row() for lock in self._locks],)

    def _get(self, interface: str, name: str) -> tuple[tuple[str, Any]]:
        values: dict[str, tuple[str, Any]] = {
            "InhibitDelayMaxUSec": ("t", int(self._delay_seconds * 1e6)),
            "PreparingForShutdown": ("b", self._began_at is not None),
        }
        if interface != MANAGER or name not in values:
            raise Refused(UNKNOWN, f"{interface}.{name} is not doubled")
        return (values[name],)

    def _power_off(self, _is_interactive: bool) -> tuple[()]:
        if self._began_at is not None:
            raise Refused(IN_PROGRESS, "a shutdown is under way already")
        self._began_at, self._is_told = time.monotonic(), False
        self._signal(is_ending=True)
        return ()

    def _cancel(self) -> tuple[bool]:
        was_ending = self._began_at is not None
        self._began_at = None
        if was_ending:
            self._signal(is_ending=False)
        return (was_ending,)

    def _signal(self, *, is_ending: bool) -> None:
        say(f"PrepareForShutdown({is_ending})")
        emitter = DBusAddress(PATH, interface=MANAGER)
        self._connection.send(new_signal(emitter, "PrepareForShutdown", "b", (is_ending,)))


def say(text: str) -> None:
    print(f"{time.time():.3f} {text}", flush=True)


def main() -> None:
    connection = open_dbus_connection(bus="SYSTEM", enable_fds=True)
    reply = connection.send_and_get_reply(message_bus.RequestName(NAME))
    if reply.body != (1,):  # the only owner
        sys.exit(f"{NAME} is not ours: {reply.body}")
    Manager(connection, delay_seconds=float(sys.argv[1])).serve()


if __name__ == "__main__":
    main()
