"""A tree with one of everything that a user without privileges can make."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture
def everything(tmp_path: Path) -> Path:
    root = tmp_path / "everything"
    (root / "directory" / "empty").mkdir(parents=True)
    (root / "file").write_bytes(b"content")
    (root / "none").touch()
    os.link(root / "file", root / "directory" / "hard link")
    (root / "link").symlink_to("directory/../directory/./nowhere")
    os.link(root / "link", root / "link again", follow_symlinks=False)
    (root / "loop").symlink_to("loop")
    (root / "far").symlink_to("/" + "far/" * 300)
    os.mkfifo(root / "fifo")
    with open(root / "sparse", "wb") as sparse:
        sparse.truncate(16 << 20)
        sparse.seek(8 << 20)
        sparse.write(b"data" * 2048)
    os.close(os.open(os.fsencode(root) + b"/not \xff\xfe utf-8 \n", os.O_CREAT | os.O_WRONLY))
    (root / ("long" * 60)).mkdir()
    (root / ("long" * 60) / ("longer" * 40)).write_text("below")
    (root / "directory" / "ünïcode").write_text("text")
    os.setxattr(root / "file", "user.a=b%", b"\0\n\xff=")
    os.setxattr(root / "directory", "user.empty", b"")
    (root / "setuid").write_bytes(b"#!")
    (root / "setuid").chmod(0o6711)
    (root / "directory").chmod(0o3770)
    for path in (root / "setuid", root / "fifo", root / "link", root / "directory"):
        os.utime(path, ns=(1, 1_234_567_890_123_456_789), follow_symlinks=False)
    os.utime(root / "none", ns=(0, -1))
    os.utime(root, ns=(0, 1_000_000_000))
    return root
