"""The keeper's side of its parent, which keeps descriptors across the keeper's death.

The warden passes a socket as descriptor 3 and what it holds from 4 on, named by ``ARCHITECT_FDS``.
A packet queue whose socket it holds stays bound while the keeper is away: packets wait instead of
being dropped. Messages are described in ``docs/formats.md``.
"""

from __future__ import annotations

import array
import logging
import os
import re
import socket
from typing import Final

log = logging.getLogger(__name__)

SOCKET_DESCRIPTOR: Final = 3
FIRST_HELD: Final = 4
VARIABLE: Final = "ARCHITECT_FDS"
_NAME = re.compile(r"[A-Za-z0-9._:-]{1,120}")


class Warden:
    """The connection to the warden; does nothing when the keeper was started without one."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self.held: dict[str, int] = {}
        """Descriptors of the keeper before us, by name; take them with :meth:`take`."""
        names = os.environ.pop(VARIABLE, None)
        if names is None:
            return
        self._socket = socket.socket(fileno=SOCKET_DESCRIPTOR)
        self._socket.set_inheritable(False)
        for number, name in enumerate(filter(None, names.split(",")), start=FIRST_HELD):
            os.set_inheritable(number, False)
            self.held[name] = number

    def take(self, name: str) -> int | None:
        """Return the held descriptor *name* and make it ours; the warden keeps its duplicate."""
        return self.held.pop(name, None)

    def store(self, name: str, fd: int) -> None:
        """Give the warden a duplicate of *fd*."""
        assert _NAME.fullmatch(name)
        self._send(f"store {name}", fd)

    def drop(self, name: str) -> None:
        """Make the warden close what it holds as *name*; unknown names are ignored."""
        self._send(f"drop {name}")

    def quit(self) -> None:
        """Make the warden end when we end, instead of starting a keeper again."""
        self._send("quit")

    def drop_untaken(self) -> None:
        """Close what nobody took: their pods are gone."""
        for name, fd in self.held.items():
            os.close(fd)
            self.drop(name)
        self.held.clear()

    def _send(self, message: str, fd: int | None = None) -> None:
        if self._socket is None:
            return
        ancillary = (
            [] if fd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        )
        try:
            self._socket.sendmsg([message.encode()], ancillary)
        except OSError as error:
            # Nothing is lost now, only at our next death; say so and go on serving.
            log.error("the warden does not take %r: %s", message, error)
