"""Turns a process into the first process of a machine.

Run as a program of its own with the path of a JSON specification (``machine.py`` writes it), by
the host's Python, before the machine's file system exists. It joins the machine's cgroups, makes
the namespaces, forks, and the child arranges the mounts, pivots and becomes the machine's init.
The parent writes the child's pid and ends, so that nothing of the lab's has to stay.

Only the standard library, and system calls through ctypes: Python 3.11 has no ``unshare``, and
no Python has ``mount``.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

# <linux/sched.h>
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
# <linux/mount.h>
MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_SHARED = 1 << 20
MNT_DETACH = 2
# <linux/prctl.h>
PR_SET_PDEATHSIG = 1
# <asm/unistd.h>: glibc has no wrapper for pivot_root
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
ALL = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET

libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Become two processes: the machine's first one, and one that records it and ends."""
    # A killed lab must not leave a half-made machine that the next run cannot know of.
    check(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL), "prctl", "parent death signal")
    if os.getppid() != int(sys.argv[2]):
        sys.exit("the lab has ended")
    spec = json.loads(Path(sys.argv[1]).read_text())
    for procs in spec["cgroup"]["join"]:
        Path(procs).write_text("0")
    # The cgroup namespace's root is the cgroup that its first process is in now.
    check(libc.unshare(ALL), "unshare", "namespaces")
    for procs in spec["cgroup"]["leaf"]:
        Path(procs).write_text("0")
    go_read, go_write = os.pipe()
    pid = os.fork()
    if pid:
        record(Path(spec["pid_file"]), pid)
        os.write(go_write, b"g")
        return
    # Our own copy: with it open the end of the parent would not be the end of the pipe.
    os.close(go_write)
    # Until the pid is on disk a killed lab could not find this process again.
    if os.read(go_read, 1) != b"g":
        sys.exit("the parent died before it recorded the pid")
    os.close(go_read)
    os.setsid()
    socket.sethostname(spec["hostname"])
    enter_root(spec)
    for path, text in spec["sysctls"].items():
        target = Path("/proc/sys", path)
        if target.exists():
            target.write_text(text)
    os.execve(spec["init"][0], spec["init"], spec["env"])


def record(path: Path, pid: int) -> None:
    """Write *pid* and its start time, which together name a process for ever."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps({"pid": pid, "start_ticks": int(fields[19])}))
    temporary.rename(path)


def enter_root(spec: dict[str, Any]) -> None:
    """Assemble the machine's file system and make it the root.

    pivot_root, not chroot: CRIU walks the mount tree and finds the true root of it.
    """
    root = spec["root"]
    # pivot_root refuses shared mounts, and nothing mounted here may reach the host.
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    options = f"lowerdir={spec['lower']},upperdir={spec['upper']},workdir={spec['work']}"
    mount("overlay", root, "overlay", 0, options)
    mount("proc", f"{root}/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    mount("sysfs", f"{root}/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    mount_cgroups(f"{root}/sys/fs/cgroup", spec["cgroup"])
    mount("/dev", f"{root}/dev", None, MS_BIND | MS_REC)
    mount("tmpfs", f"{root}/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV)
    mount("tmpfs", f"{root}/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    mount("tmpfs", f"{root}/tmp", "tmpfs", MS_NOSUID | MS_NODEV)
    for bind in spec["binds"]:
        bind_mount(bind["source"], root + bind["target"], readonly=bind["readonly"])
    old = f"{root}/.old"
    os.makedirs(old, exist_ok=True)
    check(libc.syscall(SYS_PIVOT_ROOT[os.uname().machine], c(root), c(old)), "pivot_root", root)
    os.chdir("/")
    check(libc.umount2(c("/.old"), MNT_DETACH), "umount", "/.old")
    os.rmdir("/.old")
    # kubelet and containerd need mounts to propagate into containers.
    mount(None, "/", None, MS_REC | MS_SHARED)


def mount_cgroups(target: str, cgroup: dict[str, Any]) -> None:
    """Mount the hierarchies anew: inside the cgroup namespace their root is the machine's."""
    if cgroup["version"] == 2:
        mount("cgroup2", target, "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC)
        return
    mount("tmpfs", target, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=755")
    for hierarchy in cgroup["hierarchies"]:
        directory = f"{target}/{hierarchy['name']}"
        os.mkdir(directory)
        flags = MS_NOSUID | MS_NODEV | MS_NOEXEC
        mount("cgroup", directory, "cgroup", flags, hierarchy["options"])
        for link in hierarchy["links"]:
            os.symlink(hierarchy["name"], f"{target}/{link}")


def bind_mount(source: str, target: str, *, readonly: bool) -> None:
    """Bind a file or directory; the mount point is made if it is missing."""
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "a"):
            pass
    mount(source, target, None, MS_BIND | MS_REC)
    if readonly:
        # The kernel ignores MS_RDONLY in the call that makes a bind mount.
        mount(None, target, None, MS_REMOUNT | MS_BIND | MS_RDONLY)


def mount(
    source: str | None, target: str, kind: str | None, flags: int, data: str | None = None
) -> None:
    result = libc.mount(c(source), c(target), c(kind), ctypes.c_ulong(flags), c(data))
    check(result, f"mount {source or ''} {data or ''}", target)


def c(text: str | None) -> ctypes.c_char_p:
    return ctypes.c_char_p(None if text is None else text.encode())


def check(result: int, what: str, subject: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}", subject)


if __name__ == "__main__":
    main()
