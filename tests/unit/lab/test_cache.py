from __future__ import annotations

from pathlib import Path

import pytest

from lab import errors
from lab.cache import Cache, hold


def test_an_artefact_is_built_once(tmp_path: Path) -> None:
    builds: list[Path] = []

    def build(directory: Path) -> None:
        builds.append(directory)
        (directory / "file").write_text("content")

    cache = Cache(tmp_path)
    first = cache.artefact("thing", version="1", recipe=["a"], build=build)
    second = cache.artefact("thing", version="1", recipe=["a"], build=build)
    assert first == second
    assert (first / "file").read_text() == "content"
    assert len(builds) == 1


def test_another_recipe_is_another_artefact(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    one = cache.artefact("thing", version="1", recipe=["a"], build=lambda directory: None)
    other = cache.artefact("thing", version="1", recipe=["b"], build=lambda directory: None)
    assert one != other


def test_a_build_that_fails_leaves_nothing_half_made(tmp_path: Path) -> None:
    def fail(directory: Path) -> None:
        (directory / "half").write_text("")
        raise errors.LabError("no")

    cache = Cache(tmp_path)
    with pytest.raises(errors.LabError):
        cache.artefact("thing", version="1", recipe=[], build=fail)
    assert [path for path in tmp_path.iterdir() if not path.name.startswith(".")] == []


def test_what_a_killed_build_left_is_not_part_of_the_next_one(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    key = cache.artefact("thing", version="1", recipe=[], build=lambda directory: None).name
    (tmp_path / key).rmdir()
    rubbish = tmp_path / ".building" / key / "half"
    rubbish.parent.mkdir(parents=True)
    rubbish.write_text("")
    built = cache.artefact("thing", version="1", recipe=[], build=lambda directory: None)
    assert list(built.iterdir()) == []


def test_a_lock_that_is_held_is_waited_for_only_so_long(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with (
        hold(lock, timeout_seconds=1),
        pytest.raises(errors.LabError, match="held by another"),
        hold(lock, timeout_seconds=0),
    ):
        raise AssertionError("two hold the lock")
