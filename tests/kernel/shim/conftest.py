"""Real runc below the real launcher, init and command line; the keeper is played by the tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from support import runtime
from support.mover import Mover


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of this checkout that uses the machine's interpreter."""
    return runtime.build_bundle(tmp_path_factory.mktemp("architect"))


@pytest.fixture
def host(bundle: Path, tmp_path: Path) -> Iterator[runtime.Host]:
    made = runtime.Host(tmp_path, bundle=bundle)
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
def shared(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[runtime.Host]:
    """A host with the real keeper for all tests of a module that leave it as it was.

    Not together with `node`: the end of that one's keeper would be the end of this one's.
    """
    made = runtime.Host(tmp_path_factory.mktemp("shared"), bundle=bundle)
    yield made
    made.end_keeper()
    made.close()


@pytest.fixture
def mover(node: runtime.Host) -> Iterator[Mover]:
    node.run_directory.mkdir(mode=0o700, exist_ok=True)
    with (
        closing(runtime.DaemonDouble(node.run_directory)) as daemon,
        closing(Mover(node, daemon)) as made,
    ):
        yield made
