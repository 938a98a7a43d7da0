"""A program that tells what a process finds about itself, and which of it is our decision."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

Seen = dict[str, Any]

IN_POD: Final = Path(__file__).parent / "apps" / "look.py"
"""What tells about as much in a pod, where files may be written, too."""

_LOOK = r"""
import ctypes, json, os, resource, signal, socket, stat, sys
keep = ('Umask Uid Gid Groups CapInh CapPrm CapEff CapBnd CapAmb NoNewPrivs Seccomp SigBlk SigIgn '
        'SigCgt SigPnd ShdPnd Threads Cpus_allowed Mems_allowed CoreDumping THP_enabled').split()
def text(path):
    try: return open(path).read()
    except OSError as error: return error.errno
def mounts():
    for line in open('/proc/self/mountinfo'):
        fields, _, tail = line.partition(' - ')
        _, _, _, _, where, options, *tags = fields.split()
        kind, _, of_all = tail.split(' ', 2)
        # Peer groups are numbered by the kernel.
        yield [where, options, kind, of_all.strip(), [tag.partition(':')[0] for tag in tags]]
def devices():
    for name in os.listdir('/dev'):
        found = os.lstat('/dev/' + name)
        yield name, [oct(found.st_mode), found.st_rdev, found.st_uid, found.st_gid]
def look():
    lines = text('/proc/self/status').splitlines()
    pairs = [line.split(':\t', 1) for line in lines if ':\t' in line]
    fds = [int(n) for n in os.listdir('/proc/self/fd') if os.path.exists('/proc/self/fd/' + n)]
    death = ctypes.c_int()
    ctypes.CDLL(None).prctl(2, ctypes.byref(death))  # PR_GET_PDEATHSIG
    limits = [n for n in dir(resource) if n.startswith('RLIMIT_')]
    return {
        'argv': sys.argv[1:], 'environ': sorted(os.environ.items()), 'cwd': os.getcwd(),
        'status': {k: v for k, v in pairs if k in keep},
        'rlimits': {n: resource.getrlimit(getattr(resource, n)) for n in limits},
        'nice': os.nice(0), 'scheduler': os.sched_getscheduler(0), 'host': socket.gethostname(),
        'fds': {n: stat.S_IFMT(os.fstat(n).st_mode) for n in fds}, 'terminal': os.isatty(0),
        'pid': os.getpid(), 'parent': os.getppid(), 'session': os.getsid(0), 'group': os.getpgid(0),
        'mounts': sorted(mounts()), 'dev': dict(devices()), 'death': death.value,
        'owner': os.stat('/proc/self/mem').st_uid, 'cgroup': text('/proc/self/cgroup').split(),
        **{n: text('/proc/self/' + n) for n in
           ('oom_score_adj', 'timerslack_ns', 'personality', 'setgroups', 'loginuid', 'uid_map')},
        **{n: text('/proc/sys/' + n) for n in
           ('kernel/shm_rmid_forced', 'net/ipv4/ip_unprivileged_port_start')},
    }
"""

LOOK = f"{_LOOK}print(json.dumps(look()))"
"""Tells once, and ends."""

LOOK_AGAIN = f"""{_LOOK}
signal.signal(signal.SIGUSR1, lambda *_: print(json.dumps(look()), flush=True))
print(json.dumps(look()), flush=True)
while True: signal.pause()
"""
"""Tells, and tells again at each SIGUSR1."""


def without_decisions(ours: Seen, plain: Seen) -> Seen:
    """Return what a managed container has *seen* as it would be without what we document.

    Each line is a row in docs/runtime.md, and fails if the difference is not there.
    """
    ours = dict(ours)
    assert plain["pid"] == plain["group"] == plain["session"] == 1 and plain["parent"] == 0
    assert ours["pid"] == ours["group"] > ours["session"] == ours["parent"] > 1
    for key in ("pid", "group", "session", "parent"):
        ours[key] = plain[key]
    (added,) = [m for m in ours["mounts"] if m[0] == "/dev/.architect/init"]
    assert "ro" in added[1].split(",")
    ours["mounts"] = [m for m in ours["mounts"] if m is not added]
    ours["dev"] = _without_ours(ours["dev"])
    values = dict(ours["environ"])
    godebug = dict(plain["environ"]).get("GODEBUG")
    setting = "multipathtcp=0"
    assert values.pop("GODEBUG") == (f"{godebug},{setting}" if godebug else setting)
    if godebug:
        values["GODEBUG"] = godebug
    ours["environ"] = [list(item) for item in sorted(values.items())]
    if plain["status"]["Seccomp"] == "0":
        assert ours["status"]["Seccomp"] == "2"  # io_uring, unless the kernel denies it
        ours["status"] = {**ours["status"], "Seccomp": "0"}
    return ours


def _without_ours(devices: dict[str, Any] | list[str]) -> dict[str, Any] | list[str]:
    assert ".architect" in devices
    if isinstance(devices, list):
        return [name for name in devices if name != ".architect"]
    return {name: value for name, value in devices.items() if name != ".architect"}
