"""Memory images are nobody's but root's, at every moment: files 0600 in directories 0700.

Everything that appears below ``/var/lib/architect`` and ``/run/architect`` is looked at as soon as
the kernel tells of it, and again at the end.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import stat
import struct
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from support.mover import Mover
from support.runtime import IDLE, Container, Host, Page, children, eventually, spec

Run = Callable[..., Container]

IN_ATTRIB, IN_MOVED_TO, IN_CREATE = 0x4, 0x80, 0x100


class Watch:
    """Notes how each file and directory below some directories has been seen."""

    def __init__(self, *roots: Path) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self._directories: dict[int, Path] = {}
        self._ends, self._end = os.pipe()
        self.modes: dict[Path, set[str]] = {}
        self.names: set[str] = set()
        """Of all that was there, also of what was gone before it could be looked at."""
        self._roots = roots
        for root in roots:
            self._enter(root)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _enter(self, directory: Path) -> None:
        number = self._libc.inotify_add_watch(
            self._fd, bytes(directory), IN_ATTRIB | IN_MOVED_TO | IN_CREATE
        )
        if number < 0:
            return  # it is gone
        self._directories[number] = directory
        # What was made before it was watched.
        with contextlib.suppress(OSError):
            for entry in directory.iterdir():
                self._look(entry)

    def _look(self, path: Path) -> None:
        try:
            mode = path.lstat().st_mode
        except OSError:
            return
        self.names.add(path.name)
        self.modes.setdefault(path, set()).add(stat.filemode(mode))
        if stat.S_ISDIR(mode):
            self._enter(path)

    def _run(self) -> None:
        while True:
            ready, _, _ = select.select([self._fd, self._ends], [], [])
            if self._ends in ready:
                return
            data = os.read(self._fd, 1 << 16)
            while data:
                number, _, _, length = struct.unpack_from("<iIII", data)
                name = data[16 : 16 + length].rstrip(b"\0").decode()
                data = data[16 + length :]
                if (directory := self._directories.get(number)) is not None and name:
                    self.names.add(name)
                    self._look(directory / name)

    def end(self) -> dict[Path, set[str]]:
        """Look at all for the last time; return what others could look into at some moment."""
        os.write(self._end, b"x")
        self._thread.join()
        for root in self._roots:
            for directory, below, files in os.walk(root):  # some of it may go meanwhile
                for name in (*below, *files):
                    self._look(Path(directory, name))
        for fd in (self._fd, self._ends, self._end):
            os.close(fd)
        wide = {path: {m for m in modes if m[4:] != "------"} for path, modes in self.modes.items()}
        return {path: modes for path, modes in wide.items() if modes}


@pytest.fixture
def watch(node: Host) -> Watch:
    node.run_directory.mkdir(mode=0o755, exist_ok=True)
    return Watch(node.state / "architect", node.run_directory)


def test_a_pod_that_sleeps_wakes_and_sleeps_again(node: Host, run: Run, watch: Watch) -> None:
    container = run(spec(["sleep", "1000"], annotations=IDLE))
    Page(container.pid)  # `start` returns a moment before init has it
    for op, state in (("sleep", "asleep"), ("wake", "awake"), ("sleep", "asleep")):
        assert node.ask(op, container.id)["status"]["state"] == state
        # The directory of the image is watched by then, whatever comes into it and goes.
        eventually(lambda: "dump.log" in watch.names, what="the watch has seen the image")
    assert watch.end() == {}
    assert {"image", "pages-1.img", "dump.log", "restore.log", "meta.json"} <= watch.names


def test_a_pod_that_is_saved_with_its_files_and_comes_again(
    node: Host, mover: Mover, watch: Watch, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "secret").write_text("x")
    volume = {"destination": "/data", "type": "bind", "source": str(data), "options": ["rbind"]}
    old = mover.counting("old", mounts=[volume])
    mover.leave(old, with_data=True)
    new = mover.pod("new", mounts=[volume])
    mover.bring("old", to="new")
    new.start()
    new.until("\n")
    # Directories and a socket are those of the test, which stands for the daemon.
    wide = watch.end()
    assert [path for path, modes in wide.items() if any(m.startswith("-") for m in modes)] == []
    assert [path for path in watch.modes if path.parent.name == "old"]
    assert [path for path in watch.modes if "arrivals" in path.parts]


def test_the_keeper_makes_nothing_for_others(node: Host, run: Run) -> None:
    """Whatever mode somebody forgets to name."""
    run(spec(["sleep", "1000"], annotations=IDLE))
    assert node.ask("list")
    (warden,) = node.wardens()
    for pid in (warden, *children(warden)):
        status = Path(f"/proc/{pid}/status").read_text()
        assert "Umask:\t0077" in status
