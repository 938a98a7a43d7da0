"""One authority, another one, and a source of checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from architect.daemon.peer import outlet
from support.issuer import Issuer
from support.patience import patient
from support.transfers import Source


@pytest.fixture(scope="session")
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture(scope="session")
def foreign() -> Issuer:
    return Issuer()


@pytest.fixture(autouse=True)
def _patiently(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up nobody who is slow."""
    monkeypatch.setattr(outlet, "TICKET_SECONDS", patient(600.0))
    monkeypatch.setattr(outlet, "STALLED_SECONDS", patient(600.0))


@pytest.fixture
def source(tmp_path: Path, issuer: Issuer) -> Iterator[Source]:
    made = Source(tmp_path, issuer)
    yield made
    made.stop()
