"""Which cloud this machine is of: all are asked at once, and the first that knows it is the one."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from architect.core.errors import ArchitectError
from architect.daemon.notices import aws, azure, gcp
from architect.daemon.notices.aws import Aws
from architect.daemon.notices.azure import Azure
from architect.daemon.notices.clock import Clock
from architect.daemon.notices.gcp import Gcp
from architect.daemon.notices.metadata import Connect, Service, connect_here
from architect.daemon.notices.providers import Machine, Provider

ANSWER_SECONDS: Final = 30.0
"""For all of them: none makes more than five requests, of 3 s each."""

URLS: Final[Mapping[str, Sequence[str]]] = MappingProxyType(
    {aws.NAME: aws.URLS, gcp.NAME: gcp.URLS, azure.NAME: azure.URLS}
)
"""Where each is. No two of an address answer to each other's questions."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A metadata service that knows this machine."""

    name: str
    service: Service
    provider: Provider
    machine: Machine


@dataclass(frozen=True, kw_only=True)
class Failed:
    """One that does not, or is not there."""

    name: str
    error: ArchitectError


class Detection:
    """Looks for the services of *names*, at *endpoint* or where each is known to be."""

    def __init__(
        self,
        names: Sequence[str],
        *,
        endpoint: str = "",
        clock: Clock,
        connect: Connect = connect_here,
        notice_seconds: float = gcp.NOTICE_SECONDS,
    ) -> None:
        self._makers: Mapping[str, Callable[[Service], Provider]] = {
            aws.NAME: Aws,
            gcp.NAME: lambda service: Gcp(service, notice_seconds=notice_seconds),
            azure.NAME: Azure,
        }
        self._places = [
            (name, url) for name in names for url in ((endpoint,) if endpoint else URLS[name])
        ]
        self._clock = clock
        self._connect = connect
        self._lock = threading.Lock()
        self._services: list[Service] = []
        self._is_closed = False

    def close(self) -> None:
        """Have :meth:`search` end soon, with nothing."""
        with self._lock:
            self._is_closed = True
            for service in self._services:
                service.close()

    def search(self) -> tuple[Found | None, list[Failed]]:
        """Return the one that knows this machine, and what the others said until then.

        Takes a second where nothing is there, and at most :data:`ANSWER_SECONDS`.
        """
        answers: queue.Queue[Found | Failed] = queue.Queue()
        services = [
            Service(url, clock=self._clock, connect=self._connect) for _, url in self._places
        ]
        with self._lock:
            if self._is_closed:
                return None, []
            self._services = services
        for (name, _), service in zip(self._places, services, strict=True):
            threading.Thread(
                target=self._identify,
                args=(name, service, answers),
                name=f"notices-{name}",
                daemon=True,
            ).start()
        failures: list[Failed] = []
        found: Found | None = None
        try:
            while found is None and len(failures) < len(services):
                answer = answers.get(timeout=ANSWER_SECONDS)
                if isinstance(answer, Found):
                    found = answer
                else:
                    failures.append(answer)
        except queue.Empty:
            pass  # what has not answered by now is not there
        with self._lock:
            self._services = []
        for service in services:
            if found is None or service is not found.service:
                service.close()
        return found, failures

    def _identify(self, name: str, service: Service, answers: queue.Queue[Found | Failed]) -> None:
        provider = self._makers[name](service)
        try:
            machine = provider.identify()
        except ArchitectError as error:
            answers.put(Failed(name=name, error=error))
        else:
            answers.put(Found(name=name, service=service, provider=provider, machine=machine))
