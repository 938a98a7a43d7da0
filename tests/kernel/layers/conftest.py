"""Real overlays on the lower directories of an image that has a bit of everything."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.overlays import Root
from support.trees import ACL_ACCESS, acl_for, tree

OLD = 1_600_000_000_000_000_007


@pytest.fixture
def lowers(tmp_path: Path) -> Iterator[list[Path]]:
    """Two lower layers, the higher first; a test that changes them fails."""
    base, above = tmp_path / "base", tmp_path / "above"
    for path in (
        *("etc/cron", "opt/app/sub/deep", "opt/old/inner", "var/log", "usr/bin", "srv/static"),
        *("home/user", "replaced/by file/x", "run/secrets", "plain"),
    ):
        (base / path).mkdir(parents=True)
    for path in (
        *("etc/passwd", "etc/keep", "etc/gone", "etc/hosts", "etc/cron/daily", "opt/app/a"),
        *("opt/app/sub/b", "opt/app/sub/deep/c", "opt/old/inner/x", "var/log/one", "var/log/two"),
        *("usr/bin/tool", "usr/bin/plain", "usr/linked", "srv/static/page", "home/user/.profile"),
        *("replaced/file", "plain/untouched", "socket", "fifo"),
    ):
        (base / path).write_bytes(f"lower {path}".encode() * 50)
    os.link(base / "usr/linked", base / "usr/linked too")
    (base / "usr/bin/tool").chmod(0o4755)
    os.chown(base / "home/user/.profile", 1000, 1000)
    os.setxattr(base / "plain", "user.lower", b"value")
    os.setxattr(base / "home/user/.profile", "user.lower", b"value")
    os.setxattr(base / "home/user", ACL_ACCESS, acl_for(1000))
    (base / "lib").symlink_to("usr")
    (base / "replaced/link").symlink_to("/etc")
    (above / "opt/app").mkdir(parents=True)
    (above / "opt/app/from above").write_text("above")
    (above / "etc").mkdir()
    (above / "etc/keep").write_text("above")
    for root in (base, above):
        for directory, names, files in os.walk(root, topdown=False):
            for name in (*names, *files):
                os.utime(Path(directory, name), ns=(OLD, OLD), follow_symlinks=False)
        os.utime(root, ns=(OLD, OLD))
    before = tree(base), tree(above)
    yield [above, base]
    assert (tree(base), tree(above)) == before


@pytest.fixture
def make(tmp_path: Path, lowers: list[Path]) -> Iterator[Callable[..., Root]]:
    """Make containers on the lower layers; they end with the test."""
    made: list[Root] = []

    def started(**options: Any) -> Root:
        made.append(Root(tmp_path / f"container-{len(made)}", lowers, **options))
        return made[-1]

    yield started
    for root in made:
        root.close()
