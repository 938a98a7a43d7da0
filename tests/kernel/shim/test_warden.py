"""The keeper's parent, with small scripts as keepers."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.runtime import IDLE, SYSTEM_PYTHON, Host, eventually, spec

KEEPER = """
import array, os, signal, socket, sys, time
def say(text):
    with open(sys.argv[1], 'a') as f: f.write(text + '\\n')
control = socket.socket(fileno=3)
names = [n for n in os.environ['ARCHITECT_FDS'].split(',') if n]
fds = {n: i for i, n in enumerate(names, 4)}
beyond = [n for n in range(4 + len(names), 64) if os.path.exists(f'/proc/self/fd/{n}')]
def read(fd):
    os.lseek(fd, 0, 0)
    return os.read(fd, 100).decode()
held = ' '.join(f'{n}={read(fd)}' for n, fd in sorted(fds.items()))
say(f'up {os.getpid()} [{held}] beyond {beyond}')
def store(name, text):
    fd = os.memfd_create('x'); os.write(fd, text.encode())
    control.sendmsg([f'store {name}'.encode()],
                    [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [fd]))])
signal.signal(signal.SIGTERM, lambda *_: (say('term'), os._exit(0)))
exec(open(sys.argv[2]).read())
while True: signal.pause()
"""


class Warden:
    def __init__(self, host: Host, program: Path, *, code: str = "") -> None:
        self.host = host
        self.directory = host.directory / "warden"
        self.directory.mkdir(exist_ok=True)
        self.said = self.directory / "said"
        self.said.touch()
        self.code = self.directory / "code.py"
        self.code.write_text(code)
        self.program = program
        script = self.directory / "keeper.py"
        script.write_text(KEEPER)
        self.words = [str(program), "--run", str(self.directory), "--keeper", SYSTEM_PYTHON]
        self.words += ["-IS", str(script), str(self.said), str(self.code)]

    def start(self) -> subprocess.CompletedProcess[str]:
        return self.host.call(*self.words)

    @property
    def log(self) -> str:
        file = self.directory / "keeper.log"
        return file.read_text() if file.exists() else ""

    def lines(self) -> list[str]:
        return self.said.read_text().splitlines()

    def until(self, count: int) -> str:
        """Wait for that many keepers to have come up; return what the last one said."""

        def last() -> str | None:
            ups = [line for line in self.lines() if line.startswith("up ")]
            return ups[count - 1] if len(ups) >= count else None

        return str(eventually(last, what=f"keeper {count}: {self.lines()} {self.log}"))

    def pids(self) -> list[int]:
        """Return the wardens of this directory."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                    if str(self.directory).encode() in words and b"--keeper" in words:
                        found.append(int(entry.name))
        return found

    @property
    def pid(self) -> int:
        (pid,) = eventually(self.pids, what="a warden")
        return int(pid)

    def end(self) -> None:
        for pid in self.pids():
            os.kill(pid, signal.SIGTERM)
        eventually(self.is_gone, what=f"end of the warden: {self.log}")

    def is_gone(self) -> bool:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        return not self.pids()


def pid_of(line: str) -> int:
    return int(line.split()[1])


@pytest.fixture
def start(host: Host, bundle: Path) -> Iterator[Callable[[str], Warden]]:
    made: list[Warden] = []

    def started(code: str = "") -> Warden:
        warden = Warden(host, bundle / "bin/architect-warden", code=code)
        made.append(warden)
        warden.start()
        return warden

    yield started
    for warden in made:
        warden.end()


Start = Callable[..., Warden]


def test_a_killed_keeper_comes_back_with_its_descriptors(start: Start) -> None:
    warden = start(
        "if not names: [store(f'queue:{i}', f'packets{i}') for i in range(3)]; say('stored')"
    )
    first = warden.until(1)
    assert "[]" in first
    eventually(lambda: "stored" in warden.lines(), what="the keeper has stored all three")
    os.kill(pid_of(first), signal.SIGKILL)
    second = warden.until(2)
    assert "[queue:0=packets0 queue:1=packets1 queue:2=packets2] beyond []" in second
    os.kill(pid_of(second), signal.SIGKILL)
    assert "queue:2=packets2" in warden.until(3)


def test_what_a_keeper_stores_in_its_last_moment_is_kept(start: Start) -> None:
    warden = start("store('late', 'packets'); os._exit(1) if not names else None")
    assert "[late=packets]" in warden.until(2)


def test_dropped_and_replaced_descriptors_are_not_handed_on(start: Start) -> None:
    code = (
        "if not names:\n"
        " store('a', 'old'); store('a', 'new'); store('b', 'gone'); control.send(b'drop b')\n"
        " control.send(b'drop unknown'); store('bad name', 'x'); control.send(b'nonsense')\n"
        " os._exit(0)"
    )
    warden = start(code)
    assert "[a=new] beyond []" in warden.until(2)
    assert "refused to store bad name" in warden.log
    assert "unknown message" in warden.log


def test_many_descriptors_survive(start: Start) -> None:
    code = (
        "if not names:\n"
        " for i in range(1100): store('n' * 100 + str(i), 'x')\n"
        " os._exit(0)\n"
        "say(f'{len(names)} held')"
    )
    warden = start(code)
    eventually(lambda: "1024 held" in warden.lines(), what=f"1024 held: {warden.lines()[:3]}")


def test_a_keeper_that_cannot_live_is_restarted_ever_more_slowly(start: Start) -> None:
    began = time.monotonic()
    warden = start("os._exit(1)")
    warden.until(4)
    # 0 + 0.1 + 0.5 s between the four.
    assert time.monotonic() - began >= 0.6
    assert "exit 1" in warden.log


def test_a_second_warden_leaves_at_once(start: Start) -> None:
    warden = start()
    warden.until(1)
    assert warden.start().returncode == 0
    eventually(lambda: len(warden.pids()) == 1, what="the end of the second one")


def test_sigterm_ends_the_keeper_and_then_the_warden(start: Start) -> None:
    warden = start()
    keeper = pid_of(warden.until(1))
    os.kill(warden.pid, signal.SIGTERM)
    eventually(warden.is_gone, what="end of the warden")
    assert "term" in warden.lines()
    assert not Path(f"/proc/{keeper}").exists()


def test_a_keeper_that_quits_takes_its_warden_along(start: Start) -> None:
    warden = start("control.send(b'quit'); os._exit(0)")
    eventually(lambda: warden.lines() and warden.is_gone(), what="end of the warden")


def test_it_belongs_to_nobody(start: Start, host: Host) -> None:
    warden = start()
    keeper = pid_of(warden.until(1))
    for pid in (warden.pid, keeper):
        status = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        session, terminal = int(status[3]), int(status[4])
        assert session != os.getsid(0)
        assert terminal == 0
        assert os.readlink(f"/proc/{pid}/fd/0") == "/dev/null"
        assert os.readlink(f"/proc/{pid}/fd/2").endswith("/keeper.log")
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
        seen = host.call("cat", f"/proc/{pid}/cgroup").stdout
        for line in seen.splitlines():
            number, _, path = line.split(":", 2)
            is_v2 = number == "0"
            assert path == "/architect" or is_v2, seen


def test_sighup_moves_to_the_current_version_with_everything(
    host: Host, bundle: Path, tmp_path: Path
) -> None:
    install = tmp_path / "install"
    for version in ("1", "2"):
        shutil.copytree(bundle / "bin", install / version / "bin", symlinks=True)
    (install / "current").symlink_to("1")
    code = "if not names: store('queue', 'packets')"
    warden = Warden(host, install / "1/bin/architect-warden", code=code)
    warden.start()
    try:
        first = warden.until(1)
        pid = warden.pid
        (install / "current").unlink()
        (install / "current").symlink_to("2")
        os.kill(pid, signal.SIGHUP)
        assert "[queue=packets] beyond []" in warden.until(2)
        assert warden.pid == pid
        assert os.readlink(f"/proc/{pid}/exe") == str(install / "2/bin/architect-warden")
        assert pid_of(first) != pid_of(warden.until(2))
        assert warden.start().returncode == 0  # the lock came along
        os.kill(pid, signal.SIGHUP)
        assert "[queue=packets] beyond []" in warden.until(3)
        assert warden.pids() == [pid]
    finally:
        warden.end()


def test_create_brings_the_keeper_up_and_the_engine_does_not_wait_for_it(host: Host) -> None:
    container = host.container(spec(["sleep", "1000"], annotations=IDLE))
    # Stands for the pipe from which an engine reads the runtime's output, to its end.
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    try:
        container.create(pass_fds=[writer])
        os.close(writer)
        os.set_blocking(reader, False)
        eventually(lambda: is_at_end(reader), what="the end of the engine's pipe")
        assert (host.run_directory / "containers" / f"{container.id}.json").exists()
        assert (host.run_directory / "keeper.log").exists()
        assert host.wardens()
    finally:
        os.close(reader)
        container.remove()
        host.end_keeper()


def is_at_end(reader: int) -> bool:
    """Whether nobody has the other end of a pipe, of which nothing is read."""
    try:
        return os.read(reader, 1) == b""
    except BlockingIOError:
        return False
