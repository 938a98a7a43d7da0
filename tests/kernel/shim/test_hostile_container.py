"""A container's root against what Architect has in its container: it harms nobody but itself.

It forges the environment, the page that its init shares with the keeper, its init's files and
descriptors, and the names by which it is known. A neighbour in another pod sleeps and wakes through
all of it, below the same keeper.
"""

from __future__ import annotations

import json
import os
import platform
import stat
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from architect.core import wire
from architect.core.errors import ArchitectError
from architect.shim.keeper import initpage
from support.mover import POLICY, Mover
from support.runtime import (
    DEADLINE_SECONDS,
    IDLE,
    Container,
    Host,
    Page,
    Spec,
    children,
    eventually,
    in_pod,
    python,
    spec,
)

Run = Callable[..., Container]

DEFAULT = [
    *("CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL"),
    *("CAP_MKNOD", "CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID"),
    *("CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT"),
]
"""What engines give a container whose owner says nothing."""

KMSG = (1, 11)
"""A device that no container may open, and that harms nobody."""

TRACER = """
import ctypes, os, stat, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.restype = ctypes.c_long
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
RAX, RDX, RSI, RDI, ORIG_RAX, RIP, RSP = 10, 12, 13, 14, 15, 16, 19  # user_regs_struct
def ptrace(request, address=0, data=0):
    if libc.ptrace(request, 1, address, data) < 0:
        raise OSError(ctypes.get_errno(), f'ptrace {request:#x}')
def registers():
    found = (ctypes.c_ulonglong * 27)()
    ptrace(12, 0, ctypes.addressof(found))
    return found
def call(number, *arguments):
    # PID 1 waits in a system call: let it make this one in between.
    before, now = registers(), registers()
    now[RAX], now[ORIG_RAX], now[RIP] = number, 2 ** 64 - 1, before[RIP] - 2
    for at, value in zip((RDI, RSI, RDX), arguments):
        now[at] = value % 2 ** 64
    ptrace(13, 0, ctypes.addressof(now))
    ptrace(9)
    os.waitpid(1, 0)
    result = ctypes.c_longlong(registers()[RAX]).value
    ptrace(13, 0, ctypes.addressof(before))
    if result < 0: raise OSError(-result, f'call {number}')
    return result
def swap(path, descriptor):
    ptrace(0x4206)                              # PTRACE_SEIZE
    ptrace(0x4207)                              # PTRACE_INTERRUPT
    os.waitpid(1, 0)
    place = registers()[RSP] - 1024
    text = path.encode().ljust(32, b'\\0')
    for at in range(0, 32, 8):
        ptrace(5, place + at, int.from_bytes(text[at:at + 8], 'little'))
    fd = call(257, -100, place, os.O_PATH)      # openat
    call(292, fd, descriptor, 0)                # dup3
    call(3, fd)                                 # close
    ptrace(17)
"""
"""How a container's root changes its PID 1, which has no capability more than itself (x86-64)."""


def holding(names: list[str], config: Spec) -> Spec:
    sets = ("bounding", "effective", "permitted")
    config["process"]["capabilities"] = dict.fromkeys(sets, names)
    return config


def keeper_pid(node: Host) -> int:
    with wire.Client(
        node.run_directory / "keeper.sock", timeout_seconds=DEADLINE_SECONDS
    ) as client:
        return int(client.call("version")["pid"])


def begun(container: Container) -> Container:
    """Return the container once its init is there: ``start`` returns a moment before."""
    Page(container.pid)
    return container


@pytest.fixture
def neighbour(node: Host, run: Run) -> Iterator[Container]:
    """A container of another pod, which sleeps and wakes whatever the test does."""
    policy: dict[str, Any] = {"version": 1, "containers": {"app": {"idle_seconds": 60.0}}}
    made = begun(run(spec(["sleep", "1000"], annotations=in_pod("neighbour", policy=policy))))
    assert node.ask("sleep", "neighbour")["status"]["state"] == "asleep"
    yield made
    assert node.ask("wake", "neighbour")["status"]["state"] == "awake"
    assert node.ask("sleep", "neighbour")["status"]["state"] == "asleep"
    log = (node.run_directory / "keeper.log").read_text()
    assert "Traceback" not in log, log


@pytest.fixture
def same_keeper(node: Host, neighbour: Container) -> Iterator[None]:
    """The keeper does not end, whatever the test does."""
    before = keeper_pid(node)
    yield
    assert keeper_pid(node) == before


@contextmanager
def session(node: Host, container: Container, code: str) -> Iterator[Callable[[], str]]:
    """An exec session that begins before a sleep; called, it runs *code* and says how it went."""
    code = f"{code}\nprint('done')"
    waiting = f"print('up'); import sys; sys.stdin.readline()\nexec({code!r})"
    process = subprocess.Popen(
        node.command(*container.words("exec", container.id, *python(waiting))),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"

    def go() -> str:
        return process.communicate("go\n", timeout=DEADLINE_SECONDS)[0]

    yield go
    process.kill()
    process.communicate()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the tracer knows its registers only")
@pytest.mark.usefixtures("same_keeper")
def test_a_device_in_place_of_its_output_is_opened_for_nobody(node: Host, run: Run) -> None:
    """Who opens it is the keeper, in no container's device cgroup: it would be the node's disk."""
    container = begun(run(holding(DEFAULT, spec(["sleep", "1000"], annotations=IDLE))))
    attack = f"{TRACER}\nos.mknod('/tmp/disk', stat.S_IFCHR | 0o600, os.makedev{KMSG})\n"
    with session(node, container, f"{attack}swap('/tmp/disk', 1); swap('/tmp/disk', 2)") as go:
        assert node.ask("sleep", container.id)["status"]["state"] == "asleep"
        assert go() == "done\n"
        assert stat.S_ISCHR(Path(f"/proc/{container.pid}/fd/1").stat().st_mode)
        refused = node.runtime("wake", container.id, check=False)
        assert refused.returncode != 0
        assert "was a pipe and is '/tmp/disk'" in (node.run_directory / "keeper.log").read_text()
        # What cannot be restored begins anew, for which kubelet restarts it.
        assert container.wait() == 137


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the tracer knows its registers only")
@pytest.mark.usefixtures("neighbour")
def test_a_file_in_place_of_its_page_does_not_reach_the_keeper(node: Host, run: Run) -> None:
    container = begun(run(holding(DEFAULT, spec(["sleep", "1000"], annotations=IDLE))))
    attack = f"{TRACER}\nopen('/tmp/memfd:architect-init', 'wb').write(b'x' * 4096)\n"
    with session(node, container, f"{attack}swap('/tmp/memfd:architect-init', 3)") as go:
        assert go() == "done\n"
        # A keeper that begins anew looks for the page, and finds what is there now.
        (warden,) = node.wardens()
        before = keeper_pid(node)
        subprocess.run(["kill", "-KILL", str(before)], check=True)
        eventually(lambda: set(children(warden)) - {before}, what="the next keeper")
        refused = node.runtime("sleep", container.id, check=False)
        assert refused.returncode != 0
    # The neighbour is watched by the keeper that there is now.
    node.ask("list")


PAGES = {
    "target-none": {"target": 0},
    "target-init": {"target": 1},
    "target-huge": {"target": 2**32 - 1},
    "state-unknown": {"state": 77},
    "state-asleep": {"state": initpage.InitState.ASLEEP, "seen": 1},
    "has-ended": {"reaped": 1, "status": 2**32 - 1},
    "another-version": {"magic": 0, "version": 9},
}
FIELDS = ("magic", "version", "state", "target", "reaped", "status", "hollow", "seen")


@pytest.mark.parametrize("forged", PAGES.values(), ids=PAGES.keys())
@pytest.mark.usefixtures("same_keeper")
def test_a_forged_page_harms_its_own_container_only(
    node: Host, run: Run, forged: dict[str, int]
) -> None:
    container = begun(run(spec(["sleep", "1000"], annotations=IDLE)))
    words = [(4 * FIELDS.index(name), int(value)) for name, value in forged.items()]
    write = (
        "import os, struct; f = os.open('/proc/1/fd/3', os.O_RDWR)\n"
        f"for at, value in {words!r}: os.pwrite(f, struct.pack('<I', value), at)"
    )
    assert container.exec(*python(write)) == 0
    page = Path(f"/proc/{container.pid}/fd/3").read_bytes()
    at, value = words[0]
    assert struct.unpack_from("<I", page, at)[0] == value
    for op in ("status", "sleep", "wake", "status"):
        # Whatever is said of it: an answer, in time.
        said = node.runtime(op, container.id, check=False)
        assert said.stdout or said.stderr
        assert said.returncode in (0, 2, 3), said


def test_nothing_of_its_environment_reaches_keeper_or_criu(node: Host, run: Run) -> None:
    forged = {
        "LD_PRELOAD": "/tmp/evil.so",
        "PYTHONPATH": "/tmp",
        "PYTHONSTARTUP": "/tmp/evil.py",
        "CRIU_CONFIG_FILE": "/tmp/criu.conf",
        "CRIU_LIBS_DIR": "/tmp",
        "ARCHITECT_FDS": "keeper=3",
        "NOTIFY_SOCKET": "/tmp/notify",
    }
    env = [f"{key}={value}" for key, value in forged.items()]
    plant = "echo 'invalid-option' > /tmp/criu.conf; echo up; exec sleep 1000"
    container = begun(run(spec(["sh", "-c", plant], annotations=IDLE, env=env)))
    container.until("up\n")
    assert node.ask("sleep", container.id)["status"]["state"] == "asleep"
    for pid in (keeper_pid(node), *node.wardens()):
        found = Path(f"/proc/{pid}/environ").read_text()
        assert not [each for each in forged.values() if each in found]
    assert node.ask("wake", container.id)["status"]["state"] == "awake"


def test_its_init_is_not_its_own_to_change(node: Host, run: Run) -> None:
    """A read-only bind mount of the node's file: other containers run the same one."""
    container = begun(run(holding(DEFAULT, spec(["sleep", "1000"], annotations=IDLE))))
    init = "/dev/.architect/init"
    attempts = [
        f"open({init!r}, 'ab')",
        f"os.unlink({init!r})",
        f"os.rename({init!r}, '/tmp/init')",
        f"os.truncate({init!r}, 0)",
        f"os.chmod({init!r}, 0o777)",
        f"os.chown({init!r}, 1000, 1000)",
        f"os.setxattr({init!r}, 'user.x', b'x')",
        f"os.link({init!r}, '/tmp/init')",
    ]
    for attempt in attempts:
        code = f"import os, sys\ntry: {attempt}\nexcept OSError: sys.exit(0)\nsys.exit(1)"
        assert container.exec(*python(code)) == 0, attempt
    assert node.ask("sleep", container.id)["status"]["state"] == "asleep"
    assert node.ask("wake", container.id)["status"]["state"] == "awake"


@pytest.mark.usefixtures("same_keeper")
def test_another_init_in_place_of_ours_harms_its_own_container_only(node: Host, run: Run) -> None:
    """Its directory is the container's. What comes back is what its root could have started."""
    container = begun(run(holding(DEFAULT, spec(["sleep", "1000"], annotations=IDLE))))
    plant = (
        "import os, shutil\nos.rename('/dev/.architect', '/dev/before')\n"
        "os.mkdir('/dev/.architect')\n"
        "shutil.copy('/bin/sh', '/dev/.architect/init')"
    )
    with session(node, container, plant) as go:
        assert node.ask("sleep", container.id)["status"]["state"] == "asleep"
        assert go() == "done\n"
        node.runtime("wake", container.id, check=False)
    for pid in children(container.pid):
        assert Path(f"/proc/{pid}/root/dev/.architect").is_dir()


def test_a_container_that_calls_itself_ours_is_judged_as_any(host: Host, make: Run) -> None:
    """With a volume at our init's place, and a capability that reaches CRIU."""
    forged = spec(["/dev/.architect/init", "--", "sleep", "1000"], annotations=IDLE)
    forged["mounts"].append(
        {
            "destination": "/dev/.architect/init",
            "type": "bind",
            "source": str(next((host.bundle.parent / "init").glob("*/init"))),
            "options": ["bind", "ro"],
        }
    )
    container = make(holding([*DEFAULT, "CAP_SYS_PTRACE"], forged)).start()
    note = json.loads((host.run_directory / "unmanaged" / f"{container.id}.json").read_text())
    assert note["reason"] == "Capability"
    assert not (host.run_directory / "containers" / f"{container.id}.json").exists()


@pytest.mark.parametrize("uid", ["..", "../neighbour", "a/b", "neighbour/app", "x" * 300])
@pytest.mark.usefixtures("same_keeper")
def test_a_pod_whose_name_is_a_path_has_no_image(node: Host, run: Run, uid: str) -> None:
    """Engines name pods; should one pass on what somebody wrote, it reaches no other's files."""
    before = files_below(node.state)
    policy: dict[str, Any] = {"version": 1, "containers": {"app": {"idle_seconds": 60.0}}}
    container = begun(run(spec(["sleep", "1000"], annotations=in_pod(uid, policy=policy))))
    with wire.Client(
        node.run_directory / "keeper.sock", timeout_seconds=DEADLINE_SECONDS
    ) as client:
        for op in ("sleep", "wake", "forget"):
            with pytest.raises(ArchitectError):
                client.call(op, pod=uid)
    assert container.exec("true") == 0
    eventually(lambda: files_below(node.state) == before, what=f"nothing but {before}")


def files_below(directory: Path) -> list[str]:
    """Return all that is there, but for what is being written: the neighbour's state is."""
    return sorted(
        os.path.join(root, name)
        for root, directories, files in os.walk(directory)
        for name in (*directories, *files)
        if not name.endswith(".tmp")
    )


LOOKS = """
import os, time
fd = os.open("/data/here", os.O_RDONLY)
while True:
    print(sorted(os.listdir(fd)), flush=True)
    time.sleep(0.05)
"""
UP = "/proc/self/fd/254" + "/.." * 12
"""From the descriptor at which CRIU has the image's directory: as many numbers as a process needs
for its own, and the next of 2**n behind them."""


def test_a_link_in_a_volume_does_not_lead_over_criu_to_the_node(
    mover: Mover, tmp_path: Path
) -> None:
    here = tmp_path / "here"
    here.mkdir(mode=0o755)
    volume = {
        "destination": "/data",
        "type": "bind",
        "source": str(tmp_path),
        "options": ["rbind", "rw"],
    }
    policy = {**POLICY, "on_restore_failure": "fail"}
    pod = mover.pod("uid-a", python(LOOKS), policy=policy, mounts=[volume]).start()
    pod.until("[]\n[]\n")
    mover.ask("sleep", pod="uid-a", reason="test")
    # Somebody else with the same volume: a sidecar, a pod on another node.
    here.rename(tmp_path / "aside")
    here.symlink_to(UP)
    with pytest.raises(ArchitectError):
        mover.ask("wake", pod="uid-a", reason="test")
    here.unlink()
    (tmp_path / "aside").rename(here)
    mover.ask("wake", pod="uid-a", reason="test")
    before = len(pod.output())
    eventually(lambda: len(pod.output()) > before, what="output after the wake")
    assert set(pod.output().splitlines()) == {"[]"}
