"""Where the kernel tests find the programs that the images carry."""

from __future__ import annotations

import os

import pytest

from lab import dockerfiles
from lab.cache import Cache
from lab.settings import Settings


@pytest.fixture(scope="session", autouse=True)
def native_programs() -> None:
    """Build, or take from the cache, what tests find by ARCHITECT_CRIU."""
    if "ARCHITECT_CRIU" not in os.environ:
        programs = dockerfiles.native_programs(Cache(Settings.from_environment().cache))
        os.environ["ARCHITECT_CRIU"] = str(programs / "architect-criu")
