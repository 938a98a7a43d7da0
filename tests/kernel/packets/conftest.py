from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from architect.shim.packets.ruleset import Ruleset, Support, detect
from kernel.packets.topology import Topology


@pytest.fixture(scope="session")
def support() -> Iterator[Support]:
    topology = Topology(prefix=f"pkt{os.getpid()}d")
    try:
        yield detect(topology.pod)
    finally:
        topology.close()


@pytest.fixture
def topology() -> Iterator[Topology]:
    made = Topology()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def ruleset(topology: Topology, support: Support) -> Iterator[Ruleset]:
    made = Ruleset(topology.pod, support=support)
    try:
        yield made
    finally:
        made.close()
