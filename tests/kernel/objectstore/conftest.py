"""A real S3 server, and clients of it with its credentials in the environment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from architect.daemon.vault.store import Store
from architect.objectstore.control import Control
from support import s3server
from support.faultproxy import FaultProxy


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[s3server.Server]:
    with s3server.Server(tmp_path / "s3") as running:
        yield running


@pytest.fixture
def proxy(server: s3server.Server) -> Iterator[FaultProxy]:
    with FaultProxy(server.port) as running:
        yield running


@pytest.fixture
def store(server: s3server.Server) -> Iterator[Store]:
    made = Store(server.settings)
    yield made
    made.close()


@pytest.fixture
def control(server: s3server.Server) -> Iterator[Control]:
    made = Control(server.settings)
    yield made
    made.close()
