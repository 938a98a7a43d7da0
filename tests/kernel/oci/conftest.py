"""Containers of every kind, to which the questions of the OCI runtime specification are put.

``tests/kernel/shim/test_behaviour.py`` asks what applications and engines see; here is what the
specification says of the command line. What it leaves to the runtime is the plain runtime's answer.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.kinds import (
    ASLEEP,
    MANAGED,
    PLAIN,
    UNMANAGED,
    Hosts,
    Making,
    Pair,
    kinds,
    made,
    paired,
)


@pytest.fixture(params=kinds(PLAIN, UNMANAGED, MANAGED, crun=(MANAGED,), long=(UNMANAGED,)))
def make(hosts: Hosts, request: pytest.FixtureRequest) -> Iterator[Making]:
    """Make containers of which the test needs no sleep."""
    yield from made(hosts, request.param)


@pytest.fixture(params=kinds(PLAIN, UNMANAGED, MANAGED, ASLEEP, crun=(ASLEEP,), long=(UNMANAGED,)))
def make_any(hosts: Hosts, request: pytest.FixtureRequest) -> Iterator[Making]:
    """The same, and such as sleep when `Making.settle` is called."""
    yield from made(hosts, request.param)


@pytest.fixture(params=kinds(UNMANAGED, MANAGED, crun=(MANAGED,), long=(UNMANAGED,)))
def pair(hosts: Hosts, request: pytest.FixtureRequest) -> Iterator[Pair]:
    """Both of what must not differ."""
    yield from paired(hosts, request.param)


@pytest.fixture(params=kinds(UNMANAGED, MANAGED, ASLEEP, crun=(ASLEEP,), long=(UNMANAGED,)))
def pair_any(hosts: Hosts, request: pytest.FixtureRequest) -> Iterator[Pair]:
    """The same, and ours asleep."""
    yield from paired(hosts, request.param)
