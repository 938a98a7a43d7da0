"""What a look at a pod foretells against what becomes of its sleep, in both directions.

What is found is refused by CRIU, and what CRIU saves is not found. The programs are what the
documentation of CRIU and of the kernel made us think of; each was tried, and stands where it fell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from support.outside import Outside
from support.runtime import IDLE, Container, Host, Spec, python, spec

PREPARE = """
import ctypes, fcntl, mmap, os, select, signal, socket, struct, tempfile, threading, time
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = libc.shmat.restype = ctypes.c_void_p
FAILED = 2 ** 64 - 1

def call(*arguments):
    result = libc.syscall(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), arguments[0])
    return result

def child(run=lambda: time.sleep(1000)):
    pid = os.fork()
    if not pid:
        run()
        os._exit(0)
    return pid

def wait():
    print('ready', flush=True)
    while True:
        time.sleep(1000)

def until(state):
    while open('/proc/self/stat').read().rpartition(')')[2].split()[0] != state:
        time.sleep(0.01)

def passed(name):
    with socket.socket(socket.AF_UNIX) as asked:
        asked.connect('/outside/' + name)
        return socket.recv_fds(asked, 1, 1)[1]

def connected(path, kind=socket.SOCK_STREAM):
    made = socket.socket(socket.AF_UNIX, kind)
    made.connect(path)
    return made

def watch(path):
    made = libc.inotify_init()
    if libc.inotify_add_watch(made, path, 2) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)
    return made

class Filter(ctypes.Structure):
    _fields_ = [('len', ctypes.c_ushort), ('filter', ctypes.c_void_p)]

def seccomp(flags):
    libc.prctl(38, 1, 0, 0, 0)
    allow = ctypes.create_string_buffer(struct.pack('HBBI', 6, 0, 0, 0x7FFF0000))
    return call(317, 1, flags, ctypes.byref(Filter(1, ctypes.addressof(allow))))
"""

REFUSED: dict[str, tuple[str, str]] = {
    "another family of sockets": ("Socket", "kept = socket.socket(socket.AF_VSOCK, 1)"),
    "a socket of express data path": ("Socket", "kept = socket.socket(44, 3, 0)"),
    "an MPTCP listener": (
        "Mptcp",
        "kept = socket.socket(2, 1, 262); kept.bind(('127.0.0.1', 0)); kept.listen()",
    ),
    "a raw socket": ("UnheldSocket", "kept = socket.socket(2, 3, 1)"),
    "a packet socket": ("UnheldSocket", "kept = socket.socket(17, 3, 768)"),
    "a UNIX connection to outside": ("ExternalSocket", "kept = connected('/outside/stream')"),
    "a log socket outside": (
        "ExternalSocket",
        "kept = connected('/outside/log', socket.SOCK_DGRAM)",
    ),
    "a UNIX socket made outside": ("ExternalSocket", "kept = passed('pair')"),
    "userfaultfd": ("Device", "kept = call(323, 1)"),
    "a map of BPF": (
        "Device",
        "wish = struct.pack('IIII', 2, 4, 4, 4); "
        "kept = call(321, 0, ctypes.create_string_buffer(wish, 128), 72)",
    ),
    "a counter of perf": (
        "Device",
        "kept = call(298, ctypes.create_string_buffer(struct.pack('IIQ', 1, 128, 0), 128), 0, -1, "
        "-1, 0)",
    ),
    "a listener of seccomp": ("Device", "kept = seccomp(8)"),
    "rules of landlock": (
        "Device",
        "kept = call(444, ctypes.create_string_buffer(struct.pack('Q', 4)), 8, 0)",
    ),
    "secret memory": ("Device", "kept = call(447, 0)"),
    "a device": ("Device", "kept = passed('device')"),
    "a tun device": ("Device", "kept = passed('tun')"),
    "a terminal of somebody else": ("Terminal", "kept = passed('terminal')"),
    "a file from outside": ("Mount", "kept = passed('file')"),
    "a message queue": (
        "Mount",
        "kept = ctypes.CDLL('librt.so.1').mq_open(b'/q', 0x42, 0o600, None); assert kept >= 0",
    ),
    "a file of huge pages": ("HugePages", "kept = os.memfd_create('x', 4)"),
    "a watch on a file that has gone": (
        "Inotify",
        "kept = open('/overlay/gone', 'w'), watch(b'/overlay/gone'); os.unlink('/overlay/gone')",
    ),
    "a watch in /proc": ("Inotify", "kept = watch(b'/proc/self')"),
    "a watch among terminals": ("Inotify", "kept = watch(b'/dev/pts')"),
    "a large deleted file": (
        "DeletedFile",
        "kept = open('/tmp/x', 'wb'); os.posix_fallocate(kept.fileno(), 0, 65 << 20); "
        "os.unlink('/tmp/x')",
    ),
    "a large deleted file, mapped": (
        "DeletedFile",
        "opened = open('/tmp/x', 'w+b'); os.posix_fallocate(opened.fileno(), 0, 65 << 20); "
        "mapped = None, ctypes.c_size_t(4096), 1, 1, opened.fileno(), ctypes.c_long(0); "
        "address = libc.mmap(*mapped); "
        "assert address != FAILED; opened.close(); os.unlink('/tmp/x')",
    ),
    "a process in namespaces of its own": (
        "NestedNamespace",
        "assert libc.unshare(0x10020000) == 0",
    ),
    "a process that is debugged": ("Traced", "assert libc.ptrace(0x4206, child(), 0, 0) == 0"),
    "a descriptor of another's process": ("Pidfd", "kept = os.pidfd_open(1)"),
    "an epoll on what another process has": (
        "Epoll",
        "reader, writer = os.pipe(); kept = select.epoll(); kept.register(reader); child(); "
        "os.close(reader)",
    ),
    "a main thread that has ended": (
        "MainThread",
        "threading.Thread(target=lambda: (until('Z'), wait())).start(); libc.syscall(60, 0)",
    ),
    "a parent that waits for vfork": (
        "Uninterruptible",
        "stack = ctypes.create_string_buffer(1 << 16); "
        "threading.Thread(target=lambda: (until('D'), wait())).start(); "
        "libc.clone.argtypes = [ctypes.c_void_p] * 2 + [ctypes.c_int, ctypes.c_void_p]; "
        "libc.clone(ctypes.cast(libc.sleep, ctypes.c_void_p), "
        "ctypes.addressof(stack) + (1 << 16) - 64, 0x4100 | 17, 1000)",
    ),
}
"""A program → the reason why it cannot sleep, and what it does."""

SAID = {
    # CRIU meets the consequence first.
    "secret memory": "Mount",
    "a file of huge pages": "Mount",
    # It says nothing that tells.
    "an epoll on what another process has": "Criu",
}

SLOW = frozenset({"a parent that waits for vfork"})
"""CRIU waits ten seconds for it."""

SAMPLE = {reason: what for what, (reason, _) in reversed(REFUSED.items())}
"""The first program for each reason: the others are for those who have the time."""

SAVED: dict[str, str] = {
    "connections": """
listener = socket.create_server(('127.0.0.1', 0))
client = socket.create_connection(listener.getsockname())
server = listener.accept()[0]
server.shutdown(1)
bound = socket.socket()
bound.bind(('127.0.0.1', 0))
filtered = socket.socket(2, 2)
allow = ctypes.create_string_buffer(struct.pack('HBBI', 6, 0, 0, 0xFFFFFFFF))
filtered.setsockopt(1, 26, struct.pack('H6xQ', 1, ctypes.addressof(allow)))
""",
    "kernel": """
route, diag, generic, events = (socket.socket(16, 3, n) for n in (0, 4, 16, 15))
route.bind((0, 1)); generic.bind((0, 0)); events.bind((0, 1))
""",
    "unix": """
pair, half, datagrams = socket.socketpair(), socket.socketpair(), socket.socketpair(1, 2)
half[1].close(); datagrams[0].send(b'x'); packets = socket.socketpair(1, 5)
socket.send_fds(pair[0], [b'x'], [0]); listener = socket.socket(1, 1); listener.bind('/tmp/l')
listener.listen(); client = connected('/tmp/l'); server = listener.accept()[0]; os.unlink('/tmp/l')
""",
    "memory": """
memfd = os.memfd_create('x'); os.write(memfd, b'y'); executable = mmap.mmap(-1, 4096, prot=7)
zero = mmap.mmap(os.open('/dev/zero', 2), 4096); zero[0] = 1
segment = libc.shmget(77, 4096, 0o1600); assert libc.shmat(segment, None, 0) != FAILED
contexts = ctypes.c_ulong(0); call(206, 16, ctypes.byref(contexts))
""",
    "files": """
small = open('/tmp/s', 'w')
os.unlink('/tmp/s')
os.mkdir('/tmp/d')
directory = os.open('/tmp/d', 0)
os.chdir('/tmp/d'); os.rmdir('/tmp/d'); nameless = os.open('/tmp', os.O_TMPFILE | 2)
linked = open('/tmp/a', 'w'); os.link('/tmp/a', '/tmp/b'); os.unlink('/tmp/a')
path = os.open('/etc/passwd', os.O_PATH); os.mkfifo('/tmp/f'); fifo = os.open('/tmp/f', 2)
outside = os.open('/outside/fifo', os.O_WRONLY); pipe = os.pipe(); os.write(pipe[1], b'x')
random, null = open('/dev/urandom', 'rb'), open('/dev/null')
own, first, node = open('/proc/self/status'), open('/proc/1/stat'), open('/proc/meminfo')
dead = child(); ended = os.open(f'/proc/{dead}', 0); os.kill(dead, 9); os.waitpid(dead, 0)
space = open('/proc/self/ns/net')
""",
    "locks": """
one, two, three = (open(f'/tmp/{n}', 'w') for n in (1, 2, 3))
fcntl.flock(one, 2)
fcntl.lockf(two, 2)
fcntl.fcntl(three, 37, struct.pack('hhqqi4x', 1, 0, 0, 0, 0))
child(lambda: fcntl.flock(open('/tmp/1'), 2))
four = open('/tmp/4', 'w')
fcntl.fcntl(four, 1024, 1)
""",
    "waiting": """
watches = watch(b'/tmp'), watch(b'/dev/shm'), watch(b'/outside')
os.mkdir('/tmp/w')
gone = watch(b'/tmp/w')
os.rmdir('/tmp/w')
fan = call(300, 0x200, 0)
assert libc.syscall(301, fan, 1, ctypes.c_uint64(2), -100, b'/tmp') == 0
reader, writer = os.pipe()
epoll = select.epoll()
epoll.register(reader)
kept = os.dup(reader)
os.close(reader)
nested = select.epoll()
nested.register(epoll.fileno())
timer = call(283, 0, 0)
event = call(290, 0, 0)
signal.pthread_sigmask(0, [10]); os.kill(os.getpid(), 10)
child_pid = child(); descriptors = os.pidfd_open(child_pid), os.pidfd_open(os.getpid())
""",
    "terminals": """
both, hung_up, master = os.openpty(), os.openpty(), os.openpty()
os.close(hung_up[0])
os.close(master[1])
def lead():
    os.setsid(); fcntl.ioctl(both[1], 0x540E, 0); time.sleep(1000)
child(lead)
""",
    "processes": """
stopped, zombie = child(), child(lambda: None); os.kill(stopped, 19); time.sleep(0.1)
def daemon():
    os.setsid(); child(); os._exit(0)
os.waitpid(child(daemon), 0)
def grouped():
    os.setpgid(0, 0); child(); os._exit(0)
os.waitpid(child(grouped), 0)
seccomp(0)
child(lambda: (libc.prctl(22, 1, 0, 0, 0), os.read(pipe[0], 1))) if (pipe := os.pipe()) else None
call(446, rules := call(444, ctypes.create_string_buffer(struct.pack('Q', 4)), 8, 0), 0)
os.close(rules)
""",
    "threads": """
for n in range(500): threading.Thread(target=time.sleep, args=(1000,)).start()
""",
}
"""A group of what is saved → what makes all of it."""

CAPABILITIES = [
    *("CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_SETUID", "CAP_NET_RAW", "CAP_SYS_CHROOT"),
    *("CAP_IPC_LOCK", "CAP_DAC_OVERRIDE", "CAP_PERFMON", "CAP_BPF", "CAP_NET_ADMIN"),
]
"""So that it is CRIU that refuses, and not the kernel before."""

Make = Callable[[str], Container]


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outside]:
    with closing(Outside(tmp_path_factory.mktemp("node") / "outside")) as made:
        yield made


@pytest.fixture
def make(shared: Host, outside: Outside, tmp_path: Path) -> Iterator[Make]:
    """Start a container whose program runs some code and waits."""
    made: list[Container] = []

    def started(code: str) -> Container:
        config = _with_mounts(
            spec(python(f"{PREPARE}\n{code}\nwait()"), annotations=IDLE), tmp_path
        )
        config["mounts"].append(_bound("/outside", outside.directory))
        for held in config["process"]["capabilities"]:
            config["process"]["capabilities"][held] = CAPABILITIES
        made.append(shared.container(config, has_pipes=True))
        container = made[-1].start()
        container.until("ready")
        return container

    yield started
    for container in made:
        container.remove()


def _bound(at: str, source: Path) -> dict[str, Any]:
    return {"destination": at, "type": "bind", "source": str(source), "options": ["rbind", "rw"]}


def _with_mounts(config: Spec, directory: Path) -> Spec:
    """Return *config* with an overlay, as an engine's container has, terminals, memory, queues."""
    for name in ("lower", "upper", "work"):
        (directory / name).mkdir()
    layers = [f"{name}dir={directory / name}" for name in ("lower", "upper", "work")]
    terminals = ["newinstance", "ptmxmode=0666", "mode=0620"]
    for at, kind, options in (
        ("/tmp/o", "overlay", layers),
        ("/dev/pts", "devpts", terminals),
        ("/dev/mqueue", "mqueue", []),
        ("/dev/shm", "tmpfs", []),
    ):
        mount = {"destination": at, "type": kind, "source": kind, "options": options}
        config["mounts"].append(mount)
    return config


def found(host: Host, container: Container) -> list[dict[str, Any]]:
    return [one for one in host.ask("check", container.id)["findings"] if one["is_blocking"]]


@pytest.mark.parametrize(
    "what",
    [
        pytest.param(
            what, marks=[] if what in SAMPLE.values() and what not in SLOW else [pytest.mark.long]
        )
        for what in sorted(REFUSED)
    ],
)
def test_what_is_found_is_refused(shared: Host, make: Make, what: str) -> None:
    reason, code = REFUSED[what]
    container = make(code.replace("/overlay", "/tmp/o"))
    before = found(shared, container)
    assert {one["reason"] for one in before} == {reason}, before
    assert all(one["hint"] and one["about"] == "processes" for one in before)
    why = shared.runtime("why", container.id).stdout
    assert f"{reason}: {before[0]['message']}" in why
    done = shared.runtime("sleep", container.id, "--patience", "1s", check=False)
    assert done.returncode != 0, "it can be saved: the finding is wrong"
    refused = shared.ask("status", container.id)["refused"]
    if refused is not None:  # else it is tried again
        assert refused["reason"] == SAID.get(what, reason), refused
    # The application goes on, and is what it was.
    after = [one for one in found(shared, container) if one["about"] == "processes"]
    assert after == before


@pytest.mark.parametrize("what", sorted(SAVED))
def test_what_is_saved_is_not_found(shared: Host, make: Make, what: str) -> None:
    container = make(SAVED[what])
    assert shared.ask("check", container.id)["findings"] == []
    shared.runtime("sleep", container.id)
    shared.runtime("wake", container.id)
    assert found(shared, container) == []
