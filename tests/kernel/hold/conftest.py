"""The real keeper, CRIU and runc below a pod in a network namespace; no engine, no Kubernetes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel.packets.topology import Topology
from support import realpod, runtime


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of this checkout with CRIU."""
    return runtime.build_bundle(tmp_path_factory.mktemp("architect"))


@pytest.fixture
def topology() -> Iterator[Topology]:
    made = Topology()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def node(bundle: Path, tmp_path: Path) -> Iterator[realpod.Node]:
    with realpod.node(tmp_path, bundle=bundle) as made:
        yield made
