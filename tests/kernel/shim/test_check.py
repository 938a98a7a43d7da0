"""``architect-runtime check``. What it finds in a pod is compared with CRIU in test_dumpable.py."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.runtime import (
    DEADLINE_SECONDS,
    IDLE,
    Container,
    Host,
    Spec,
    python,
    spec,
)

Run = Callable[..., Container]

PREPARE = """
import ctypes, os, socket, time
libc = ctypes.CDLL(None, use_errno=True)
def done(worked=True):
    print('ready' if worked else os.strerror(ctypes.get_errno()))
    time.sleep(1000)
"""


def findings(node: Host, container: Container) -> list[dict[str, Any]]:
    return list(node.ask("check", container.id)["findings"])


def with_more_mounts(config: Spec, directory: Path) -> Spec:
    """Return *config* with an overlay, as an engine's container has for its root, and terminals."""
    for name in ("lower", "upper", "work"):
        (directory / name).mkdir(parents=True)
    paths = [f"{name}dir={directory / name}" for name in ("lower", "upper", "work")]
    config["mounts"].append(
        {"destination": "/tmp/o", "type": "overlay", "source": "overlay", "options": paths}
    )
    options = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]
    config["mounts"].append(
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": options}
    )
    return config


ORDINARY = """
import select, signal, tempfile
listening, pair = socket.create_server(('', 8080)), socket.socketpair()
kept = select.epoll(), os.openpty(), tempfile.TemporaryFile(), open('/dev/urandom', 'rb')
watch = libc.inotify_init()
watched = [libc.inotify_add_watch(watch, path, 2) for path in (b'/tmp', b'/tmp/o')]
done(min(watched) > 0)
"""


def test_nothing_is_found_in_what_sleeps_and_wakes(node: Host, run: Run, tmp_path: Path) -> None:
    config = spec(python(PREPARE + ORDINARY), annotations=IDLE)
    container = run(with_more_mounts(config, tmp_path / "overlay"))
    container.until("ready")
    assert findings(node, container) == []
    assert node.runtime("check", container.id).stdout == "nothing keeps it from sleeping\n"
    node.runtime("sleep", container.id)
    assert node.runtime("check", container.id).stdout == "the pod is asleep: nothing to look at\n"
    node.runtime("wake", container.id)
    assert findings(node, container) == []


def test_the_last_attempt_is_told_before_what_is_found(node: Host, run: Run) -> None:
    code = "s = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM); done()"
    container = run(spec(python(PREPARE + code), annotations=IDLE))
    container.until("ready")
    before = findings(node, container)
    assert node.runtime("sleep", container.id, check=False).returncode != 0
    after = findings(node, container)
    assert (after[0]["container"], after[0]["reason"]) == ("pod", "Socket")
    assert after[1:] == before
    assert node.runtime("check", container.id, check=False).returncode == 2


def test_output_into_a_file_from_outside_is_found(node: Host) -> None:
    container = node.container(spec(["sleep", "1000"], annotations=IDLE)).start()
    found = findings(node, container)
    assert {one["reason"] for one in found} == {"Mount"}
    assert any(str(container.stdout) in one["message"] for one in found)
    container.remove()


def test_shared_memory_of_an_exec_session_is_found(node: Host, run: Run) -> None:
    attach = "i = libc.shmget(77, 4096, 0o1600); libc.shmat.restype = ctypes.c_void_p\n"
    attach += "done(libc.shmat(i, None, 0) != -1 % 2**64)"
    container = run(spec(python(PREPARE + attach), annotations=IDLE))
    container.until("ready")
    assert findings(node, container) == []
    session = subprocess.Popen(
        node.command(*container.words("exec", container.id, *python(PREPARE + attach))),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert session.stdout is not None
    assert session.stdout.readline() == b"ready\n"
    found = {one["reason"]: one["is_blocking"] for one in findings(node, container)}
    assert found == {"SharedSysV": True, "ExecSession": False}
    session.terminate()
    session.communicate(timeout=DEADLINE_SECONDS)


def test_the_node_is_checked_without_a_pod(node: Host) -> None:
    found = {one["name"]: one for one in node.ask("check")["checks"]}
    assert set(found) == {
        *("runtime", "init", "keeper", "capabilities", "criu", "cgroups", "space"),
        "packet queue",
    }
    bad = [one for one in found.values() if one["is_blocking"] and not one["is_good"]]
    assert bad == []
    assert found["keeper"]["message"] == "not started yet"
    assert not node.wardens(), "looking has started the keeper"
    assert node.runtime("check").returncode == 0


def test_a_node_that_cannot_is_told_why(node: Host) -> None:
    criu = node.bundle / "bin/architect-criu"
    script = f'mount -t tmpfs tmpfs /var/lib; mount --bind /bin/false "{criu}"; exec "$@"'
    words = ["sh", "-ec", script, "-", str(node.bundle / "bin/architect-runtime"), "check"]
    done = node.call("unshare", "--mount", *words, check=False)
    assert done.returncode == 2
    lines = dict(line.split(":", 1) for line in done.stdout.splitlines())
    assert lines["criu"].split() == ["blocks", "status", "1"]
    assert "tmpfs: images would stay in memory" in lines["space"]
