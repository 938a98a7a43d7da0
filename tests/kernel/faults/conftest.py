"""The node on which pairs of the matrix are tried, and its bundle."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from faults.stage import Stage
from support import runtime


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A node that is there for all tests of a module; another one where one left none."""
    directory = tmp_path_factory.mktemp("faults")
    made = Stage(directory, bundle=runtime.build_bundle(directory / "bundle"))
    try:
        yield made
    finally:
        made.close()
