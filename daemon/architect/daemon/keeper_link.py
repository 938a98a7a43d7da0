"""The daemon's side of the keeper's socket: calls, the stream of events, and its start."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from architect.api import names
from architect.api.keeper import PodState
from architect.core import wire
from architect.core.errors import FormatError, NodeError, Rejected, Unavailable
from architect.core.wire import Client
from architect.daemon.host import Host
from architect.daemon.observation import (
    Finding,
    KeeperPod,
    Observation,
    read_finding,
    read_observation,
    read_pod,
)
from architect.kube.watch import Backoff

log = logging.getLogger(__name__)

LOST_AFTER: Final = 4
"""The warden starts a keeper that ended at once; this many tries take about a second."""

EVENT_POLL_SECONDS: Final = 1.0
"""How long the reader of events waits before it looks whether it shall stop."""

START_TIMEOUT_SECONDS: Final = 10.0

CHECK_TIMEOUT_SECONDS: Final = 60.0
"""The keeper gives up on a look at a pod's processes after 20 s; its answer must arrive."""


class KeeperLink:
    """Calls to the keeper. Safe to use from several threads: each call has its own connection.

    A connection costs 0.1 ms; a shared one would make a look at the pods wait for a dump.
    Every method raises Unavailable when nobody answers, Rejected or NodeError for the answer no.
    """

    def __init__(
        self,
        *,
        timeout_seconds: float,
        transition_timeout_seconds: float,
        path: Path = names.KEEPER_SOCKET,
    ) -> None:
        self._path = path
        self._timeout_seconds = timeout_seconds
        self._transition_timeout_seconds = transition_timeout_seconds

    def version(self) -> str:
        """Return the keeper's version."""
        return str(self._call("version").get("version"))

    def pods(self) -> list[KeeperPod]:
        """Return all pods that the keeper knows."""
        return [read_pod(value) for value in self._call("list").get("pods") or ()]

    def status(self, uid: str) -> KeeperPod:
        """Return one pod."""
        return read_pod(self._call("status", pod=uid).get("status") or {})

    def observe(self, uids: Iterable[str]) -> list[Observation]:
        """Return what the keeper sees of *uids*; none: nothing is asked."""
        if not (pods := sorted(uids)):
            return []
        answer = self._call("observe", pods=pods)
        return [read_observation(value) for value in answer.get("observations") or ()]

    def check(self, uid: str) -> tuple[Finding, ...]:
        """Return what keeps a running pod from being dumped, and what else stands out in it."""
        answer = self._call("check", timeout_seconds=CHECK_TIMEOUT_SECONDS, pod=uid)
        return tuple(read_finding(value) for value in answer.get("findings") or ())

    def memory(self) -> dict[str, int]:
        """Return how many bytes of memory a dump of each awake pod would write, by uid.

        An older keeper knows only what its cgroups have in all, files that were read included.
        """
        try:
            found = self._call("memory").get("memory")
        except Rejected as error:
            if error.reason != "Protocol":
                raise
            return self._all_memory()
        if not isinstance(found, dict):
            raise FormatError(f"keeper's answer to memory is malformed: {found!r:.200}")
        return {str(uid): int(size) for uid, size in found.items()}

    def _all_memory(self) -> dict[str, int]:
        seen = map(read_observation, self._call("observe", pods=[]).get("observations") or ())
        return {
            o.uid: sum(usage.memory_bytes for usage in o.containers.values())
            for o in seen
            if o.state is PodState.AWAKE
        }

    def sleep(
        self, uid: str, *, reason: str, patience_seconds: float, is_forced: bool = False
    ) -> None:
        """Put a pod to sleep and return when it sleeps; *is_forced*: though it failed before."""
        self._call(
            "sleep",
            timeout_seconds=self._transition_timeout_seconds,
            pod=uid,
            reason=reason,
            patience_seconds=patience_seconds,
            force=is_forced,
        )

    def wake(self, uid: str, *, reason: str) -> None:
        """Wake a pod and return when it is awake."""
        self._call("wake", timeout_seconds=self._transition_timeout_seconds, pod=uid, reason=reason)

    def capture(
        self, uid: str, *, reason: str, patience_seconds: float, ends_with: Sequence[Sequence[str]]
    ) -> bool:
        """Put a pod to sleep for its successor; :meth:`wake` undoes it until :meth:`depart`.

        *ends_with* are commands that succeed from then on without reaching it: preStop hooks.
        Return whether it slept anyway.
        """
        answer = self._call(
            "capture",
            timeout_seconds=self._transition_timeout_seconds,
            pod=uid,
            reason=reason,
            patience_seconds=patience_seconds,
            ends_with=[list(argv) for argv in ends_with],
        )
        return answer.get("has_slept") is True

    def depart(self, uid: str, *, reason: str) -> None:
        """Leave a captured pod to its successor: it never runs here again."""
        self._call("depart", pod=uid, reason=reason)

    @contextlib.contextmanager
    def copying(self, uid: str, *, reason: str, patience_seconds: float) -> Iterator[None]:
        """Have a pod asleep inside the block, and as it was before behind it.

        Rejected with reason ``NotCaptured`` at its end: the pod was woken in between. However the
        block, this process or the keeper ends, the pod goes on.
        """
        with Client(self._path, timeout_seconds=self._transition_timeout_seconds) as client:
            client.call("copy", pod=uid, reason=reason, patience_seconds=patience_seconds)
            yield
            client.call("go_on", pod=uid)

    def note(self, uid: str, *, why: list[str], idle_in_seconds: float | None) -> None:
        """Leave the verdict with the keeper, for ``architect-runtime why``."""
        self._call("note", pod=uid, why=why, idle_in_seconds=idle_in_seconds)

    def ready(self, uid: str, containers: dict[str, bool]) -> None:
        """Tell kubelet's verdict on each container, which the stand-in repeats."""
        self._call("ready", pod=uid, containers=containers)

    def forget(self, uid: str) -> int:
        """Remove a pod's images, because the API says that it is gone; returns freed bytes."""
        return int(self._call("forget", pod=uid).get("freed_bytes") or 0)

    def _call(
        self, op: str, *, timeout_seconds: float | None = None, **arguments: Any
    ) -> dict[str, Any]:
        timeout = self._timeout_seconds if timeout_seconds is None else timeout_seconds
        with Client(self._path, timeout_seconds=timeout) as client:
            return client.call(op, **arguments)

    def follow(
        self,
        handle: Callable[[dict[str, Any]], None],
        connected: Callable[[], None],
        lost: Callable[[], None],
        *,
        stop: threading.Event,
        backoff: Backoff | None = None,
    ) -> None:
        """Pass each event to *handle* until *stop*; connect again whenever the stream ends.

        *connected* is called after each connect: whatever was missed is in the keeper's list.
        *lost* is called at each failure in a row from the :data:`LOST_AFTER`-th on: the keeper's
        own parent seems to be gone too, which nobody else may notice for long.
        """
        backoff = backoff or Backoff(first_seconds=0.1, max_seconds=5.0)
        failures = 0

        def is_back() -> None:
            nonlocal failures
            failures = 0
            connected()

        while not stop.is_set():
            try:
                self._follow_once(handle, is_back, stop=stop, backoff=backoff)
            except (Unavailable, FormatError, Rejected, NodeError) as error:
                if stop.is_set():
                    return
                log.warning("keeper's events: %s", error)
                failures += 1
                if failures >= LOST_AFTER:
                    lost()
                stop.wait(backoff.next())

    def _follow_once(
        self,
        handle: Callable[[dict[str, Any]], None],
        connected: Callable[[], None],
        *,
        stop: threading.Event,
        backoff: Backoff,
    ) -> None:
        decoder = wire.Decoder()
        request = {"v": wire.PROTOCOL_VERSION, "op": "subscribe", "missed": True}
        is_subscribed = False
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
            # Silence is normal: the time-out only lets the loop look at *stop*.
            stream.settimeout(EVENT_POLL_SECONDS)
            try:
                stream.connect(str(self._path))
                stream.sendall(wire.encode(request))
            except OSError as error:
                raise Unavailable(f"cannot connect to {self._path}: {error}") from error
            while not stop.is_set():
                try:
                    data = stream.recv(65536)
                except TimeoutError:
                    continue
                except OSError as error:
                    raise Unavailable(f"{self._path}: {error}") from error
                if not data:
                    raise Unavailable(f"{self._path} closed the connection")
                for message in decoder.feed(data):
                    if is_subscribed:
                        handle(message)
                        continue
                    if message.get("ok") is not True:
                        raise wire.error_of(message)
                    is_subscribed = True
                    backoff.reset()
                    connected()
                    for missed in message.get("missed") or ():
                        handle(missed)


def start(host: Host, *, current: Path) -> None:
    """Start the keeper's parent in the host's namespaces; harmless if it runs.

    It leaves this pod's cgroups by itself. Raises NodeError.
    """
    host.run([str(current / "bin" / "architect-warden")], timeout_seconds=START_TIMEOUT_SECONDS)
