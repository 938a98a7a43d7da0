"""The keeper's containers in the test's process: real runc, real init, real fork server."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support import runtime, sleepers


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of this checkout that uses the machine's interpreter."""
    return runtime.build_bundle(tmp_path_factory.mktemp("architect"))


@pytest.fixture
def host(bundle: Path, tmp_path: Path) -> Iterator[runtime.Host]:
    made = runtime.Host(tmp_path, bundle=bundle)
    double = runtime.KeeperDouble(made.run_directory)  # answers `create`
    yield made
    double.close()
    made.close()


@pytest.fixture
def keeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[sleepers.Keeper]:
    sleepers.keep_state_in(tmp_path / "state", monkeypatch)
    made = sleepers.Keeper(Path(os.environ["ARCHITECT_CRIU"]))
    yield made
    made.close()


@pytest.fixture
def make(host: runtime.Host, keeper: sleepers.Keeper) -> Iterator[Callable[..., sleepers.Sleeper]]:
    """Make counting containers that are deleted at the end."""
    made: list[sleepers.Sleeper] = []

    def counting(**options: Any) -> sleepers.Sleeper:
        made.append(sleepers.Sleeper(host, **options))
        return made[-1]

    yield counting
    keeper.turn()
    for each in made:
        each.close()
