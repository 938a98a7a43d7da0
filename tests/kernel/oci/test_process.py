"""What config.json says of process, mounts and limits: found by the application, before and after
a sleep, as under the plain runtime."""

from __future__ import annotations

import array
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from support.kinds import ASLEEP, MANAGED, UNMANAGED, Hosts, Making, kinds, paired
from support.look import LOOK_AGAIN, Seen, without_decisions
from support.runtime import (
    DEADLINE_SECONDS,
    RUNTIME_DEFAULT,
    Container,
    Spec,
    eventually,
    python,
    spec,
)

LOOK_CALLS = ["sched_getscheduler", "readlink", "rt_sigreturn", "pause", "kill"]


def engines() -> Spec:
    """Return what containerd asks for an ordinary container of a pod."""
    config = spec(python(LOOK_AGAIN))
    config["process"]["args"] += ["one", ""]
    config["process"]["oomScoreAdj"] = 900
    config["process"]["user"].update(additionalGids=[10], umask=0o27)
    config["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 256, "hard": 512}]
    shared = ["nosuid", "noexec", "nodev"]
    config["mounts"] = [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": shared},
        *(each for each in config["mounts"] if each["destination"] in ("/dev", "/tmp")),
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
        },
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": shared},
        {
            "destination": "/dev/shm",
            "type": "tmpfs",
            "source": "shm",
            "options": [*shared, "mode=1777", "size=64k"],
        },
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*shared, "ro"]},
        {
            "destination": "/run",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=64k", "uid=5", "gid=6"],
        },
        {
            "destination": "/etc/hosts",
            "type": "bind",
            "source": "/etc/hostname",
            "options": ["rbind", "rprivate", "ro"],
        },
        {
            "destination": "/mnt",
            "type": "bind",
            "source": "/usr/share",
            "options": ["rbind", "rslave", "ro", "noexec", "nodev"],
        },
    ]
    linux = config["linux"]
    linux["namespaces"].append({"type": "cgroup"})
    linux["maskedPaths"] = ["/proc/kcore", "/proc/keys", "/sys/firmware", "/no/such"]
    linux["readonlyPaths"] = ["/proc/bus", "/proc/sys", "/proc/sysrq-trigger"]
    linux["sysctl"] = {"kernel.shm_rmid_forced": "1", "net.ipv4.ip_unprivileged_port_start": "80"}
    linux["devices"] = [
        {
            "path": "/dev/nought",
            "type": "c",
            "major": 1,
            "minor": 3,
            "fileMode": 0o640,
            "uid": 5,
            "gid": 6,
        }
    ]
    return config


def hardened() -> Spec:
    """Return one without root, capabilities, and most system calls."""
    config = spec(python(LOOK_AGAIN), uid=1000, is_restricted=True, env=["HOME=/nowhere"])
    config["process"]["cwd"] = "/tmp"
    config["linux"]["rootfsPropagation"] = "rslave"
    rules = RUNTIME_DEFAULT["syscalls"][0]
    config["linux"]["seccomp"] = {
        **RUNTIME_DEFAULT,
        "syscalls": [{**rules, "names": [*rules["names"], *LOOK_CALLS]}],
    }
    return config


def powerful() -> Spec:
    """Return one with capabilities in every set, as a driver or a network tool has."""
    config = spec(python(LOOK_AGAIN))
    held = ["CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_SYS_CHROOT"]
    names = ("bounding", "effective", "permitted", "inheritable", "ambient")
    config["process"]["capabilities"] = dict.fromkeys(names, held)
    config["linux"]["rootfsPropagation"] = "shared"
    return config


def seen(make: Making, config: Spec) -> list[Seen]:
    """Return what one of that kind finds at its start, and later: after a sleep, if it sleeps."""
    container = make(config, has_pipes=True).start()
    container.until("\n")
    make.settle(container)
    container.kill("USR1")
    container.until("}\n{")
    eventually(lambda: container.output().endswith("}\n"), what="the second answer")
    found = [json.loads(line) for line in container.output().splitlines()]
    for each in found:
        each["cgroup"] = [line.replace(container.id, "ID") for line in each["cgroup"]]
    container.kill("KILL")
    container.wait()
    return found


@pytest.mark.parametrize("config", [engines, hardened, powerful])
@pytest.mark.parametrize("kind", kinds(UNMANAGED, MANAGED, ASLEEP, crun=(ASLEEP,)))
def test_a_process_finds_what_was_asked_for_before_and_after_a_sleep(
    hosts: Hosts, kind: str, config: Any
) -> None:
    for pair in paired(hosts, kind):
        lower, _ = seen(pair.plain, config())
        first, second = seen(pair.ours, config())
        assert second == first
        assert (without_decisions(first, lower) if pair.ours.is_managed else first) == lower


# Limits and places

RESOURCES = {
    "memory": {"limit": 96 << 20, "reservation": 48 << 20},
    "cpu": {"shares": 512, "quota": 40000, "period": 100000},
    "pids": {"limit": 50},
    "devices": [
        {"allow": False, "access": "rwm"},
        {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rw"},
    ],
}
FILES = (
    *("memory.limit_in_bytes", "memory.soft_limit_in_bytes", "cpu.shares", "cpu.cfs_quota_us"),
    *("cpu.cfs_period_us", "pids.max", "devices.list", "memory.max", "memory.low", "cpu.weight"),
    "cpu.max",
)


@pytest.mark.parametrize("kind", kinds(UNMANAGED, MANAGED, ASLEEP, crun=(ASLEEP,)))
def test_limits_hold_where_the_path_says(hosts: Hosts, kind: str) -> None:
    for pair in paired(hosts, kind):
        found = []
        for make in pair:
            config = spec(["sh", "-c", "echo up; exec sleep 1000"])
            container = make(config)
            config = container.config()
            path = f"/of-a-pod-{container.id}/inner"
            config["linux"].update(cgroupsPath=path, resources=RESOURCES)
            (container.bundle / "config.json").write_text(json.dumps(config))
            container.start()
            container.until("up")
            make.settle(container)
            found.append(limits(container, path))
            container.kill("KILL")
            container.wait()
            container.call("delete", container.id)
            make.host.call("sh", "-c", f"rmdir /sys/fs/cgroup/*{os.path.dirname(path)} || true")
        lower, ours = found
        assert ours == lower
        assert {"pids.max": "50"}.items() <= lower.items()


def limits(container: Container, path: str) -> dict[str, str]:
    """Return the values in the container's own cgroups below *path*, by name of the file."""
    found = {}
    lines = Path(f"/proc/{container.pid}/cgroup").read_text().splitlines()
    assert any(line.endswith(path) for line in lines)
    names = " ".join(FILES)
    code = (
        f"for at in /sys/fs/cgroup/*{path} /sys/fs/cgroup{path}; do for f in {names}; do "
        "[ -e \"$at/$f\" ] && echo \"$f=$(cat $at/$f | tr '\\n' ' ' | sed 's/ $//')\"; "
        "done; done; true"
    )
    for line in container.host.call("sh", "-c", code).stdout.splitlines():
        name, _, value = line.partition("=")
        found[name] = value
    return found


def test_namespaces_of_another_container_are_joined(make_any: Making) -> None:
    """As every container of a pod joins those of its sandbox."""
    make = make_any
    pause = make.host.container(spec(["sleep", "1000"]), runtime=make.program())
    make.made.append(pause)
    pause.start()
    config = spec(["sh", "-c", "echo up; exec sleep 1000"])
    names = {"network": "net", "ipc": "ipc", "uts": "uts"}
    config["linux"]["namespaces"] = [
        {"type": kind, "path": f"/proc/{pause.pid}/ns/{names[kind]}"} if kind in names else each
        for each in config["linux"]["namespaces"]
        for kind in [each["type"]]
    ]
    del config["hostname"]
    container = make(config).start()
    container.until("up")
    make.settle(container)
    look = "readlink /proc/self/ns/net /proc/self/ns/ipc /proc/self/ns/uts; hostname"
    inside = container.call("exec", container.id, "sh", "-c", look).stdout.split()
    assert inside == [
        *(os.readlink(f"/proc/{pause.pid}/ns/{name}") for name in ("net", "ipc", "uts")),
        "test",
    ]
    container.call("delete", "--force", container.id)
    container.wait()


# Terminals


@contextmanager
def console(container: Container) -> Iterator[tuple[str, Any]]:
    """Listen where the runtime is to send a terminal; yield the path, and what returns it."""
    path = str(container.bundle / "console.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        listener.settimeout(DEADLINE_SECONDS)

        def terminal() -> int:
            connection, _ = listener.accept()
            with closing(connection):
                fds = array.array("i")
                _, ancillary, _, _ = connection.recvmsg(4096, socket.CMSG_SPACE(fds.itemsize))
                ((_, _, data),) = ancillary
                fds.frombytes(data[: fds.itemsize])
                return int(fds[0])

        yield path, terminal
    os.unlink(path)


def read_all(fd: int) -> str:
    """Read until the other side has gone, which is an error of the terminal's."""
    found = b""
    try:
        while data := os.read(fd, 4096):
            found += data
    except OSError:
        pass
    finally:
        os.close(fd)
    return found.decode()


def with_terminals(args: list[str]) -> Spec:
    config = spec(args)
    config["mounts"].append(
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": ["newinstance", "ptmxmode=0666", "mode=0620"],
        }
    )
    return config


def test_a_container_with_a_terminal_has_it(make: Making) -> None:
    config = with_terminals(["sh", "-c", "tty; stty size; exit 3"])
    config["process"].update(terminal=True, consoleSize={"height": 10, "width": 20})
    container = make(config)
    with console(container) as (path, terminal):
        words = container.words("create", "--bundle", str(container.bundle))
        pid_file = container.bundle / "init.pid"
        words += ["--console-socket", path, "--pid-file", str(pid_file), container.id]
        container.host.call(*words)
        master = terminal()
    container.pid = int(pid_file.read_text())
    container.call("start", container.id)
    assert read_all(master).split() == ["/dev/pts/0", "10", "20"]
    assert container.wait() == 3
    note = make.host.run_directory / "unmanaged" / f"{container.id}.json"
    assert note.exists() is make.is_managed  # the reason is `Terminal`
    container.call("delete", container.id)


def test_exec_with_a_terminal_has_it(make_any: Making) -> None:
    make = make_any
    container = make(with_terminals(["sh", "-c", "echo up; exec sleep 1000"])).start()
    container.until("up")
    make.settle(container)
    with console(container) as (path, terminal):
        pid_file = container.bundle / "exec.pid"
        code = "[ -t 0 ] && [ -t 1 ] && read line && echo got $line; exit 9"
        words = container.words("exec", "--tty", "--detach", "--console-socket", path)
        words += ["--pid-file", str(pid_file), container.id, "sh", "-c", code]
        done = subprocess.run(
            container.host.command(*words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            timeout=DEADLINE_SECONDS,
        )
        assert done.returncode == 0
        master = terminal()
    os.write(master, b"words\n")
    assert "got words" in read_all(master)
    _, status = os.waitpid(int(pid_file.read_text()), 0)
    assert os.waitstatus_to_exitcode(status) == 9
