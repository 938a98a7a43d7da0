"""Real runc below the real launcher, init and command line; the keeper is played by the tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from support import kinds, runtime
from support.mover import Mover


@pytest.fixture(scope="session")
def bundle(bundles: Callable[[str], Path]) -> Path:
    """A bundle of this checkout in front of runc."""
    return bundles("runc")


@pytest.fixture
def lower() -> str:
    """The runtime below ours; modules that try both take it as a parameter."""
    return "runc"


@pytest.fixture
def host(bundles: Callable[[str], Path], lower: str, tmp_path: Path) -> Iterator[runtime.Host]:
    made = kinds.host_with(lower, tmp_path, bundles(lower))
    yield made
    made.close()


@pytest.fixture
def keeper(host: runtime.Host) -> Iterator[runtime.KeeperDouble]:
    double = runtime.KeeperDouble(host.run_directory)
    yield double
    double.close()


@pytest.fixture
def make(
    host: runtime.Host, keeper: runtime.KeeperDouble
) -> Iterator[Callable[..., runtime.Container]]:
    """Make managed containers that are deleted at the end."""
    made: list[runtime.Container] = []

    def managed(spec: runtime.Spec, *, lower: str | None = None) -> runtime.Container:
        made.append(host.container(spec, runtime=lower))
        return made[-1]

    yield managed
    for container in reversed(made):  # one that joined another's processes goes first
        container.remove()


@pytest.fixture
def node(host: runtime.Host) -> Iterator[runtime.Host]:
    """A host whose keeper is the real one, started on demand."""
    yield host
    host.end_keeper()


@pytest.fixture
def run(node: runtime.Host) -> Iterator[Callable[..., runtime.Container]]:
    """Start containers below the real keeper; they are deleted at the end."""
    made: list[runtime.Container] = []

    def started(spec: runtime.Spec, *, lower: str | None = None) -> runtime.Container:
        made.append(node.container(spec, runtime=lower, has_pipes=True))
        return made[-1].start()

    yield started
    for container in reversed(made):  # one that joined another's processes goes first
        container.remove()


@pytest.fixture(scope="module")
def shared(hosts: kinds.Hosts) -> runtime.Host:
    """A host in front of runc with the real keeper, for all tests of a module.

    Not together with `node`: the end of that one's keeper would be the end of this one's.
    """
    return hosts("runc")


@pytest.fixture
def mover(node: runtime.Host) -> Iterator[Mover]:
    node.run_directory.mkdir(mode=0o700, exist_ok=True)
    with (
        closing(runtime.DaemonDouble(node.run_directory)) as daemon,
        closing(Mover(node, daemon)) as made,
    ):
        yield made
