"""One authority, another one, and a source of checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.issuer import Issuer
from support.transfers import Source


@pytest.fixture(scope="session")
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture(scope="session")
def foreign() -> Issuer:
    return Issuer()


@pytest.fixture
def source(tmp_path: Path, issuer: Issuer) -> Iterator[Source]:
    made = Source(tmp_path, issuer)
    yield made
    made.stop()
