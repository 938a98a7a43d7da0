"""What is open in a ConfigMap or a Secret goes on in the new pod's, whose paths are others."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from architect.core.errors import NodeError, Rejected
from architect.shim.inspection.files import REMOVED_LIMIT_BYTES
from support.mover import COUNTING, Mover, numbers
from support.runtime import Container, Host, eventually, python

RUN = ["sh", "/mnt/run.sh"]


def goes_on(pod: Container, *, after: int) -> None:
    """Wait until *pod* has counted on."""
    eventually(lambda: numbers(pod)[-1:] > [after + 2], what="more output")


class Volumes:
    """ConfigMaps of pods as kubelet writes them, or Secrets: these are in memory."""

    def __init__(self, directory: Path, *, secrets_of: Host | None = None) -> None:
        self._directory = directory
        self._host = secrets_of
        self._kind = "configmap" if secrets_of is None else "secret"
        self._count = 0

    def source(self, uid: str) -> Path:
        """Return where the volume of pod *uid* is to the runtime."""
        return self._directory / f"pods/{uid}/volumes/kubernetes.io~{self._kind}/config"

    def at(self, uid: str) -> Path:
        """Return where it is to the test: what is mounted is so in the host's namespace alone."""
        path = self.source(uid)
        return path if self._host is None else self._host.view / path.relative_to("/")

    def dated(self, uid: str) -> str:
        """Return the name of the directory that has the files now."""
        return os.readlink(self.at(uid) / "..data")

    def write(self, uid: str, **files: str) -> dict[str, Any]:
        """Write the volume of pod *uid*, whatever it had before; return its mount."""
        volume = self.at(uid)
        if not volume.exists():
            volume.mkdir(parents=True)
            if self._host is not None:
                self._host.call("mount", "-t", "tmpfs", "tmpfs", self.source(uid))
        self._count += 1
        dated = volume / f"..2026_11_30_14_00_{self._count:02}.{self._count:09}"
        dated.mkdir()
        for name, text in files.items():
            (dated / name).write_text(text)
            link = volume / name
            if not link.is_symlink():
                link.symlink_to(f"..data/{name}")
        temporary = volume / "..data_tmp"
        temporary.symlink_to(dated.name)
        temporary.rename(volume / "..data")
        for former in volume.glob("..2*"):
            if former != dated:
                shutil.rmtree(former)
        source, options = str(self.source(uid)), ["rbind", "ro"]
        return {"destination": "/mnt", "type": "bind", "source": source, "options": options}


@pytest.fixture
def volumes(tmp_path: Path) -> Volumes:
    return Volumes(tmp_path / "kubelet")


@pytest.fixture(params=["configmap", "secret"])
def both(request: pytest.FixtureRequest, mover: Mover, tmp_path: Path) -> Volumes:
    """On a disk, and in memory."""
    secrets_of = mover.host if request.param == "secret" else None
    return Volumes(tmp_path / "kubelet", secrets_of=secrets_of)


def script(volumes: Volumes, uid: str, text: str) -> dict[str, Any]:
    return volumes.write(uid, **{"run.sh": text})


def moved(mover: Mover, old: Container, *, sleeps: bool = False) -> None:
    if sleeps:
        mover.ask("sleep", pod="uid-a", reason="test")
    mover.leave(old)
    mover.bring("uid-a", to="uid-b")


@pytest.mark.parametrize("sleeps", [False, True], ids=["awake", "asleep"])
def test_a_shell_goes_on_in_the_script_of_the_new_pod(
    mover: Mover, volumes: Volumes, sleeps: bool
) -> None:
    old = mover.pod("uid-a", RUN, mounts=[script(volumes, "uid-a", COUNTING)]).start()
    old.until("3\n")
    moved(mover, old, sleeps=sleeps)
    last = numbers(old)[-1]
    new = mover.pod("uid-b", RUN, mounts=[script(volumes, "uid-b", COUNTING)]).start()
    if sleeps:
        assert new.exec("true") == 0
    eventually(lambda: len(numbers(new)) > 3, what="output of the successor")
    assert numbers(new)[0] == last + 1
    opened = set()
    seen = Path(f"/proc/{new.pid}/root/proc")
    for process in filter(str.isdecimal, os.listdir(seen)):
        with contextlib.suppress(OSError):  # processes come and go
            for fd in os.listdir(seen / process / "fd"):
                with contextlib.suppress(OSError):
                    opened.add(os.readlink(seen / process / "fd" / fd))
    (dated,) = [path for path in opened if path.startswith("/mnt/")]
    assert dated == f"/mnt/{volumes.dated('uid-b')}/run.sh"


def test_a_pod_whose_config_map_is_written_while_it_sleeps_wakes(
    mover: Mover, volumes: Volumes
) -> None:
    """kubelet does so whenever one is changed, and with each token about once an hour."""
    pod = mover.pod("uid-a", RUN, mounts=[script(volumes, "uid-a", COUNTING)]).start()
    pod.until("3\n")
    mover.ask("sleep", pod="uid-a", reason="test")
    last = numbers(pod)[-1]
    script(volumes, "uid-a", COUNTING)
    assert pod.exec("true") == 0
    assert mover.state("uid-a") == "awake"
    goes_on(pod, after=last)
    assert numbers(pod) == list(range(1, numbers(pod)[-1] + 1))


OTHER = "echo another script"


@pytest.mark.parametrize("again", [False, True], ids=["before", "before-and-asleep"])
def test_a_pod_whose_config_map_was_replaced_while_open_sleeps_and_wakes(
    mover: Mover, both: Volumes, again: bool
) -> None:
    pod = mover.pod("uid-a", RUN, mounts=[script(both, "uid-a", COUNTING)]).start()
    pod.until("3\n")
    for _ in range(2):
        script(both, "uid-a", OTHER)
        # Of a shell that starts commands a look may tell that it waits for one (vfork).
        told = {found["reason"] for found in mover.ask("check", pod="uid-a")["findings"]}
        assert "DeletedFile" not in told
        mover.ask("sleep", pod="uid-a", reason="test")
        last = numbers(pod)[-1]
        if again:
            script(both, "uid-a", OTHER)
        assert pod.exec("true") == 0
        assert mover.state("uid-a") == "awake"
        goes_on(pod, after=last)
        assert pod.exec("sh", "-c", "! ls -A /dev | grep removed") == 0
    assert numbers(pod) == list(range(1, numbers(pod)[-1] + 1))
    assert "another" not in pod.output()
    assert sorted(os.listdir(both.at("uid-a"))) == [both.dated("uid-a"), "..data", "run.sh"]


@pytest.mark.parametrize("sleeps", [False, True], ids=["awake", "asleep"])
def test_what_was_replaced_while_open_goes_on_in_another_pod(
    mover: Mover, both: Volumes, sleeps: bool
) -> None:
    old = mover.pod("uid-a", RUN, mounts=[script(both, "uid-a", COUNTING)]).start()
    old.until("3\n")
    script(both, "uid-a", OTHER)
    if sleeps:
        mover.ask("sleep", pod="uid-a", reason="test")
        script(both, "uid-a", OTHER)
    moved(mover, old)
    last = numbers(old)[-1]
    new = mover.pod("uid-b", RUN, mounts=[script(both, "uid-b", OTHER)]).start()
    if sleeps:
        assert new.exec("true") == 0
    eventually(lambda: len(numbers(new)) > 3, what="output of the successor")
    assert numbers(new)[0] == last + 1
    # It is as any other pod: it moves on from there.
    script(both, "uid-b", OTHER)
    mover.leave(new)
    last = numbers(new)[-1]
    mover.bring("uid-b", to="uid-c")
    third = mover.pod("uid-c", RUN, mounts=[script(both, "uid-c", OTHER)]).start()
    eventually(lambda: len(numbers(third)) > 3, what="output of the next one")
    assert numbers(third)[0] == last + 1


HOLDER = """
import itertools, mmap, os, sys, time
os.chdir("/mnt/..data")
directory = os.open(".", os.O_RDONLY)
first = open("run.sh", "rb")
def held():
    file = open("run.sh", "rb")
    size = os.fstat(file.fileno()).st_size
    return (
        file,
        mmap.mmap(file.fileno(), size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC),
        mmap.mmap(file.fileno(), size, mmap.MAP_SHARED, mmap.PROT_READ),
    )
def is_whole(file, private, shared):
    text = os.pread(file.fileno(), 1 << 20, 0)
    return text == b"first" * 2000 == private[:] == shared[:]
assert first.read(5) == b"first"
reader, writer = os.pipe()
if os.fork() == 0:
    mine = held()
    while True:
        assert is_whole(*mine)
        os.write(writer, b".")
        time.sleep(0.02)
mine = held()
for number in itertools.count(1):
    assert os.read(reader, 1) == b"."
    assert is_whole(*mine) and first.tell() == 5
    assert first.read(5) == b"first" and first.seek(5) == 5
    os.fstat(directory), os.stat(".")
    print(number, flush=True)
"""
"""Has files open and mapped in two processes, and their directory, in which it works."""


@pytest.mark.parametrize("moves", [False, True], ids=["wakes", "moves"])
def test_mapped_files_and_directories_come_back(mover: Mover, both: Volumes, moves: bool) -> None:
    files = {"run.sh": "first" * 2000, "other": "never read"}
    mount = both.write("uid-a", **files)
    kind: dict[str, Any] = {"user": 1000, "is_restricted": True}
    pod = mover.pod("uid-a", python(HOLDER), mounts=[mount], **kind).start()
    pod.until("3\n")
    both.write("uid-a", **{"run.sh": "second"})
    if moves:
        moved(mover, pod)
        last = numbers(pod)[-1]
        mount = both.write("uid-b", **{"run.sh": "third"})
        pod = mover.pod("uid-b", python(HOLDER), mounts=[mount], **kind).start()
    else:
        for _ in range(2):
            mover.ask("sleep", pod="uid-a", reason="test")
            last = numbers(pod)[-1]
            assert pod.exec("true") == 0
    goes_on(pod, after=last)
    assert last + 1 in numbers(pod)
    assert list(Path(f"/proc/{pod.pid}/root/dev").glob(".architect-removed*")) == []


@pytest.mark.parametrize("directory", ["/tmp", "/mnt"], ids=["writable", "read-only"])
def test_a_file_that_is_mounted_itself_comes_back(
    mover: Mover, both: Volumes, tmp_path: Path, directory: str
) -> None:
    """As with subPath: it keeps its name, in a directory on another mount."""
    around = tmp_path / "around"
    around.mkdir()
    (around / "run.sh").touch()
    volume = script(both, "uid-a", COUNTING)
    source = str(both.source("uid-a") / both.dated("uid-a") / "run.sh")
    mounts = [
        {**volume, "source": str(around)},
        {**volume, "destination": f"{directory}/run.sh", "source": source},
    ]
    pod = mover.pod("uid-a", ["sh", f"{directory}/run.sh"], mounts=mounts).start()
    pod.until("3\n")
    script(both, "uid-a", OTHER)
    for _ in range(2):
        mover.ask("sleep", pod="uid-a", reason="test")
        last = numbers(pod)[-1]
        assert pod.exec("true") == 0
        goes_on(pod, after=last)


def test_what_does_not_fit_is_refused_before_a_sleep_and_it_runs_on(
    mover: Mover, both: Volumes
) -> None:
    program = """
import time
kept = open("/mnt/large"), open("/mnt/run.sh")
for number in range(1, 1 << 30):
    print(number, flush=True)
    time.sleep(0.02)
"""
    mount = script(both, "uid-a", COUNTING)
    large = both.at("uid-a") / "..data/large"
    with large.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, REMOVED_LIMIT_BYTES)
    (both.at("uid-a") / "large").symlink_to("..data/large")
    pod = mover.pod("uid-a", python(program), mounts=[mount]).start()
    pod.until("3\n")
    assert mover.ask("check", pod="uid-a")["findings"] == []
    script(both, "uid-a", OTHER)
    (found,) = mover.ask("check", pod="uid-a")["findings"]
    assert (found["reason"], found["is_blocking"]) == ("DeletedFile", True)
    assert "/large" in found["message"]
    for request, more in (("sleep", {}), ("capture", {"patience_seconds": 0.2})):
        with pytest.raises(Rejected, match=r"32\.0 MiB fit into /dev") as refused:
            mover.ask(request, pod="uid-a", reason="test", **more)
        assert refused.value.reason == "DeletedFile"
        assert "/large" in refused.value.message
        assert refused.value.hint
    assert mover.state("uid-a") == "awake"
    last = numbers(pod)[-1]
    goes_on(pod, after=last)


def test_a_removed_file_that_has_another_name_is_refused_by_name(
    mover: Mover, both: Volumes
) -> None:
    """CRIU would give it one more there, before the application is gone."""
    mount = script(both, "uid-a", COUNTING)
    os.link(both.at("uid-a") / both.dated("uid-a") / "run.sh", both.at("uid-a") / "beside")
    pod = mover.pod("uid-a", RUN, mounts=[mount]).start()
    pod.until("3\n")
    script(both, "uid-a", OTHER)
    with pytest.raises(NodeError) as refused:
        mover.ask("sleep", pod="uid-a", reason="test")
    assert refused.value.reason == "DeletedFile"
    assert mover.state("uid-a") == "awake"
    last = numbers(pod)[-1]
    goes_on(pod, after=last)


def test_a_script_of_another_size_is_another_one(mover: Mover, volumes: Volumes) -> None:
    old = mover.pod("uid-a", RUN, mounts=[script(volumes, "uid-a", COUNTING)]).start()
    old.until("3\n")
    moved(mover, old)
    changed = script(volumes, "uid-b", f"echo changed\n{COUNTING}")
    with mover.events() as events:
        new = mover.pod("uid-b", RUN, mounts=[changed]).start()
        told = events.until("wake-failed")
    assert told["reason"] == "FileChanged"
    new.until("changed\n1\n2\n")


WATCHER = """
import ctypes, os, struct
libc = ctypes.CDLL(None, use_errno=True)
fd = libc.inotify_init1(0)
MODIFY, MOVED_TO = 0x2, 0x80
assert libc.inotify_add_watch(fd, b"/mnt/tls.crt", MODIFY) == 1
assert libc.inotify_add_watch(fd, b"/mnt", MOVED_TO) == 2
print("watching", flush=True)
while True:
    data = os.read(fd, 65536)
    while data:
        number, mask, _, length = struct.unpack_from("iIII", data)
        print(f"{number} {mask:x} {data[16:16 + length].rstrip(bytes(1)).decode()}.", flush=True)
        data = data[16 + length:]
"""
"""Watches a file, as servers do that take up a new certificate, and the volume as a whole."""


def test_watches_are_on_the_files_of_the_new_pod(mover: Mover, volumes: Volumes) -> None:
    certificate = {"tls.crt": "certificate"}
    args = python(WATCHER)
    old = mover.pod("uid-a", args, mounts=[volumes.write("uid-a", **certificate)]).start()
    old.until("watching")
    moved(mover, old)
    new = mover.pod("uid-b", args, mounts=[volumes.write("uid-b", **certificate)]).start()
    assert mover.state("uid-b") == "awake"
    with open(volumes.at("uid-b") / "tls.crt", "w") as file:
        file.write("of another length")
    new.until("1 2 .")
    volumes.write("uid-b", **{"tls.crt": "new"})
    new.until("2 80 ..data.")
    assert "watching" not in new.output()


STILL_OPEN = WATCHER.replace('print("watching"', 'kept = open("/mnt/tls.crt"); print("watching"')


def test_a_watch_on_what_was_removed_and_is_open_comes_back(mover: Mover, volumes: Volumes) -> None:
    mount = volumes.write("uid-a", **{"tls.crt": "certificate"})
    pod = mover.pod("uid-a", python(STILL_OPEN), mounts=[mount]).start()
    pod.until("watching")
    volumes.write("uid-a", **{"tls.crt": "new"})
    pod.until("2 80 ..data.")
    mover.ask("sleep", pod="uid-a", reason="test")
    assert pod.exec("true") == 0
    assert mover.state("uid-a") == "awake"
    volumes.write("uid-a", **{"tls.crt": "newer"})
    eventually(lambda: pod.output().count("2 80 ..data.") == 2, what="the watch on the volume")
    # From the wake on, what was removed is in memory, and nobody watches it any more: it sleeps on.
    for number in range(3, 5):
        mover.ask("sleep", pod="uid-a", reason="test")
        assert pod.exec("true") == 0
        volumes.write("uid-a", **{"tls.crt": f"newer {number}"})
        eventually(
            lambda number=number: pod.output().count("2 80 ..data.") == number,  # type: ignore[misc]
            what="the watch on the volume",
        )


def test_in_memory_a_watch_on_what_was_removed_and_is_open_is_refused_by_name(
    mover: Mover, tmp_path: Path
) -> None:
    secrets = Volumes(tmp_path / "kubelet", secrets_of=mover.host)
    mount = secrets.write("uid-a", **{"tls.crt": "certificate"})
    pod = mover.pod("uid-a", python(STILL_OPEN), mounts=[mount]).start()
    pod.until("watching")
    assert mover.ask("check", pod="uid-a")["findings"] == []
    secrets.write("uid-a", **{"tls.crt": "new"})
    pod.until("2 80 ..data.")
    _is_told_and_refused(mover, pod, secrets, said=1)


def _is_told_and_refused(mover: Mover, pod: Container, volumes: Volumes, *, said: int) -> None:
    """It is told before the sleep, the sleep is refused by name, and the application goes on."""
    (found,) = mover.ask("check", pod="uid-a")["findings"]
    assert (found["reason"], found["is_blocking"]) == ("Inotify", True)
    assert "tls.crt" in found["message"]
    with pytest.raises(NodeError) as refused:
        mover.ask("sleep", pod="uid-a", reason="test")
    assert refused.value.reason == "Inotify"
    assert mover.state("uid-a") == "awake"
    for number in range(2):
        volumes.write("uid-a", **{"tls.crt": f"even newer {number}"})
        wanted = said + 1 + number
        eventually(
            lambda wanted=wanted: pod.output().count("2 80 ..data.") == wanted,  # type: ignore[misc]
            what="the watch goes on",
        )
