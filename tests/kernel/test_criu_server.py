"""The CRIU fork server against real processes in real containers of the lower runtime.

A container's root is a tmpfs with nothing but two static programs, and where wanted with files that
would show if CRIU ever believed one of them. Longer than a module should be: its harness for
servers and containers serves no other test.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import itertools
import json
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from support.patience import patient
from support.runtime import eventually

pytestmark = pytest.mark.kernel

DEADLINE_SECONDS = patient(60.0)
OPTIONS = (
    *("-v2", "--tcp-established", "--network-lock", "skip", "--file-locks"),
    *("--manage-cgroups=ignore", "--ghost-limit", "64M", "--link-remap"),
)

# PID 1 outlives the tree below the inner init, a session leader.
INIT = r"""
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
int main(int argc, char **argv) {
    if (!fork()) {
        setsid();
        prctl(PR_SET_CHILD_SUBREAPER, 1);
        pid_t app = fork();
        if (!app) { execv(argv[1], argv + 1); _exit(127); }
        for (;;) if (wait(0) == app) _exit(0);
    }
    for (;;) if (wait(0) < 0) usleep(2000);
}
"""

# Says "COUNT CHECKSUM" on stdout every 20 ms; has a thread, a child and a listening socket.
APP = r"""
#define _GNU_SOURCE
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>
static unsigned long *words; static size_t count;
static void *serve(void *arg) {
    int fd = *(int *)arg;
    for (;;) { int c = accept(fd, 0, 0); if (c >= 0) { write(c, "awake\n", 6); close(c); } }
}
int main(int argc, char **argv) {
    size_t bytes = strtoul(argv[1], 0, 10) << 20; unsigned long x = 88172645463325252UL;
    words = mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    count = bytes / sizeof *words;
    for (size_t i = 0; i < count; i++) {
        x ^= x << 13; x ^= x >> 7; x ^= x << 17; words[i] = x;
    }
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(8080)};
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    bind(fd, (void *)&a, sizeof a); listen(fd, 16);
    if (!fork()) for (;;) pause();
    pthread_t thread; pthread_create(&thread, 0, serve, &fd);
    for (unsigned long n = 0;; n++) {
        unsigned long sum = 0;
        for (size_t i = 0; i < count; i++) sum = sum * 31 + words[i];
        dprintf(1, "%lu %lx\n", n, sum);
        usleep(20000);
    }
}
"""

# Leaves a trace if anybody runs it.
MARKER = r"""
#include <fcntl.h>
int main(void) { open("/marked", O_CREAT | O_WRONLY, 0600); return 0; }
"""


@pytest.fixture(scope="session")
def criu_binary() -> Path:
    path = Path(os.environ.get("ARCHITECT_CRIU", "/opt/architect/current/bin/architect-criu"))
    assert path.exists(), f"{path} is not there: build shim/native/criu, set ARCHITECT_CRIU"
    return path


@pytest.fixture(scope="session")
def programs(tmp_path_factory) -> Path:
    directory: Path = tmp_path_factory.mktemp("programs")
    for name, source in (("init", INIT), ("app", APP), ("marker", MARKER)):
        subprocess.run(
            ["gcc", "-O2", "-w", "-static", "-pthread", "-x", "c", "-", "-o", directory / name],
            input=source.encode(),
            check=True,
        )
    return directory


class Server:
    """The fork server and our end of its socket."""

    def __init__(self, binary: Path, *prefix: str) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.numbers = itertools.count(1)
        with theirs:
            # The shell puts the socket on 3 whatever number it has.
            self.process = subprocess.Popen(
                [*prefix, "bash", "-c", f'exec "$0" serve 3<&{theirs.fileno()}', binary],
                pass_fds=[theirs.fileno()],
            )

    def send(self, tokens: Sequence[str], fds: Sequence[int] = ()) -> None:
        message = b"".join(token.encode() + b"\0" for token in tokens)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.socket.sendmsg([message], ancillary)

    def receive(self) -> dict[str, str]:
        ready, _, _ = select.select([self.socket], [], [], DEADLINE_SECONDS)
        assert ready, "no answer"
        message = self.socket.recv(65536).decode()
        return dict(token.partition("=")[::2] for token in message.split("\0") if token)

    def start(self, kind: str, container: Container, *arguments: str, pid: int = 30000) -> str:
        number = str(next(self.numbers))
        cgroups = container.cgroups() if kind == "restore" else []
        pipes = [container.output.fileno()] if kind == "restore" else []
        flags = os.O_RDONLY | os.O_DIRECTORY
        own = [
            os.pidfd_open(container.pid),
            os.open(container.image, flags),
            os.open(container.image, flags),
            *(os.open(path, flags if path.is_dir() else os.O_WRONLY) for path in cgroups),
        ]
        try:
            self.send(
                [
                    *(f"id={number}", f"kind={kind}", "ns=mnt,uts,net", f"pid={pid}"),
                    *("last-pid=30100", f"cgroups={len(cgroups)}", f"fds={len(pipes)}"),
                    *("--", kind, *arguments, *OPTIONS),
                ],
                [*own, *pipes],
            )
        finally:
            for fd in own:
                os.close(fd)
        return number

    def start_dump(self, container: Container, *, pid: int = 30000) -> str:
        container.lines_before = container.lines(2)
        return self.start("dump", container, "-t", str(container.tree_pid()), pid=pid)

    def start_restore(self, container: Container) -> str:
        # The dumped processes' pids are taken until PID 1 has waited for the last of them.
        eventually(lambda: not container.children(container.pid), what="an empty container")
        pipe = os.readlink(f"/proc/{container.pid}/fd/1")
        return self.start(
            *("restore", container, "-d", "--join-ns", "ipc:/proc/1/ns/ipc"),
            *("--inherit-fd", f"fd[200]:{pipe}"),
        )

    def expect(self, *numbers: str) -> None:
        left = set(numbers)
        while left:
            answer = self.receive()
            assert answer.get("status") == "0", answer
            assert int(answer["usec"]) > 0
            left.remove(answer["id"])

    def close(self) -> int:
        self.socket.close()
        return self.process.wait(DEADLINE_SECONDS)


class Container:
    """A running container whose stdout we read."""

    numbers = itertools.count(1)

    def __init__(self, directory: Path, programs: Path, *, megabytes: int, user: int) -> None:
        self.name = f"criu-server-{os.getpid()}-{next(self.numbers)}"
        self.directory = directory / self.name
        self.image = self.directory / "image"
        self.root = self.directory / "rootfs"
        for path in (self.directory, self.image, self.root):
            path.mkdir()
        self.directory.chmod(0o755)
        self.lines_before: list[str] = []
        self.megabytes, self.user, self.programs = megabytes, user, programs
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", self.root], check=True)
        for name in ("init", "app"):
            shutil.copy(programs / name, self.root / name)
        reader, writer = os.pipe()
        self.input = os.fdopen(reader, "rb", buffering=0)
        self.output = os.fdopen(writer, "w")

    def start(self) -> None:
        subprocess.run(["runc", "spec"], cwd=self.directory, check=True)
        config = self.directory / "config.json"
        spec = json.loads(config.read_text())
        spec["process"].update(
            terminal=False,
            args=["/init", "/app", str(self.megabytes)],
            rlimits=[],
            user={"uid": self.user, "gid": self.user},
        )
        spec["root"]["readonly"] = False
        spec["linux"]["cgroupsPath"] = f"/{self.name}"
        config.write_text(json.dumps(spec))
        os.fchown(self.output.fileno(), self.user, self.user)
        subprocess.run(
            ["runc", "run", "-d", "--pid-file", "pid", self.name],
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=self.output,
            stderr=subprocess.DEVNULL,
            check=True,
        )
        self.pid = int((self.directory / "pid").read_text())

    def lines(self, wanted: int) -> list[str]:
        """Return the next *wanted* lines of the application."""
        return [self.input.readline().decode().strip() for _ in range(wanted)]

    def children(self, pid: int) -> list[int]:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
            return [int(child) for child in text.split()]
        return []

    def tree(self) -> tuple[int, int]:
        """Return the host's pids of the inner init and of the application."""
        inner = eventually(lambda: self.children(self.pid), what="an inner init")[0]
        return inner, eventually(lambda: self.children(inner), what="an application")[0]

    def tree_pid(self) -> int:
        status = Path(f"/proc/{self.tree()[0]}/status").read_text()
        return int(status.split("NSpid:")[1].splitlines()[0].split()[-1])

    def cgroups(self) -> list[Path]:
        found = []
        for line in Path(f"/proc/{self.pid}/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers:
                mount = Path("/sys/fs/cgroup", controllers.removeprefix("name="))
                found.append(Path(f"{mount}{path}", "tasks"))
            else:
                unified = Path("/sys/fs/cgroup/unified")
                found.append(Path(f"{unified if unified.exists() else unified.parent}{path}"))
        return found

    def goes_on(self) -> None:
        """The application counts on from where it was, with the same memory."""
        count, checksum = self.lines_before[-1].split()
        lines = self.lines(5)
        assert {line.split()[1] for line in lines} == {checksum}
        counts = [int(line.split()[0]) for line in lines]
        assert counts == list(range(int(count) + 1, int(count) + 6))
        self.lines_before = lines

    def drain(self) -> None:
        """Read what the application said before its dump."""
        while select.select([self.input], [], [], 0)[0]:
            self.lines_before = self.lines(1)

    def answers(self) -> bytes:
        connect = "import socket; print(socket.create_connection(('127.0.0.1', 8080)).recv(9))"
        return subprocess.run(
            ["nsenter", "-t", str(self.pid), "-n", "/usr/bin/python3", "-c", connect],
            check=True,
            capture_output=True,
            timeout=DEADLINE_SECONDS,
        ).stdout

    def close(self) -> None:
        subprocess.run(["runc", "delete", "-f", self.name], check=True)
        subprocess.run(["umount", self.root], check=True)
        self.input.close()
        self.output.close()


@pytest.fixture
def server(criu_binary) -> Iterator[Server]:
    running = Server(criu_binary)
    yield running
    assert running.close() == 0


@pytest.fixture
def make_container(tmp_path, programs):
    made: list[Container] = []

    def make(*, megabytes: int = 4, user: int = 1000, prepare=lambda root: None) -> Container:
        container = Container(tmp_path, programs, megabytes=megabytes, user=user)
        prepare(container.root)
        container.start()
        made.append(container)
        container.lines(1)  # all of its memory is filled by now
        return container

    tmp_path.chmod(0o755)
    yield make
    for container in made:
        container.close()


def test_an_application_goes_on_with_memory_thread_child_socket_and_pipe(server, make_container):
    container = make_container(megabytes=16)
    for _ in range(3):
        server.expect(server.start_dump(container))
        eventually(lambda: not container.children(container.pid), what="an empty container")
        assert (container.image / "dump.exit").read_text() == "0\n"
        container.drain()
        server.expect(server.start_restore(container))
        assert (container.image / "restore.exit").read_text() == "0\n"
        container.goes_on()
        _, app = container.tree()
        assert len(os.listdir(f"/proc/{app}/task")) == 2
        assert len(container.children(app)) == 1
        assert container.answers() == b"b'awake\\n'\n"


def test_a_restored_tree_has_nothing_of_the_server(criu_binary, make_container):
    cpus = sorted(os.sched_getaffinity(0))
    server = Server(criu_binary, "nice", "-n", "7", "taskset", "-c", str(cpus[-1]))
    container = make_container()
    before = status_of(container)
    server.expect(server.start_dump(container))
    server.expect(server.start_restore(container))
    assert status_of(container) == before
    assert server.close() == 0


def status_of(container: Container) -> list[dict[str, object]]:
    kept = ("Umask", "Uid", "Gid", "Groups", "Threads", "SigBlk", "SigIgn", "Cap", "NoNewPrivs",
            "Cpus_allowed:", "NSpid")  # fmt: skip
    found: list[dict[str, object]] = []
    for pid in container.tree():
        process = Path(f"/proc/{pid}")
        lines = (process / "status").read_text().splitlines()
        found.append(
            {
                "status": [line.split()[-1] for line in lines if line.startswith(kept)],
                "nice": os.getpriority(os.PRIO_PROCESS, pid),
                "cgroups": sorted((process / "cgroup").read_text().splitlines()),
                "oom_score_adj": (process / "oom_score_adj").read_text(),
                "descriptors": sorted(os.listdir(process / "fd")),
                "cwd": os.readlink(process / "cwd"),
                # The process's own user only if it is dumpable.
                "owner": os.stat(process / "mem").st_uid,
            }
        )
    return found


def test_memory_in_huge_pages_is_the_same_and_no_larger(server, make_container):
    container = make_container(megabytes=64)
    resident = resident_kilobytes(container)
    server.expect(server.start_dump(container))
    container.drain()
    server.expect(server.start_restore(container))
    container.goes_on()
    assert resident_kilobytes(container) <= resident + 1024
    flags = Path(f"/proc/{container.tree()[1]}/smaps").read_text()
    assert not [line for line in flags.splitlines() if line.startswith("VmFlags") and " hg" in line]


def resident_kilobytes(container: Container) -> int:
    text = Path(f"/proc/{container.tree()[1]}/smaps_rollup").read_text()
    return int(text.split("Rss:")[1].split()[0])


HOSTILE_PROGRAMS = ("iptables", "ip6tables", "iptables-restore", "nft", "ip", "tar", "sh", "criu")
HOSTILE_FILES = {
    "etc/ld.so.preload": "/lib/evil.so\n",
    "etc/ld.so.cache": "evil",
    "etc/nsswitch.conf": "hosts: evil\n",
    "etc/localtime": "evil",
    "etc/criu/default.conf": "leave-running\n",
    "etc/criu/runc.conf": "leave-running\n",
    "etc/criu/crun.conf": "leave-running\n",
    "root/.criu/default.conf": "leave-running\n",
    ".criu/default.conf": "leave-running\n",
    "run/criu.kdat": "evil",
    "usr/lib/criu/evil.so": "evil",
    "usr/local/lib/criu/evil.so": "evil",
    "usr/lib/x86_64-linux-gnu/criu/evil.so": "evil",
    "var/lib/criu/evil.so": "evil",
    "usr/lib/locale/locale-archive": "evil",
    "usr/lib/x86_64-linux-gnu/gconv/gconv-modules": "evil",
    "lib/evil.so": "evil",
    "lib64/ld-linux-x86-64.so.2": "evil",
    "lib/x86_64-linux-gnu/libc.so.6": "evil",
    "lib/x86_64-linux-gnu/libnss_files.so.2": "evil",
    "lib/x86_64-linux-gnu/libgcc_s.so.1": "evil",
}


class OpenedFiles:
    """Names of all files opened or executed on one file system, by any mount of it."""

    # <linux/fanotify.h>
    FAN_NONBLOCK, FAN_MARK_ADD, FAN_MARK_FILESYSTEM = 0x2, 0x1, 0x100
    FAN_OPEN, FAN_OPEN_EXEC = 0x20, 0x1000
    EVENT = struct.Struct("IBBHQii")

    def __init__(self, path: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self.fd = libc.fanotify_init(self.FAN_NONBLOCK, os.O_RDONLY)
        assert self.fd >= 0, os.strerror(ctypes.get_errno())
        marked = libc.fanotify_mark(
            self.fd,
            self.FAN_MARK_ADD | self.FAN_MARK_FILESYSTEM,
            ctypes.c_uint64(self.FAN_OPEN | self.FAN_OPEN_EXEC),
            -100,  # AT_FDCWD
            os.fsencode(path),
        )
        assert marked == 0, os.strerror(ctypes.get_errno())

    def names(self) -> set[str]:
        found = set()
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.fd, 65536):
                for offset in range(0, len(data), self.EVENT.size):
                    fd = self.EVENT.unpack_from(data, offset)[5]
                    found.add(Path(os.readlink(f"/proc/self/fd/{fd}")).name)
                    os.close(fd)
        return found


@pytest.fixture
def hostile(make_container, programs) -> Container:
    """A container full of what a careless CRIU would load, run or believe."""

    def prepare(root: Path) -> None:
        for name, text in HOSTILE_FILES.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        for directory in ("bin", "sbin", "usr/bin", "usr/sbin", "usr/local/bin"):
            (root / directory).mkdir(parents=True, exist_ok=True)
            for name in HOSTILE_PROGRAMS:
                shutil.copy(programs / "marker", root / directory / name)
        root.chmod(0o777)

    container: Container = make_container(prepare=prepare)
    return container


@pytest.fixture
def opened(hostile) -> Iterator[OpenedFiles]:
    watch = OpenedFiles(hostile.root)
    hostile.lines(2)
    watch.names()
    yield watch
    os.close(watch.fd)


# CRIU opens what the processes have mapped and the root directory, nothing else.
ALLOWED = {"init", "app", "rootfs", "/", ""}


def test_nothing_of_the_container_is_executed_loaded_or_believed(server, hostile, opened):
    server.expect(server.start_dump(hostile))
    during_dump = opened.names()
    hostile.drain()
    server.expect(server.start_restore(hostile))
    hostile.goes_on()
    assert "app" in during_dump, "the watch saw nothing"
    assert (during_dump | opened.names()) <= ALLOWED
    assert not (hostile.root / "marked").exists()
    kdat = hostile.root / "run/criu.kdat"
    assert kdat.read_text() == "evil"


@pytest.mark.parametrize("name", sorted(HOSTILE_FILES))
def test_the_watch_would_see_each_of_them(hostile, opened, name):
    with open(f"/proc/{hostile.pid}/root/{name}", "rb") as file:
        assert file.read()
    assert not opened.names() <= ALLOWED


@pytest.mark.parametrize("name", HOSTILE_PROGRAMS)
def test_the_watch_and_the_mark_would_tell_of_each_program(hostile, opened, name):
    subprocess.run(["nsenter", "-t", str(hostile.pid), "-m", f"/bin/{name}"], check=True)
    assert not opened.names() <= ALLOWED
    assert (hostile.root / "marked").exists()


def test_a_careless_criu_is_found_out(server, hostile, opened):
    # What its command line of our making leaves out (--no-default-config) is put back.
    careless = ("--config", "/etc/criu/default.conf")
    server.start("dump", hostile, "-t", str(hostile.tree_pid()), *careless)
    server.receive()
    assert opened.names() - ALLOWED == {"default.conf"}


@pytest.mark.parametrize(
    "asked",
    [("--action-script", "/bin/tar"), ("--libdir", "/usr/lib/criu")],
    ids=["script", "plugins"],
)
def test_even_on_demand_nothing_of_the_container_is_run_or_loaded(server, hostile, opened, asked):
    server.start("dump", hostile, "-t", str(hostile.tree_pid()), *asked)
    assert server.receive()["id"]
    assert opened.names() <= ALLOWED
    assert not (hostile.root / "marked").exists()


def test_many_requests_run_at_once(server, make_container):
    containers = [make_container(megabytes=2) for _ in range(6)]
    server.expect(*[server.start_dump(container) for container in containers])
    for container in containers:
        container.drain()
    server.expect(*[server.start_restore(container) for container in containers])
    for container in containers:
        container.goes_on()


def test_a_taken_pid_is_stepped_over(server, make_container):
    container = make_container()
    server.expect(server.start_dump(container, pid=container.tree_pid()))
    container.drain()
    server.expect(server.start_restore(container))
    container.goes_on()


def test_work_is_finished_after_the_caller_has_gone(criu_binary, make_container):
    container = make_container(megabytes=64)
    server = Server(criu_binary)
    server.start_dump(container)
    assert server.close() == 0
    assert (container.image / "dump.exit").read_text() == "0\n"
    eventually(lambda: not container.children(container.pid), what="an empty container")


def test_a_killed_dump_answers_and_leaves_the_server_working(server, make_container):
    container = make_container(megabytes=64)
    # Both lie there before it sees the first: the dump would be over if we were late.
    os.kill(server.process.pid, signal.SIGSTOP)
    number = server.start_dump(container)
    server.send(["kill", f"id={number}"])
    os.kill(server.process.pid, signal.SIGCONT)
    answer = server.receive()
    assert answer["id"] == number
    assert answer["status"] == str(128 + signal.SIGKILL)
    assert (container.image / "dump.exit").read_text() == f"{answer['status']}\n"


def test_a_failed_run_leaves_its_reason_in_the_log(server, make_container):
    container = make_container()
    number = server.start("restore", container, "-d")
    answer = server.receive()
    assert (answer["id"], answer["status"]) == (number, "1")
    assert (container.image / "restore.exit").read_text() == "1\n"
    assert "Error" in (container.image / "restore.log").read_text()


def test_a_wrong_option_is_explained(server, make_container):
    container = make_container()
    server.start("dump", container, "--no-such-option")
    assert server.receive()["status"] != "0"
    said = (container.image / "dump.err").read_text() + (
        (container.image / "dump.log").read_text()
        if (container.image / "dump.log").exists()
        else ""
    )
    assert "no-such-option" in said or "unrecognized" in said


GOOD = ("id=9", "kind=dump", "ns=mnt", "pid=0", "cgroups=0", "fds=0", "--", "dump", "-t", "2")


@pytest.mark.parametrize(
    "tokens",
    [
        (),
        ("",),
        ("nonsense",),
        ("id=",),
        ("id=-1", *GOOD[1:]),
        ("id=" + "9" * 21, *GOOD[1:]),
        GOOD[:6],
        GOOD[:7],
        ("id=9", "kind=explode", *GOOD[2:]),
        ("id=9", *GOOD[2:]),
        ("id=9", "kind=dump", "ns=mnt,moon", *GOOD[3:]),
        ("id=9", "kind=dump", "ns=mnt,", *GOOD[3:]),
        ("id=9", "kind=dump", "pid=1", *GOOD[4:]),
        ("id=9", "kind=dump", "pid=99999999999999999999", *GOOD[4:]),
        ("id=9", "kind=dump", "cgroups=251", *GOOD[5:]),
        ("id=9", "kind=dump", "fds=-1", *GOOD[6:]),
        (*GOOD[:7], "restore"),
        (*GOOD, *["x"] * 600),
        GOOD,  # without descriptors
        ("kill", "id=12345"),
        ("kill",),
    ],
    ids=repr,
)
def test_a_malformed_request_gets_a_reason_and_nothing_else_happens(server, tokens):
    server.send(tokens)
    assert server.receive()["error"]
    # Still there, and one answer only.
    server.send(["kill", "id=77"])
    assert server.receive()["id"] == "77"


def test_descriptors_of_the_wrong_kind_are_refused(server):
    null = os.open("/dev/null", os.O_RDWR)
    server.send(GOOD, [null, null, null])
    assert "pidfd" in server.receive()["error"]
    server.send(GOOD, [null] * 5)
    assert "descriptors" in server.receive()["error"]
    os.close(null)
    server.send(["kill", "id=77"])
    assert server.receive()["id"] == "77"
    own = {os.readlink(f"/proc/{server.process.pid}/fd/{fd}") for fd in
           os.listdir(f"/proc/{server.process.pid}/fd")}  # fmt: skip
    assert len(os.listdir(f"/proc/{server.process.pid}/fd")) == 7, own
