"""What a container's processes can do to CRIU while it works there, and who is kept away."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from architect.core import capabilities
from support.runtime import (
    DEADLINE_SECONDS,
    IDLE,
    Container,
    Host,
    KeeperDouble,
    Spec,
    eventually,
    python,
    spec,
)

Make = Callable[..., Container]

RUNC = "/usr/sbin/runc"

DEFAULT = [
    *("CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL"),
    *("CAP_MKNOD", "CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID"),
    *("CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT"),
]
"""What engines give a container whose owner says nothing."""

WIDEST = [*DEFAULT, "CAP_NET_ADMIN", "CAP_SYS_NICE", "CAP_DAC_READ_SEARCH", "CAP_SYS_RAWIO"]
"""As much as is accepted, of what ordinary agents ask for."""

REACH = """
import ctypes, os, signal, sys
pid = int(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
def tell(what, works):
    try: found = works()
    except OSError: found = False
    if found: print(what)
def attach():
    if libc.ptrace(0x4206, pid, 0, 0): return False      # PTRACE_SEIZE
    return True
def take_descriptor():
    return libc.syscall(438, os.pidfd_open(pid), 0, 0) >= 0  # pidfd_getfd
def enter():
    fd = os.open(f'/proc/{pid}/ns/ipc', os.O_RDONLY)
    return libc.setns(fd, 0) == 0
tell('memory', lambda: os.open(f'/proc/{pid}/mem', os.O_RDWR))
tell('files', lambda: os.listdir(f'/proc/{pid}/root'))
tell('descriptors', take_descriptor)
tell('namespaces', enter)
tell('attach', attach)
print('done')
"""


def holding(names: list[str], **options: object) -> Spec:
    config = spec(["sleep", "1000"], **options)  # type: ignore[arg-type]  # for the reader's sake
    sets = ("bounding", "effective", "permitted")
    config["process"]["capabilities"] = dict.fromkeys(sets, names)
    return config


@contextmanager
def standing_for_criu(container: Container) -> Iterator[int]:
    """Run a process as CRIU is run: the host's root in the container's namespaces; yield its pid
    as the container knows it."""
    process = subprocess.Popen(
        ["nsenter", "-t", str(container.pid), "-p", "-m", "-u", "-n", "sleep", "1000"]
    )
    try:

        def pid_inside() -> int:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
            if not children:
                return 0
            status = Path(f"/proc/{children.split()[0]}/status").read_text()
            if "Name:\tsleep" not in status:
                return 0
            return int(status.split("NSpid:")[1].splitlines()[0].split()[-1])

        yield eventually(pid_inside, what="a process in the container's pid namespace")
    finally:
        for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)
        process.wait()


def reached(container: Container) -> list[str]:
    """Return what the container's root gets hold of in a process like CRIU."""
    with standing_for_criu(container) as pid:
        said = container.call("exec", container.id, *python(REACH), str(pid)).stdout.split()
    assert said.pop() == "done"
    return list(said)


@pytest.mark.parametrize("names", [[], DEFAULT, WIDEST], ids=["none", "default", "widest"])
def test_a_containers_root_reaches_nothing_of_criu(
    host: Host, make: Make, names: list[str]
) -> None:
    assert capabilities.refused(names) == []
    assert reached(make(holding(names), lower=RUNC).start()) == []


def test_with_sys_ptrace_it_would_reach_everything(make: Make) -> None:
    container = make(holding([*DEFAULT, "CAP_SYS_PTRACE"]), lower=RUNC).start()
    assert set(reached(container)) >= {"memory", "files", "descriptors", "attach"}


def test_with_sys_admin_it_would_change_what_criu_sees_in_proc(make: Make) -> None:
    container = make(holding([*DEFAULT, "CAP_SYS_ADMIN"]), lower=RUNC).start()
    assert "attach" not in reached(container)
    container.call("exec", container.id, "mount", "-t", "tmpfs", "tmpfs", "/proc")
    seen = subprocess.run(
        ["nsenter", "-t", str(container.pid), "-m", "ls", "/proc/self/fd"], capture_output=True
    )
    assert seen.returncode != 0


@pytest.mark.parametrize("name", sorted(capabilities.REFUSED))
def test_a_container_that_could_reach_criu_runs_unmanaged(
    host: Host, make: Make, name: str
) -> None:
    container = make(holding([*DEFAULT, name], annotations=IDLE)).start()
    note = json.loads((host.run_directory / "unmanaged" / f"{container.id}.json").read_text())
    assert note["reason"] == "Capability"
    assert name in note["message"]
    assert not (host.run_directory / "containers").exists()


def of_pod(name: str, *, policy: bool = True) -> dict[str, str]:
    text = json.dumps({"version": 1, "containers": {"app": {"idle_seconds": 60.0}}})
    return {
        "io.kubernetes.cri.container-type": "container",
        "io.kubernetes.cri.container-name": name,
        "io.kubernetes.cri.sandbox-uid": "uid-1",
        "io.kubernetes.cri.sandbox-name": "web-0",
        "io.kubernetes.cri.sandbox-namespace": "shop",
        **({"architect.dev/policy": text} if policy else {}),
    }


def debugger(target: Container, names: list[str]) -> Spec:
    """Return what `kubectl debug --target=app` makes."""
    config = holding(names, annotations=of_pod("debugger"))
    config["linux"]["namespaces"][0]["path"] = f"/proc/{target.pid}/ns/pid"
    return config


def test_a_debugger_is_announced_before_it_exists(
    host: Host, make: Make, keeper: KeeperDouble
) -> None:
    target = make(holding(DEFAULT, annotations=of_pod("app"))).start()
    other = make(debugger(target, DEFAULT)).start()
    assert "settle" not in keeper.ops()
    container = make(debugger(target, [*DEFAULT, "CAP_SYS_PTRACE"])).start()
    call = next(call for call in keeper.calls if call["op"] == "settle")
    assert (call["pod"], call["container"]) == ("uid-1", container.id)
    note = host.run_directory / "unmanaged" / f"{container.id}.json"
    assert json.loads(note.read_text())["reason"] == "Tracer"
    container.call("delete", "--force", container.id)
    assert not note.exists()
    assert other.config()["process"]["args"] == ["sleep", "1000"]


def test_a_pod_wakes_before_a_debugger_comes_and_sleeps_only_after_it_has_gone(
    node: Host, run: Make
) -> None:
    target = run(holding(DEFAULT, annotations=of_pod("app")))
    assert node.ask("sleep", "uid-1")["status"]["state"] == "asleep"
    container = run(debugger(target, [*DEFAULT, "CAP_SYS_PTRACE"]))
    assert node.ask("status", "uid-1")["state"] == "awake"
    refused = node.runtime("sleep", "uid-1", check=False)
    assert refused.returncode == 2
    assert "debugger" in refused.stderr and "CAP_SYS_PTRACE" in refused.stderr
    container.call("delete", "--force", container.id)
    assert node.ask("sleep", "uid-1")["status"]["state"] == "asleep"
    assert node.ask("wake", "uid-1")["status"]["state"] == "awake"


def test_a_privileged_exec_session_keeps_a_pod_awake(node: Host, run: Make) -> None:
    target = run(holding(DEFAULT, annotations=IDLE))
    words = target.words(
        "exec", "--cap", "CAP_SYS_PTRACE", target.id, "sh", "-c", "echo up; read x"
    )
    session = subprocess.Popen(
        node.command(*words), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert session.stdout is not None
    assert session.stdout.readline() == "up\n"
    refused = node.runtime("sleep", target.id, check=False)
    assert refused.returncode == 2
    assert "CAP_SYS_PTRACE" in refused.stderr
    session.communicate("end\n", timeout=DEADLINE_SECONDS)
    assert node.ask("sleep", target.id)["status"]["state"] == "asleep"
    assert node.ask("wake", target.id)["status"]["state"] == "awake"
