"""Real containers by command line, as an engine makes them, apart from the host's own.

A private mount namespace has its own /run, so that records, sockets and the lower runtime's state
are the test's alone. Containers see the host's root read-only and have their own /dev, /proc, /tmp.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import mmap
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from architect.core import wire
from lab import cgroups
from support.patience import patient
from support.unified import Unified

DEADLINE_SECONDS = patient(90.0)
CHECKOUT = Path(__file__).resolve().parents[2]
SYSTEM_PYTHON = "/usr/bin/python3"
PR_SET_CHILD_SUBREAPER = 36

Spec = dict[str, Any]


def eventually(condition: Callable[[], Any], *, what: str) -> Any:
    """Return the first true value of *condition*; fail with *what* after a generous deadline."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not in {DEADLINE_SECONDS:.0f} s: {what}")
        time.sleep(0.01)
    return value


def build_bundle(directory: Path) -> Path:
    """Assemble a bundle that uses this machine's interpreter; return its version directory."""
    subprocess.run(
        [
            *(SYSTEM_PYTHON, CHECKOUT / "shim/bundle.py"),
            *("--output", directory, "--version", "test", "--link-python"),
            *("--criu", os.environ["ARCHITECT_CRIU"]),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return directory / "test"


class Host:
    """The mount namespace in which the runtime is called."""

    def __init__(self, directory: Path, *, bundle: Path, has_hybrid_cgroups: bool = True) -> None:
        """*has_hybrid_cgroups*: with version 2 mounted beside version 1, if this machine has so."""
        self.directory = directory
        self.bundle = bundle
        self.rootfs = directory / "rootfs"
        self.rootfs.mkdir()
        self.state = directory / "state"
        """What the namespace sees as /var/lib/architect."""
        (self.state / "architect").mkdir(parents=True, exist_ok=True)
        # What a container's init leaves behind comes to us to be waited for, as to an engine.
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._cgroup = Unified() if Unified.is_needed() else None
        cgroup_mounts = _cgroup_mounts(is_hybrid=has_hybrid_cgroups)
        words = [
            *("unshare", "--mount", "--cgroup", "--propagation", "private", "sh", "-ec"),
            f'mount -t tmpfs tmpfs /run; mount --bind / "$0"; {cgroup_mounts} '
            'mount --bind "$1" /var/lib; echo ready; exec cat >/dev/null',
            *map(str, (self.rootfs, self.state)),
        ]
        self._holder = subprocess.Popen(
            self._cgroup.rooted(words) if self._cgroup else words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"ready\n"
        if self._cgroup:
            self._cgroup.hand_down(self._holder.pid)
        self._count = 0
        self._among_hosts = os.open("/sys/fs/cgroup", os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(self._among_hosts, fcntl.LOCK_SH)

    def _remove_warden_cgroups(self) -> None:
        """Remove the cgroups that wardens have made, which all hosts on this machine share.

        Not while there is another host, of whatever process: its warden may be about to enter one.
        """
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(self._among_hosts, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for hierarchy in () if self._cgroup else cgroups.hierarchies():
                with contextlib.suppress(OSError):  # none was made, or this machine's own is in it
                    (hierarchy.own / "architect").rmdir()
        os.close(self._among_hosts)

    @property
    def view(self) -> Path:
        """The namespace's root as seen from outside."""
        return Path(f"/proc/{self._holder.pid}/root")

    @property
    def run_directory(self) -> Path:
        """The namespace's /run/architect."""
        return self.view / "run/architect"

    def command(self, *words: str | Path) -> list[str]:
        """Return *words* as a command line that runs in the namespace."""
        spaces = f"/proc/{self._holder.pid}/ns"
        enter = ["nsenter", f"--mount={spaces}/mnt", f"--cgroup={spaces}/cgroup", *map(str, words)]
        return self._cgroup.inside(enter) if self._cgroup else enter

    def call(
        self, *words: str | Path, check: bool = True, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the namespace and return its output."""
        done = subprocess.run(
            self.command(*words),
            text=True,
            capture_output=True,
            timeout=DEADLINE_SECONDS,
            **options,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{words}: exit {done.returncode}: {done.stdout}{done.stderr}")
        return done

    def runtime(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Call ``architect-runtime``."""
        return self.call(self.bundle / "bin/architect-runtime", *words, check=check)

    def ask(self, *words: str) -> dict[str, Any]:
        """Return what ``architect-runtime`` answers as JSON, whatever its exit status."""
        done = self.runtime(*words, "-o", "json", check=False)
        assert done.stdout, done.stderr
        return dict(json.loads(done.stdout))

    def wardens(self) -> list[int]:
        """Return the living wardens of our bundle, of which only tests have any."""
        _reap_ours()
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and os.readlink(entry / "exe") == str(
                    self.bundle / "bin/architect-warden"
                ):
                    found.append(int(entry.name))
        return found

    def end_keeper(self) -> None:
        """End the warden and its keeper, if any."""
        for pid in self.wardens():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        eventually(lambda: not self.wardens(), what="end of the warden")

    def container(
        self, spec: Spec, *, runtime: str | Path | None = None, has_pipes: bool = False
    ) -> Container:
        """Return a container that is not created yet; *has_pipes*: as engines give them."""
        self._count += 1
        program = self.bundle / "bin/runc-architect" if runtime is None else runtime
        name = f"t{os.getpid()}-{self._count}"
        return Container(self, name, spec, runtime=program, has_pipes=has_pipes)

    def close(self) -> None:
        """End the namespace and what is mounted in it."""
        self._remove_warden_cgroups()
        assert self._holder.stdin is not None
        self._holder.stdin.close()
        self._holder.wait(DEADLINE_SECONDS)
        assert self._holder.stdout is not None
        self._holder.stdout.close()
        if self._cgroup:
            self._cgroup.remove()


def _cgroup_mounts(*, is_hybrid: bool) -> str:
    """Return the commands that mount every hierarchy anew, with our own cgroup at its top."""
    top = "/sys/fs/cgroup"
    commands = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, tail = line.partition(" - ")
        kind, _, options = tail.split()
        at = fields.split()[4]
        if kind == "cgroup2" and at != top and not is_hybrid:
            continue
        if kind == "cgroup":
            controllers = ",".join(o for o in options.split(",") if o not in ("rw", "ro"))
            commands.append(f"mkdir {at}; mount -t cgroup -o {controllers} cgroup {at};")
        elif kind == "cgroup2":
            commands.append(f"mkdir -p {at}; mount -t cgroup2 cgroup2 {at};")
    return f"umount -R {top}; mount -t tmpfs tmpfs {top}; {' '.join(commands)}"


class Container:
    """One container and the calls that an engine makes for it."""

    def __init__(
        self, host: Host, name: str, spec: Spec, *, runtime: str | Path, has_pipes: bool = False
    ) -> None:
        self.host = host
        self.has_pipes = has_pipes
        self._pumps: list[subprocess.Popen[bytes]] = []
        self.id = name
        self.runtime = runtime
        self.bundle = host.directory / name
        self.bundle.mkdir()
        self.log = self.bundle / "log.json"
        (self.bundle / "config.json").write_text(
            json.dumps({**spec, "root": {"path": str(host.rootfs), "readonly": True}})
        )
        self.stdout, self.stderr = self.bundle / "stdout", self.bundle / "stderr"
        self.pid = 0
        self.status: int | None = None

    def words(self, *words: str) -> list[str]:
        """Return a call of the runtime."""
        head = [str(self.runtime), "--root", "/run/test", "--log", str(self.log)]
        return [*head, "--log-format", "json", *words]

    def call(self, *words: str, check: bool = True, **options: Any) -> Any:
        """Call the runtime."""
        return self.host.call(*self.words(*words), check=check, **options)

    def create(
        self,
        *,
        check: bool = True,
        prefix: Sequence[str] = (),
        pass_fds: Sequence[int] = (),
        stdout: int | None = None,
    ) -> int:
        """Create the container with files as stdio; return the runtime's exit status.

        CRIU wants pipes or /dev/null: *stdout* takes the place of both files.
        """
        pid_file = self.bundle / "init.pid"
        words = self.words("create", "--bundle", str(self.bundle), "--pid-file", str(pid_file))
        with self._output(self.stdout) as out, self._output(self.stderr) as err:
            status = subprocess.run(
                self.host.command(*prefix, *words, self.id),
                pass_fds=pass_fds,
                stdin=subprocess.DEVNULL,
                stdout=out if stdout is None else stdout,
                stderr=err if stdout is None else stdout,
                timeout=DEADLINE_SECONDS,
            ).returncode
        if check:
            assert status == 0, self.said()
        if status == 0:
            self.pid = int(pid_file.read_text())
        return status

    @contextlib.contextmanager
    def _output(self, path: Path) -> Iterator[Any]:
        """Open *path* for what the container writes, behind a pipe where engines have one."""
        with open(path, "wb") as file:
            if not self.has_pipes:
                yield file
                return
            reader, writer = os.pipe()
            self._pumps.append(subprocess.Popen(["cat"], stdin=reader, stdout=file))
            os.close(reader)
            try:
                yield writer
            finally:
                os.close(writer)

    def start(self) -> Container:
        """Create and start the container."""
        self.create()
        self.call("start", self.id)
        return self

    def wait(self) -> int:
        """Wait for the end and return the exit status as engines report it."""
        if self.status is None:

            def ended() -> bool:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                if pid:
                    code = os.waitstatus_to_exitcode(status)
                    self.status = 128 - code if code < 0 else code
                return pid != 0

            eventually(ended, what=f"end of {self.id}: {self.said()}")
        self.end_output()
        assert self.status is not None
        return self.status

    def end_output(self) -> None:
        """Wait until all that it wrote is in its files: nobody of it lives any more."""
        for pump in self._pumps:
            pump.wait(DEADLINE_SECONDS)

    def run(self) -> int:
        """Create, start, wait."""
        return self.start().wait()

    def output(self) -> str:
        """Return what it wrote to stdout."""
        return self.stdout.read_text()

    def said(self) -> str:
        """Return everything that it and the runtime wrote."""
        files = (self.stdout, self.stderr, self.log)
        return "".join(file.read_text() for file in files if file.exists())

    def until(self, text: str) -> None:
        """Wait for *text* on stdout."""
        try:
            eventually(lambda: text in self.output(), what=repr(text))
        except AssertionError as error:
            raise AssertionError(f"{error} in: {self.said()}") from None

    def exec(self, *argv: str) -> int:
        """Run *argv* in the container, detached as engines do; return its exit status.

        Its parent is waited for here: a namespace does not end before all its processes are reaped.
        """
        pid_file = self.bundle / "exec.pid"
        self.call("exec", "--detach", "--pid-file", str(pid_file), self.id, *argv)
        _, status = os.waitpid(int(pid_file.read_text()), 0)
        return os.waitstatus_to_exitcode(status)

    def kill(self, name: str) -> None:
        """Send a signal the engine's way."""
        self.call("kill", self.id, name)

    def config(self) -> Spec:
        """Return config.json as it is now."""
        return dict(json.loads((self.bundle / "config.json").read_text()))

    def remove(self) -> None:
        """Delete whatever is left."""
        # First what has ended in it and is ours to wait for, as a CRIU that lost its parent: its
        # namespace does not end before that, nor does a runtime that waits for it.
        _reap_strays()
        self.call("delete", "--force", self.id, check=False)
        _reap_strays()
        if self.pid:
            with contextlib.suppress(ChildProcessError):
                self.wait()
        self.end_output()


def _reap_ours() -> None:
    """Wait for programs of the bundle that have ended and were left to us, as a warden is.

    For nobody else: who ran a container, or a program of the test, waits for it and for its status.
    """
    for pid in list(children(os.getpid())):
        with contextlib.suppress(OSError):
            name, _, fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
            if fields.split()[0] == "Z" and "(architect-" in name:
                os.waitpid(pid, os.WNOHANG)


def _reap_strays() -> None:
    """Wait for what failed in a container and was left to us, as crun leaves a failed `exec`.

    A process namespace, and so its init, does not end before that.
    """
    for pid in list(children(os.getpid())):
        with contextlib.suppress(OSError):
            fields = dict(
                line.split(":\t", 1)
                for line in Path(f"/proc/{pid}/status").read_text().splitlines()
                if ":\t" in line
            )
            _, *inside = fields["NSpid"].split()
            if fields["State"].startswith("Z") and inside and inside[-1] != "1":
                os.waitpid(pid, os.WNOHANG)


class Page:
    """The keeper's side of the init's page, written for tests."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._map: mmap.mmap = eventually(self._open, what=f"the page of init {pid}")

    def _open(self) -> mmap.mmap | None:
        # `start` returns when exec has happened; init makes the page a moment later.
        try:
            fd = os.open(f"/proc/{self.pid}/fd/3", os.O_RDWR)
        except OSError:  # none yet, or a socket of the lower runtime's
            return None
        try:
            # Made, and not yet of its size.
            if os.fstat(fd).st_size < mmap.PAGESIZE:
                return None
            mapped = mmap.mmap(fd, mmap.PAGESIZE)
        finally:
            os.close(fd)
        return mapped if struct.unpack_from("<8IQ", mapped)[1] == 1 else None

    def __getattr__(self, name: str) -> int:
        return int(self._words()[FIELDS.index(name)])

    def _words(self) -> tuple[int, ...]:
        return struct.unpack_from("<8IQ", self._map)

    def set(self, **values: int) -> None:
        """Write fields in the given order, then make init look."""
        for name, value in values.items():
            struct.pack_into("<I", self._map, 4 * FIELDS.index(name), value)
        os.kill(self.pid, signal.SIGCHLD)


FIELDS = ("magic", "version", "state", "target", "reaped", "status", "hollow", "seen", "pending")
AWAKE, ASLEEP, END, START = range(4)


class SocketDouble:
    """Answers on a control socket and remembers what it was asked."""

    def __init__(self, directory: Path, name: str) -> None:
        self.answers: dict[str, dict[str, Any] | Callable[[dict[str, Any]], dict[str, Any]]] = {}
        self.calls: list[dict[str, Any]] = []
        self.programs: list[str] = []
        """Whose calls they were, by the names of their executables."""
        directory.mkdir(mode=0o700, exist_ok=True)
        self._path = directory / name
        self._listen()

    def _listen(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(self._path))
        self._socket.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Have nobody listen for a ``with`` block."""
        self.close()
        try:
            yield
        finally:
            self._listen()

    def ops(self) -> list[str]:
        """Return the operations in the order in which they came."""
        return [call["op"] for call in self.calls]

    def _serve(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            program = _program_of(connection)
            # A client may leave before it has read its answer.
            with connection, contextlib.suppress(ConnectionResetError, BrokenPipeError):
                decoder = wire.Decoder()
                while data := connection.recv(65536):
                    for message in decoder.feed(data):
                        if message["op"] == "stop-the-double":
                            return
                        self.calls.append(message)
                        self.programs.append(program)
                        answer = self.answers.get(message["op"], {})
                        found = answer(message) if callable(answer) else answer
                        connection.sendall(wire.encode({"ok": True, **found}))

    def close(self) -> None:
        """Stop answering."""
        with wire.Client(self._path, timeout_seconds=DEADLINE_SECONDS) as client:
            client.send("stop-the-double")
            self._thread.join(DEADLINE_SECONDS)
        self._socket.close()
        self._path.unlink(missing_ok=True)


def _program_of(connection: socket.socket) -> str:
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid, _, _ = struct.unpack("3i", credentials)
    try:
        return os.readlink(f"/proc/{pid}/exe").rpartition("/")[2]
    except OSError:
        return ""  # it has left already


class KeeperDouble(SocketDouble):
    """In the keeper's place."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, "keeper.sock")


class DaemonDouble(SocketDouble):
    """In the daemon's place."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, "daemon.sock")


def in_pod(uid: str, *, container: str = "app", policy: dict[str, Any]) -> dict[str, str]:
    """Return the annotations that containerd gives a container of a pod with *policy*."""
    return {
        "io.kubernetes.cri.container-type": "container",
        "io.kubernetes.cri.container-name": container,
        "io.kubernetes.cri.sandbox-id": f"sandbox-{uid}",
        "io.kubernetes.cri.sandbox-uid": uid,
        "io.kubernetes.cri.sandbox-name": f"web-{uid}",
        "io.kubernetes.cri.sandbox-namespace": "shop",
        "architect.dev/policy": json.dumps(policy),
    }


def spec(
    args: Sequence[str],
    *,
    annotations: dict[str, str] | None = None,
    uid: int = 0,
    is_restricted: bool = False,
    env: Sequence[str] = (),
) -> Spec:
    """Return a config.json; *is_restricted*: what Kubernetes' ``restricted`` level asks for."""
    capabilities = [] if is_restricted else ["CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_SETUID"]
    sets = ("bounding", "effective", "permitted")
    linux: dict[str, Any] = {
        "namespaces": [{"type": t} for t in ("pid", "ipc", "uts", "mount", "network")],
        "maskedPaths": ["/proc/kcore"],
        "readonlyPaths": ["/proc/sys"],
    }
    if is_restricted:
        linux["seccomp"] = RUNTIME_DEFAULT
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": uid, "gid": uid},
            "args": list(args),
            "env": ["PATH=/usr/local/bin:/usr/bin:/bin", *env],
            "cwd": "/",
            "capabilities": {name: list(capabilities) for name in sets},
            "noNewPrivileges": is_restricted,
        },
        "hostname": "test",
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
        "linux": linux,
        "annotations": annotations or {},
    }


IDLE = {"architect.dev/idle": "60s"}

COMMON_CALLS = """
accept accept4 access alarm arch_prctl bind brk capget capset chdir chmod chown clock_getres
clock_gettime clock_nanosleep close close_range connect copy_file_range creat dup dup2 dup3
epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_wait eventfd eventfd2 execve execveat
exit exit_group faccessat faccessat2 fadvise64 fallocate fchdir fchmod fchown fcntl fdatasync
flock fork fstat fstatfs fsync ftruncate futex getcwd getdents getdents64 getegid geteuid getgid
getgroups getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid
getresuid getrlimit get_robust_list getrusage getsid getsockname getsockopt gettid gettimeofday
getuid ioctl kill lchown link listen lseek lstat madvise membarrier memfd_create mincore mkdir
mmap mprotect mremap msync munlock munmap nanosleep newfstatat open openat openat2 pause pipe
pipe2 poll ppoll prctl pread64 preadv prlimit64 pselect6 pwrite64 pwritev read readahead
readlink readlinkat readv recvfrom recvmmsg recvmsg rename renameat restart_syscall rmdir rseq
rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
rt_sigtimedwait sched_getaffinity sched_yield seccomp select sendfile sendmsg sendto setgid
setgroups setitimer setpgid setpriority setregid setresgid setresuid setreuid setrlimit
set_robust_list setsid setsockopt set_tid_address setuid shutdown sigaltstack socket socketpair
splice stat statfs statx symlink sync sysinfo tgkill time timerfd_create timerfd_settime times
tkill truncate umask uname unlink unlinkat utime utimensat vfork wait4 waitid write writev clone
clone3
"""

RUNTIME_DEFAULT: Spec = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
    "syscalls": [{"action": "SCMP_ACT_ALLOW", "names": COMMON_CALLS.split()}],
}
"""As containerd's and moby's default for unprivileged containers, shortened."""


def python(code: str) -> list[str]:
    """Return the command line that runs *code* in a container."""
    return [SYSTEM_PYTHON, "-Suc", code]


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """Return the output without its end of line."""
    return done.stdout.strip()


def children(pid: int) -> Iterator[int]:
    """Yield the children of *pid*."""
    yield from map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


if __name__ == "__main__":
    sys.exit("a module of the tests")
