"""Random work on random images, with so few names that everything happens to everything."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from architect.shim.layers import places
from architect.shim.layers.archive import Kind
from support.archives import applied, packed
from support.overlays import Root
from support.tiers import sized
from support.trees import ACL_ACCESS, ACL_DEFAULT, acl_for, tree

NAMES = ["a", "b", "c", "d", os.fsdecode(b"\xff")]
STEPS = 400


class Worker:
    """Changes what is below *root* at random; what the kernel refuses does not count."""

    def __init__(self, root: Path, dice: random.Random) -> None:
        self._root = root
        self._dice = dice

    def work(self, steps: int) -> None:
        for _ in range(steps):
            with contextlib.suppress(OSError):
                self._step()

    def _any(self) -> Path:
        """Return a path that may be there or not, below a directory that is there."""
        here = self._root
        while self._dice.random() < 0.6:
            deeper = here / self._dice.choice(NAMES)
            if deeper.is_symlink() or not deeper.is_dir():
                break
            here = deeper
        return here / self._dice.choice(NAMES)

    def _step(self) -> None:
        dice, path = self._dice, self._any()
        is_link = path.is_symlink()
        is_special = os.path.lexists(path) and not path.is_file() and not path.is_dir()
        match dice.randrange(20):
            case 0 | 1 | 15:
                path.mkdir()
            case 2 | 16 | 17 | 18 | 19 if not (is_link or is_special):
                path.write_bytes(dice.randbytes(dice.choice([0, 10, 5000])))
            case 3 if not (is_link or is_special):
                os.truncate(path, dice.choice([0, 1, 1 << 20]))
            case 4:
                path.unlink()
            case 5 if path.is_dir() and not is_link and dice.random() < 0.4:
                shutil.rmtree(path)
                if dice.random() < 0.7:
                    path.mkdir()
            case 6 | 7:
                path.rename(self._any())
            case 8:
                os.link(path, self._any(), follow_symlinks=False)
            case 9:
                path.symlink_to(dice.choice([*NAMES, "..", "/", "a/b", "nowhere"]))
            case 10 if not is_link:
                path.chmod(dice.randrange(0o10000))
            case 11:
                os.lchown(path, dice.randrange(3), dice.randrange(3))
            case 12 if not is_link:
                name = dice.choice(["user.a", "user.b", ACL_ACCESS, ACL_DEFAULT])
                if dice.random() < 0.3:
                    os.removexattr(path, name)
                else:
                    value = acl_for(dice.randrange(9)) if "acl" in name else dice.randbytes(9)
                    os.setxattr(path, name, value)
            case 13:
                times = (0, dice.randrange(1 << 60))
                os.utime(path, ns=times, follow_symlinks=False)
            case 14:
                mode = dice.choice([stat.S_IFIFO, stat.S_IFCHR])
                os.mknod(path, mode | 0o600, os.makedev(1, 3))


@pytest.fixture(params=range(sized(4, 200)))
def roots(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[Root]]:
    """Three containers of one image; the first was worked in."""
    dice = random.Random(request.param)
    lowers = [tmp_path / "lower-1", tmp_path / "lower-2"]
    for lower in lowers:
        lower.mkdir()
        Worker(lower, dice).work(STEPS)
    before = [tree(lower) for lower in lowers]
    made = [Root(tmp_path / f"container-{number}", lowers) for number in range(3)]
    Worker(made[0].view, dice).work(STEPS)
    yield made
    for root in made:
        root.close()
    assert [tree(lower) for lower in lowers] == before


def test_random_work_travels_and_travels_on(roots: list[Root]) -> None:
    for source, target in itertools.pairwise(roots):
        data = packed(places.upper_directory(source.pid), Kind.LAYER)
        applied(data, target.view, Kind.LAYER, devices=True)
        assert tree(target.view) == tree(source.view)


def test_what_was_in_the_target_before_stays_where_the_layer_says_nothing(
    roots: list[Root],
) -> None:
    # A layer that comes twice changes nothing, as one that an engine prepared.
    source, target, _ = roots
    data = packed(places.upper_directory(source.pid), Kind.LAYER)
    for _ in range(2):
        applied(data, target.view, Kind.LAYER, devices=True)
    assert tree(target.view) == tree(source.view)
