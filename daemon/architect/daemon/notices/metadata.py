"""One request to a metadata service, bounded in time and size.

By ``http.client``, and by none of the client libraries that the daemon has: what matters here is
what does *not* happen. It follows no redirect and knows no proxy, and the connection is made by us,
in the host's network if need be. Each request has one deadline for all of it, which a server that
sends a byte a second does not move, and can be ended from another thread.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from architect.cloud.answers import Vocabulary
from architect.core.errors import FormatError, Rejected, Retryable, Unavailable
from architect.daemon.notices.clock import Clock

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CONNECT_SECONDS: Final = 1.0
"""The service is one hop away. What is not there is not waited for."""

REQUEST_SECONDS: Final = 3.0
"""For all of a request that is answered at once; it takes milliseconds."""

PROMPT_SECONDS: Final = 1.0
"""An answer that takes longer was waited for, and does not tell what time it was when it was asked
for."""

MAX_BODY_BYTES: Final = 64 * 1024
"""Of an answer. An instance identity document has 500 bytes, a scheduled event 400."""

REDIRECTED: Final = "Redirected"
UNAUTHORIZED: Final = "Unauthorized"
FORBIDDEN: Final = "Forbidden"
NOT_FOUND: Final = "NotFound"

SAYS: Final = Vocabulary(
    reasons={},
    hints={REDIRECTED: "a proxy or a captive portal answers in the metadata service's place"},
    reasons_of_status={
        **dict.fromkeys((300, 301, 302, 303, 307, 308), REDIRECTED),
        401: UNAUTHORIZED,
        403: FORBIDDEN,
        404: NOT_FOUND,
        410: NOT_FOUND,
    },
    busy_seconds=1.0,
    unreachable_hint="",
)


class Absent(Unavailable):
    """Nothing answers there, or it is no metadata service of this kind."""


class Silent(Unavailable):
    """It accepted the connection and did not answer in time."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a metadata service said."""

    url: str
    status: int
    headers: Mapping[str, str]
    """By lower-case name."""
    body: bytes

    @property
    def is_success(self) -> bool:
        """Whether it is what was asked for."""
        return self.status == 200

    @property
    def problem(self) -> Rejected | Retryable:
        """What an answer that is no success means."""
        return SAYS.named(self.status, "", "", what=f"get {self.url}")

    def text(self) -> str:
        """Return the body as text, without the whitespace around it. Raises FormatError."""
        try:
            return self.body.decode().strip()
        except UnicodeDecodeError as error:
            raise self.malformed("no text") from error

    def json(self) -> Any:
        """Return the body's JSON. Raises FormatError."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise self.malformed("no JSON") from error

    def malformed(self, problem: str) -> FormatError:
        """Return the error for an answer that is not what it should be, with its beginning."""
        return FormatError(f"{self.url} gave {problem}: {self.body[:100]!r}")


Connect = Callable[[str, int, float], socket.socket]
"""Makes a connection to host and port within so many seconds. Raises OSError."""


def connect_here(host: str, port: int, seconds: float) -> socket.socket:
    """Connect from the network that this process is in."""
    return socket.create_connection((host, port), seconds)


class Service:
    """One metadata service. Safe to use from several threads."""

    def __init__(self, url: str, *, clock: Clock, connect: Connect = connect_here) -> None:
        """*url* is ``http://host[:port]``."""
        self.url = url.rstrip("/")
        address = urlsplit(self.url)
        self._host, self._port = address.hostname or "", address.port or 80
        self._authority = address.netloc
        self._clock = clock
        self._connect = connect
        self._lock = threading.Lock()
        self._links: set[socket.socket] = set()
        self._is_closed = False

    def close(self) -> None:
        """End the requests that wait for their answers, and let no other begin."""
        with self._lock:
            self._is_closed = True
            for link in self._links:
                with contextlib.suppress(OSError):
                    link.shutdown(socket.SHUT_RDWR)

    def ask(
        self,
        path: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        seconds: float | None = None,
    ) -> Answer:
        """Return the answer, whatever its status, within *seconds* (:data:`REQUEST_SECONDS`).

        Raises Absent if there is no connection, Silent if there is no answer, Unavailable if it is
        cut off, FormatError if it is no HTTP or too long.
        """
        url = f"{self.url}{path}"
        seconds = REQUEST_SECONDS if seconds is None else seconds
        asked_at = time.monotonic()
        deadline = asked_at + seconds
        try:
            link = self._connect(self._host, self._port, min(CONNECT_SECONDS, seconds))
        except (OSError, UnicodeError) as error:  # the latter of a name that is none
            raise Absent(f"{self.url} does not answer: {error}") from error
        try:
            self._hold(link)
            answer = self._exchange(link, deadline, url, method, path, headers or {}, body)
        except TimeoutError as error:
            raise Silent(f"{url} has not answered after {seconds:g} s") from error
        except (OSError, http.client.IncompleteRead, http.client.RemoteDisconnected) as error:
            raise Unavailable(f"{url} was cut off: {error}") from error
        except (http.client.HTTPException, ValueError) as error:
            raise FormatError(f"{url} does not speak HTTP: {str(error)[:100]!r}") from error
        finally:
            with self._lock:
                self._links.discard(link)
            link.close()
        if time.monotonic() - asked_at <= PROMPT_SECONDS:
            self._clock.hear(answer.headers.get("date"), asked_at=asked_at)
        return answer

    def _hold(self, link: socket.socket) -> None:
        with self._lock:
            if self._is_closed:
                raise ConnectionAbortedError("it is not asked any more")
            self._links.add(link)

    def _exchange(
        self,
        link: socket.socket,
        deadline: float,
        url: str,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes | None,
    ) -> Answer:
        connection = http.client.HTTPConnection(self._host, self._port)
        connection.sock = _Bounded(link, deadline)
        connection.request(
            method, path, body=body, headers={"Host": self._authority, "Accept": "*/*", **headers}
        )
        response = connection.getresponse()
        data = response.read(MAX_BODY_BYTES + 1)
        if len(data) > MAX_BODY_BYTES:
            raise FormatError(f"{url} gave more than {MAX_BODY_BYTES} bytes")
        if response.length:
            raise http.client.IncompleteRead(data, response.length)
        found = {name.lower(): value for name, value in response.headers.items()}
        return Answer(url=url, status=response.status, headers=found, body=data)


class _Bounded:
    """A socket as ``http.client`` uses one, with one deadline for all that is done with it."""

    def __init__(self, link: socket.socket, deadline: float) -> None:
        self._link = link
        self._deadline = deadline

    def sendall(self, data: bytes) -> None:
        self._link.settimeout(_left(self._deadline))
        self._link.sendall(data)

    def makefile(self, _: str) -> io.BufferedReader:
        return io.BufferedReader(_Reader(self._link, self._deadline))

    def close(self) -> None:
        """Do nothing: the body may not have been read yet, and who connected closes."""


class _Reader(io.RawIOBase):
    def __init__(self, link: socket.socket, deadline: float) -> None:
        super().__init__()
        self._link = link
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        self._link.settimeout(_left(self._deadline))
        return self._link.recv_into(buffer)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("its time is over")
    return left
