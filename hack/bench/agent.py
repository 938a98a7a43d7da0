"""Inside a machine: the application under plain runc and plain CRIU, and the floor of memory.

It is started once and told what to do, so that no measure pays for entering the machine or for an
interpreter. Everything it makes lies in one directory and is removed at its end; what a killed one
left is removed at its start. Standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import mmap
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from bench import pagecache
from bench.client import is_complete
from bench.plaincopy import PlainCopy
from bench.serving import serve

PR_SET_CHILD_SUBREAPER: Final = 36  # <linux/prctl.h>
LIMIT_SECONDS: Final = 120.0
FIRST_PORT: Final = {"runc": 9400, "criu": 9500}
"""They have no network namespace of their own, so a port each. It makes them somewhat faster: there
is no network to lock and to save. Below the ephemeral ports: a connection to one of those, while
nobody listens there yet, can be made with itself."""
MADV_HUGEPAGE: Final = 14  # <asm-generic/mman-common.h>
CGROUP: Final = "/architect-bench"
_libc = ctypes.CDLL(None, use_errno=True)


class AgentError(Exception):
    """A plain runc, a plain CRIU or the process under it did not do what it should."""


def run(words: Sequence[str | Path], *, log: Path) -> None:
    """Run a program to its end; *log* is the file in which it says why it failed.

    Its standard streams are /dev/null: a detached container inherits them, and criu has to find
    them again.
    """
    status = subprocess.run(
        [str(word) for word in words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=LIMIT_SECONDS,
        check=False,
    ).returncode
    if status != 0:
        said = log.read_text(errors="replace")[-1500:] if log.exists() else ""
        raise AgentError(f"{' '.join(map(str, words))[:500]}: status {status}: {said}")


def ask(connection: socket.socket, port: int) -> float:
    """Ask the process over *connection*, not yet connected; return when its first byte was here."""
    deadline = time.monotonic() + LIMIT_SECONDS
    connection.settimeout(LIMIT_SECONDS)
    connection.connect(("127.0.0.1", port))
    connection.sendall(b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n")
    received = connection.recv(65536)
    first = time.monotonic()
    while received and not is_complete(received):
        if time.monotonic() > deadline:
            raise AgentError(f"port {port} began an answer and does not end it")
        received += connection.recv(65536)
    return first


class PlainRunc:
    """A container of plain runc around the application."""

    def __init__(self, agent: Agent, number: int) -> None:
        self._agent = agent
        self._name = f"plain-{number}"
        self._port = FIRST_PORT["runc"] + number
        self._bundle = agent.directory / self._name
        self._pid_file = self._bundle / "pid"
        self.image = agent.directory / f"runc-{number}"
        self.is_dumped = False

    def begin(self, code: str, mebibytes: int) -> None:
        """Start the application and return when it serves."""
        argv = [sys.executable, "-Suc", code, str(mebibytes), str(self._port)]
        self._agent.write_bundle(self._bundle, argv)
        self._agent.runc(
            *("run", "--detach", "--pid-file", self._pid_file),
            *("--bundle", self._bundle, self._name),
        )
        wait_until_served(self._port, of=self._name)

    def dump(self) -> float:
        """Return the seconds of ``runc checkpoint``."""
        shutil.rmtree(self.image, ignore_errors=True)
        started = time.monotonic()
        self._agent.runc(
            *("checkpoint", "--image-path", self.image, "--work-path", self.image, self._name)
        )
        took = time.monotonic() - started
        self._agent.reap()
        self.is_dumped = True
        return took

    def restore(self) -> tuple[float, float]:
        """Return the seconds of ``runc restore``, and until the first byte of an answer."""
        with tcp_socket() as connection:
            started = time.monotonic()
            self._agent.runc(
                *("restore", "--detach", "--pid-file", self._pid_file, "--bundle", self._bundle),
                *("--image-path", self.image, "--work-path", self.image, self._name),
            )
            restored = time.monotonic()
            self.is_dumped = False
            first = ask(connection, self._port)
        return restored - started, first - started

    def close(self) -> None:
        """End the container."""
        self._agent.runc("delete", "--force", self._name)
        self._agent.reap()
        for directory in (self._bundle, self.image):
            shutil.rmtree(directory, ignore_errors=True)


class PlainCriu:
    """The application as a process without namespaces of its own, below plain criu."""

    def __init__(self, agent: Agent, number: int) -> None:
        self._agent = agent
        self._port = FIRST_PORT["criu"] + number
        self._pid_file = agent.directory / f"criu-{number}.pid"
        self._pid = 0
        self.image = agent.directory / f"criu-{number}"
        self.is_dumped = False

    def begin(self, code: str, mebibytes: int) -> None:
        """Start the application and return when it serves."""
        process = subprocess.Popen(
            [sys.executable, "-Suc", code, str(mebibytes), str(self._port)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        process.returncode = 0  # waited for by `reap`, whoever is its parent then
        self._pid = process.pid
        self._pid_file.write_text(str(self._pid))
        wait_until_served(self._port, of="the process below criu")

    def dump(self) -> float:
        """Return the seconds of ``criu dump``."""
        shutil.rmtree(self.image, ignore_errors=True)
        self.image.mkdir()
        started = time.monotonic()
        self._agent.criu("dump", "-t", str(self._pid), "-D", self.image)
        took = time.monotonic() - started
        self._agent.reap()  # a zombie would keep the pid that the restore needs
        self.is_dumped = True
        return took

    def restore(self) -> tuple[float, float]:
        """Return the seconds of ``criu restore``, and until the first byte of an answer."""
        with tcp_socket() as connection:
            started = time.monotonic()
            self._agent.criu("restore", "-d", "-D", self.image)
            restored = time.monotonic()
            self.is_dumped = False
            first = ask(connection, self._port)
        return restored - started, first - started

    def close(self) -> None:
        """End the process."""
        if self._pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            self._agent.reap()
        self._pid_file.unlink(missing_ok=True)
        shutil.rmtree(self.image, ignore_errors=True)


def tcp_socket() -> socket.socket:
    """Return a socket that is not connected yet."""
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM)


def wait_until_served(port: int, *, of: str) -> None:
    """Return once *port* answers. Raises AgentError."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while True:
        try:
            with tcp_socket() as connection:
                ask(connection, port)
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise AgentError(f"{of} does not answer: {error}") from error
            time.sleep(0.05)


def drop(files: list[Path]) -> int:
    """Take *files* out of the page cache; return how many bytes of them are still in it."""
    pagecache.drop(files)
    return sum(map(pagecache.cached_bytes, files))


def read_into_fresh_memory(path: Path, *, is_huge: bool) -> float:
    """Return the seconds of reading *path* into memory that the process did not have before."""
    size = path.stat().st_size
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    # What a hypervisor took back comes first: a floor is what is left without such accidents.
    mmap.mmap(-1, size, flags=flags | mmap.MAP_POPULATE).close()
    with open(path, "rb", buffering=0) as source:
        started = time.monotonic()
        memory = mmap.mmap(-1, size, flags=flags)
        if is_huge:
            memory.madvise(MADV_HUGEPAGE)
        view = memoryview(memory)
        done = 0
        while done < size and (read := source.readinto(view[done:])):
            done += read
        took = time.monotonic() - started
    view.release()
    memory.close()
    if done != size:
        raise AgentError(f"{path} ended after {done} bytes instead of {size}")
    return took


class Agent:
    """What the benchmark asks of a machine."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._root = directory / "runc"
        self._rootfs = directory / "rootfs"
        self._plain: dict[tuple[str, int], PlainRunc | PlainCriu] = {}
        self._count = 0
        _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._sweep()
        self._rootfs.mkdir(parents=True)
        run(["mount", "--bind", "/", self._rootfs], log=self._log)
        run(["mount", "--make-private", self._rootfs], log=self._log)
        self.copy = PlainCopy(directory)

    @property
    def _log(self) -> Path:
        return self.directory / "last.log"

    # Operations

    def start(self, code: str, mebibytes: int, count: int) -> dict[str, Any]:
        """Start the application with *mebibytes* of memory, *count* times under each of both."""
        self.stop()
        for number in range(count):
            for kind, make in (("runc", PlainRunc), ("criu", PlainCriu)):
                # Known before it begins, so that it is removed if it does not.
                plain = self._plain[kind, number] = make(self, number)
                plain.begin(code, mebibytes)
        return {}

    def stop(self) -> dict[str, Any]:
        """End what ``start`` started."""
        while self._plain:
            _, plain = self._plain.popitem()
            plain.close()
        for floor in self.directory.glob("floor-*"):
            floor.unlink()
        return {}

    def dump(self, kind: str, number: int) -> dict[str, Any]:
        """Dump one of them, and write its image to the disk."""
        plain = self._plain[kind, number]
        if plain.is_dumped:  # the other side was interrupted before it asked for the restore
            plain.restore()
        took = plain.dump()
        pagecache.settle(pagecache.files_below(plain.image))
        return {"dump_ms": took * 1000}

    def restore(self, kind: str, number: int, is_cold: bool) -> dict[str, Any]:
        """Restore one of them, from an image out of the page cache if *is_cold*."""
        plain = self._plain[kind, number]
        cached = drop(pagecache.files_below(plain.image)) if is_cold else 0
        restored, first_byte = plain.restore()
        return {
            "restore_ms": restored * 1000,
            "first_byte_ms": first_byte * 1000,
            "cached_bytes": cached,
        }

    def floor(self, mebibytes: int, is_cold: bool) -> dict[str, Any]:
        """Read a file of *mebibytes* into fresh memory: what no restore can be faster than."""
        path = self.directory / f"floor-{mebibytes}"
        if not path.exists():
            with open(path, "wb") as target:
                for _ in range(mebibytes):
                    target.write(os.urandom(1 << 20))
            pagecache.settle([path])
        answer = {}
        for name, is_huge in (("small_pages_ms", False), ("huge_pages_ms", True)):
            if is_cold:
                drop([path])
            answer[name] = read_into_fresh_memory(path, is_huge=is_huge) * 1000
        return answer

    def create(self, runtime: str) -> dict[str, Any]:
        """Create and start one unmanaged container; return how long that took."""
        self._count += 1
        name = f"create-{self._count}"
        bundle = self.directory / name
        self.write_bundle(bundle, ["/bin/sleep", "1000"])
        log = bundle / "log.json"
        head: list[str | Path] = [
            runtime,
            "--root",
            self._root,
            "--log",
            log,
            "--log-format",
            "json",
        ]
        started = time.monotonic()
        run([*head, "create", "--bundle", bundle, "--pid-file", bundle / "pid", name], log=log)
        created = time.monotonic()
        run([*head, "start", name], log=log)
        ended = time.monotonic()
        run([*head, "delete", "--force", name], log=log)
        self.reap()
        shutil.rmtree(bundle)
        return {
            "create_ms": (created - started) * 1000,
            "start_ms": (ended - created) * 1000,
            "both_ms": (ended - started) * 1000,
        }

    def close(self) -> None:
        """Remove everything."""
        self.stop()
        self.copy.close()
        self._sweep()

    # For the plain processes

    def runc(self, *words: str | Path) -> None:
        """Run plain runc. Raises AgentError."""
        head: list[str | Path] = ["runc", "--root", self._root, "--log", self._log]
        run([*head, *words], log=self._log)

    def criu(self, verb: str, *words: str | Path) -> None:
        """Run plain criu. Raises AgentError."""
        log = Path(words[words.index("-D") + 1], f"{verb}.log")
        run(["criu", verb, *words, "-o", log.name], log=log)

    def write_bundle(self, bundle: Path, argv: list[str]) -> None:
        """Write a bundle whose root is the machine's own, read-only."""
        bundle.mkdir()
        capabilities = ["CAP_KILL", "CAP_NET_BIND_SERVICE"]
        configuration = {
            "ociVersion": "1.0.2",
            "root": {"path": str(self._rootfs), "readonly": True},
            "hostname": "bench",
            "process": {
                "user": {"uid": 0, "gid": 0},
                "args": argv,
                "env": ["PATH=/usr/bin:/bin"],
                "cwd": "/",
                "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
            },
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {
                    "destination": "/dev",
                    "type": "tmpfs",
                    "source": "tmpfs",
                    "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
                },
                {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"},
            ],
            "linux": {
                "cgroupsPath": f"{CGROUP}/{bundle.name}",
                "namespaces": [{"type": t} for t in ("pid", "ipc", "uts", "mount")],
            },
        }
        (bundle / "config.json").write_text(json.dumps(configuration))

    def reap(self) -> None:
        """Wait for what has ended and was left to us."""
        while True:
            try:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    return
            except ChildProcessError:
                return

    def _sweep(self) -> None:
        """Remove what we, or a killed one of us, made."""
        if self._root.is_dir():
            for container in sorted(self._root.iterdir()):
                with contextlib.suppress(AgentError):
                    run(
                        ["runc", "--root", self._root, "delete", "--force", container.name],
                        log=self._log,
                    )
        for file in self.directory.glob("criu-*.pid"):
            _kill_ours(int(file.read_text()))
        self.reap()
        if os.path.ismount(self._rootfs):
            run(["umount", "--lazy", self._rootfs], log=self._log)
        shutil.rmtree(self.directory, ignore_errors=True)
        for group in _cgroups():
            with contextlib.suppress(OSError):
                group.rmdir()


def _kill_ours(pid: int) -> None:
    """Kill *pid* if it is still the application that it was."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        if b"MEBIBYTES" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)


def _cgroups() -> Iterator[Path]:
    for top in (Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir()):
        yield top / CGROUP.lstrip("/")


def main() -> None:
    """Serve until standard input ends, then clean up. The argument is the directory to use."""
    gc.disable()
    agent = Agent(Path(sys.argv[1]))
    # An interrupt at the terminal is the benchmark's to handle: it closes our standard input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        serve(
            {
                "start": agent.start,
                "stop": agent.stop,
                "dump": agent.dump,
                "restore": agent.restore,
                "floor": agent.floor,
                "create": agent.create,
                "offer": agent.copy.offer,
                "fetch": agent.copy.fetch,
                "ping": dict,
            }
        )
    finally:
        agent.close()


if __name__ == "__main__":
    main()
