"""When a directory gets what is written in it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from bench.appearing import PARTIAL, Watch
from bench.errors import BenchError


def test_making_and_renaming_are_told_with_their_times(tmp_path: Path) -> None:
    (tmp_path / "before").mkdir()
    with Watch(tmp_path) as watch:
        started = time.time()
        (tmp_path / f"uid{PARTIAL}").mkdir()
        began = watch.at(f"uid{PARTIAL}", seconds=30)
        (tmp_path / f"uid{PARTIAL}").rename(tmp_path / "uid")
        ended = watch.at("uid", seconds=30)
        with pytest.raises(BenchError, match="before"):
            watch.at("before")
    assert started <= began <= ended <= time.time()


def test_a_directory_that_is_not_there_cannot_be_watched(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Watch(tmp_path / "none")
