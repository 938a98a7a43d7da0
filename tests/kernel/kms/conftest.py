"""A real key management service, and operators that use it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from architect.operator.kms import aws as module
from architect.operator.kms.aws import Aws
from kernel.kms.operators import Cluster
from support import s3server
from support.faultproxy import FaultProxy
from support.kmsserver import Server
from support.patience import patient


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that has no processor for some seconds is not one that does not answer."""
    monkeypatch.setattr(module, "READ_SECONDS", patient(60.0))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path / "kms") as running:
        yield running


@pytest.fixture
def key(server: Server) -> str:
    return server.new_key()


@pytest.fixture
def proxy(server: Server) -> Iterator[FaultProxy]:
    with FaultProxy(server.port) as running:
        yield running


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def aws(server: Server, key: str) -> Callable[[], Aws]:
    """Return new clients of the server's key."""
    return lambda: Aws(server.settings(key))
