"""What an application watches on an overlay goes on to be watched after a sleep."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.runtime import IDLE, Container, Host, eventually, python, spec

Run = Callable[..., Container]

PROGRAM = """
import ctypes, json, os, select, signal, struct
libc = ctypes.CDLL(None, use_errno=True)
CREATE, MODIFY, ONLYDIR = 0x100, 0x2, 0x1000000
os.chdir('/tmp/o')
os.makedirs('deep/with a blank')
for name in ('deep/settings', 'deep/with a blank/other'): open(name, 'w').close()
first, second = libc.inotify_init1(os.O_NONBLOCK), libc.inotify_init1(os.O_NONBLOCK)
wanted = [(first, 'deep', CREATE), (first, 'deep/settings', MODIFY), (first, 'lower', MODIFY),
          (first, '/tmp', CREATE), (second, '.', CREATE), (second, 'deep/with a blank', CREATE)]
numbers = [libc.inotify_add_watch(fd, os.fsencode(path), mask) for fd, path, mask in wanted]
assert min(numbers) > 0
# A number that is not the next one, as after a watch was removed.
libc.inotify_rm_watch(second, libc.inotify_add_watch(second, b'/proc', CREATE))
wanted.append((second, 'deep/with a blank/other', MODIFY))
numbers.append(libc.inotify_add_watch(second, os.fsencode(wanted[-1][1]), MODIFY))

def seen(fd):
    found = []
    while select.select([fd], [], [], 0)[0]:
        data = os.read(fd, 65536)
        while data:
            number, mask, _, length = struct.unpack_from('iIII', data)
            found.append([number, mask, data[16:16 + length].rstrip(bytes(1)).decode()])
            data = data[16 + length:]
    return found

def look(*_):
    for path in ('deep/new', '/tmp/new', 'new', 'deep/with a blank/new'):
        open(path, 'w').close()
        os.unlink(path)
    for path in ('deep/settings', 'lower', 'deep/with a blank/other'):
        with open(path, 'a') as stream: stream.write('x')
    print(json.dumps([numbers, seen(first), seen(second)]))

seen(second)  # that the one was removed
signal.signal(signal.SIGUSR1, look)
print('ready')
while True: signal.pause()
"""


def _with_overlay(directory: Path, args: list[str]) -> dict[str, Any]:
    config = spec(args, annotations=IDLE)
    for name in ("lower", "upper", "work"):
        (directory / name).mkdir(parents=True)
    (directory / "lower" / "lower").write_text("of the image")
    paths = [f"{name}dir={directory / name}" for name in ("lower", "upper", "work")]
    config["mounts"].append(
        {"destination": "/tmp/o", "type": "overlay", "source": "overlay", "options": paths}
    )
    return dict(config)


def _look(container: Container, times: int) -> list[Any]:
    """Have it look for the *times*-th time, and return what it sees."""
    container.kill("USR1")

    def lines() -> list[str]:
        whole, _, _ = container.output().rpartition("\n")
        return [line for line in whole.splitlines() if line.startswith("[[")]

    eventually(lambda: len(lines()) == times, what=f"answer {times}")
    return list(json.loads(lines()[-1]))


def test_watches_on_an_overlay_go_on(node: Host, run: Run, tmp_path: Path) -> None:
    container = run(_with_overlay(tmp_path / "overlay", python(PROGRAM)))
    container.until("ready")
    before = _look(container, 1)
    assert [len(seen) for seen in before[1:]] == [4, 3], before
    for times in (2, 3):
        node.runtime("sleep", container.id)
        node.runtime("wake", container.id)
        assert _look(container, times) == before
