"""Metadata services on the loopback, and a lookout that looks often."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from architect.daemon.metrics import Metrics
from architect.daemon.notices import aws, azure, gcp, lookout, metadata
from architect.daemon.notices.board import Change
from architect.daemon.notices.clock import Clock
from architect.daemon.notices.lookout import Lookout
from architect.daemon.notices.metadata import Answer, Service
from architect.daemon.notices.notice import Notice
from support.cloudmetadata.aws import Imds
from support.cloudmetadata.azure import AzureImds
from support.cloudmetadata.gcp import Gce
from support.patience import patient


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look often, and wait long for an answer."""
    for module, name, value in (
        (metadata, "REQUEST_SECONDS", patient(20.0)),
        (metadata, "CONNECT_SECONDS", patient(20.0)),
        (metadata, "PROMPT_SECONDS", patient(10.0)),
        (aws, "TOKEN_SECONDS", patient(20.0)),
        (aws, "ACTION_SECONDS", 0.02),
        (aws, "REBALANCE_SECONDS", 0.02),
        (aws, "SCHEDULED_SECONDS", 0.02),
        (azure, "SPOT_SECONDS", 0.02),
        (azure, "NEXT_SECONDS", patient(20.0)),
        (gcp, "WAIT_SECONDS", 1),
        (gcp, "POLL_SECONDS", 0.05),
        (gcp, "WAIT_MARGIN_SECONDS", patient(20.0)),
        (lookout, "FAILED_FIRST_SECONDS", 0.02),
        (lookout, "FAILED_MAX_SECONDS", 0.05),
    ):
        monkeypatch.setattr(module, name, value)


@pytest.fixture
def imds() -> Iterator[Imds]:
    with Imds() as made:
        yield made


@pytest.fixture
def gce() -> Iterator[Gce]:
    with Gce() as made:
        yield made


@pytest.fixture
def azure_imds() -> Iterator[AzureImds]:
    with AzureImds() as made:
        yield made


def service(url: str, clock: Clock | None = None) -> Service:
    return Service(url, clock=clock or Clock())


def answer(body: bytes | str, *, status: int = 200, **headers: str) -> Answer:
    """Return an answer that nobody has sent."""
    data = body.encode() if isinstance(body, str) else body
    return Answer(url="http://metadata/x", status=status, headers=headers, body=data)


class Watching:
    """A lookout in a thread of its own, and all that it told."""

    def __init__(self, *names: str, endpoint: str = "", **arguments: Any) -> None:
        self.metrics = Metrics()
        self.changes: list[Change] = []
        self.lookout = Lookout(
            names,
            endpoint=endpoint,
            metrics=self.metrics,
            told=self.changes.append,
            search_first_seconds=0.02,
            **arguments,
        )
        self._stop = threading.Event()
        self._died: list[BaseException] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.lookout.run(self._stop)
        except BaseException as error:  # whatever it is, the test shall say it
            self._died.append(error)
            raise

    def __enter__(self) -> Watching:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self.lookout.close()
        self._thread.join(patient(60.0))
        assert not self._thread.is_alive()
        assert not self._died

    def until(self, condition: Callable[[], Any]) -> None:
        deadline = time.monotonic() + patient(60.0)
        while not condition():
            assert not self._died
            assert time.monotonic() < deadline, (self.told, self.failures())
            time.sleep(0.01)

    def one(self) -> Notice:
        """Wait until one notice stands, and return it."""
        self.until(lambda: len(self.lookout.standing()) == 1)
        return self.lookout.standing()[0]

    @property
    def told(self) -> list[str]:
        return [c.kind.value for c in self.changes]

    def number(self, name: str, **labels: str) -> float:
        """Return a metric's value; 0 if there is none."""
        return self.metrics.registry.get_sample_value(f"architect_{name}", labels) or 0.0

    def failures(self) -> dict[tuple[str, str], float]:
        """Return the failures by source and reason."""
        return {
            (s.labels["source"], s.labels["reason"]): s.value
            for m in self.metrics.registry.collect()
            for s in m.samples
            if s.name == "architect_notice_failures_total"
        }
