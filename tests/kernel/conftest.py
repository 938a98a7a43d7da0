"""Where the kernel tests find the programs that the images carry, and who runs beside whom."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from lab import dockerfiles
from lab.cache import Cache
from lab.settings import Settings
from support import kinds


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With ``--dist=loadfile`` not only a file stays in one process."""
    if config.getoption("dist") != "loadfile":
        return None
    from support import units  # which needs xdist, as nothing else here does

    return units.Scheduling(config, log)


@pytest.fixture(scope="session", autouse=True)
def native_programs() -> None:
    """Build, or take from the cache, what tests find by ARCHITECT_CRIU."""
    if "ARCHITECT_CRIU" not in os.environ:
        programs = dockerfiles.native_programs(Cache(Settings.from_environment().cache))
        os.environ["ARCHITECT_CRIU"] = str(programs / "architect-criu")


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Bundles of this checkout with the machine's interpreter, by the runtime below them."""

    @functools.cache
    def of(lower: str) -> Path:
        return kinds.bundle_with(lower, tmp_path_factory.mktemp("architect"))

    return of


@pytest.fixture(scope="module")
def hosts(
    bundles: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[kinds.Hosts]:
    """Hosts with the real keeper for all tests of a module that leave them as they were.

    Not together with a keeper of one test's own: its end would be the end of this one's.
    """
    with closing(kinds.Hosts(tmp_path_factory.mktemp, bundles)) as made:
        yield made
