"""What comes from elsewhere has no more rights than the container into which it comes."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from architect.shim.keeper import claims
from architect.shim.packets import protobuf
from support import criuimage
from support.mover import POLICY, Mover, numbers
from support.runtime import Container, eventually, python

CREDENTIALS = (criuimage.CORE_THREAD, criuimage.THREAD_CREDENTIALS)
SYS_ADMIN = 21

ENGINES: dict[str, Any] = {
    "capabilities": [
        *("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW"),
        *("CAP_SETGID", "CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE"),
        *("CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE"),
    ]
}
"""Root, with the capabilities that engines give."""
RESTRICTED: dict[str, Any] = {"user": 1000, "is_restricted": True}
"""Nobody, with no_new_privs and an engine's seccomp profile."""
KINDS = [pytest.param(ENGINES, id="root"), pytest.param(RESTRICTED, id="restricted")]


def status(container: Container) -> dict[str, set[str]]:
    """Return what /proc says of all threads of the application: one answer, if all is well."""
    found: dict[str, set[str]] = {}
    (inner,) = Path(f"/proc/{container.pid}/task/{container.pid}/children").read_text().split()
    waiting = [inner]
    while waiting:
        pid = waiting.pop()
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            for task in Path(f"/proc/{pid}/task").iterdir():
                for line in (task / "status").read_text().splitlines():
                    name, _, value = line.partition(":\t")
                    if name.startswith(("Cap", "NoNew", "Seccomp", "Uid", "Gid", "Groups")):
                        found.setdefault(name, set()).add(value)
                waiting += (task / "children").read_text().split()
    return found


def assert_goes_on(new: Container, *, after: Container) -> None:
    last = numbers(after)[-1]
    eventually(lambda: len(numbers(new)) > 3, what=f"output of the successor: {new.said()}")
    assert numbers(new)[0] == last + 1


@pytest.mark.parametrize("kind", KINDS)
def test_who_has_what_its_container_gives_goes_on(mover: Mover, kind: dict[str, Any]) -> None:
    old = mover.counting("uid-a", **kind)
    before = status(old)
    mover.leave(old)
    mover.bring("uid-a", to="uid-b")
    new = mover.pod("uid-b", **kind).start()
    assert_goes_on(new, after=old)
    after = status(new)
    assert after == before
    assert after["NoNewPrivs"] == {"1" if kind is RESTRICTED else "0"}


LESS = """
import ctypes, os, threading, time
libc = ctypes.CDLL(None)
here = os.open("/proc/self/fd", os.O_RDONLY)
reader, writer = os.pipe()
if os.fork() == 0:
    os.setgroups([5]); os.setgid(33); os.setuid(33)  # as servers do for their workers
    libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    allow = ctypes.create_string_buffer(bytes.fromhex("060000000000ff7f"))
    program = (ctypes.c_uint64 * 2)(1, ctypes.addressof(allow))
    assert libc.prctl(22, 2, program) == 0  # PR_SET_SECCOMP: one more filter
    threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
    os.write(writer, b"x")
    time.sleep(1000)
os.read(reader, 1)  # not before all that is given away is
for capability in (12, 13, 27):
    libc.prctl(24, capability)  # PR_CAPBSET_DROP
i = 0
while True:
    i += 1
    print(i, flush=True)
    time.sleep(0.05)
"""


def test_who_gave_away_what_its_container_gives_goes_on(mover: Mover) -> None:
    old = mover.pod("uid-a", python(LESS), **ENGINES).start()
    old.until("3\n")
    before = status(old)
    mover.leave(old)
    mover.bring("uid-a", to="uid-b")
    new = mover.pod("uid-b", python(LESS), **ENGINES).start()
    eventually(lambda: len(numbers(new)) > 3, what=f"output of the successor: {new.said()}")
    assert numbers(new)[0] > 3
    assert status(new) == before
    assert [len(before[name]) for name in ("Uid", "NoNewPrivs", "CapBnd")] == [2, 2, 2]


def more_capabilities(image: Path) -> None:
    criuimage.tamper(image, criuimage.with_capability(SYS_ADMIN), *CREDENTIALS)


def without_seccomp(image: Path) -> None:
    fields = criuimage.SECCOMP_MODE, criuimage.SECCOMP_FILTER
    criuimage.tamper(image, criuimage.without(*fields), criuimage.CORE_THREAD)


def permissive_seccomp(image: Path) -> None:
    def change(fields: list[protobuf.Field]) -> list[protobuf.Field]:
        program = (1 << 3 | protobuf.BYTES, bytes.fromhex("060000000000ff7f"))
        return [program, *criuimage.without(1)(fields)]

    criuimage.tamper(image, change, 1, name="seccomp.img")


def without_no_new_privs(image: Path) -> None:
    criuimage.tamper(image, criuimage.without(18), *CREDENTIALS)


def as_root(image: Path) -> None:
    def change(fields: list[protobuf.Field]) -> list[protobuf.Field]:
        return [(key, 0) if key >> 3 <= 8 else (key, value) for key, value in fields]

    criuimage.tamper(image, change, *CREDENTIALS)


def own_mounts(image: Path) -> None:
    def change(fields: list[protobuf.Field]) -> list[protobuf.Field]:
        return [(key, 77) if key >> 3 == 9 else (key, value) for key, value in fields]

    criuimage.tamper(image, change, name="ids-*.img")


def file_of_the_node(image: Path) -> None:
    (*entries,) = protobuf.entries(image / "files.img")
    path = "/proc/self/fd/1019/../../../../../../../etc/shadow"
    criuimage.put(image / "files.img", *entries, criuimage.regular(path, identity=9999))


TAMPERED: list[tuple[Callable[[Path], None], dict[str, Any], str]] = [
    (more_capabilities, ENGINES, "has CAP_SYS_ADMIN in its bounding set"),
    (more_capabilities, RESTRICTED, "has CAP_SYS_ADMIN in its bounding set"),
    (without_seccomp, RESTRICTED, "has no seccomp filter"),
    (permissive_seccomp, RESTRICTED, "let through what is denied: acct"),
    (without_no_new_privs, RESTRICTED, "has no no_new_privs"),
    (as_root, RESTRICTED, "runs as user 0"),
    (own_mounts, ENGINES, "it has a namespace of its own: mount"),
    (file_of_the_node, ENGINES, "/etc/shadow' is no path that the kernel writes"),
]


@pytest.mark.parametrize(
    ("tamper", "kind", "words"),
    TAMPERED,
    ids=[f"{each.__name__}-{'root' if kind is ENGINES else 'other'}" for each, kind, _ in TAMPERED],
)
def test_who_claims_more_is_refused_by_name_and_starts_fresh(
    mover: Mover, tamper: Callable[[Path], None], kind: dict[str, Any], words: str
) -> None:
    _, arrived = mover.moved("uid-a", to="uid-b", **kind)
    tamper(arrived / "image")
    with mover.events() as events:
        new = mover.pod("uid-b", **kind).start()
        told = events.until("wake-failed")
    assert (told["reason"], told["policy"]) == ("PrivilegesDiffer", "fresh")
    assert words in told["message"]
    eventually(lambda: len(numbers(new)) > 3, what="output of a fresh start")
    assert numbers(new)[:3] == [1, 2, 3]
    (known,) = status(new)["CapBnd"]
    assert not int(known, 16) >> SYS_ADMIN & 1
    assert (mover.host.state / "architect/pods/uid-b/app/failed-1/pstree.img").exists()


def test_a_container_that_gives_less_than_the_one_before_refuses_as_well(mover: Mover) -> None:
    mover.moved("uid-a", to="uid-b", **ENGINES)
    with mover.events() as events:
        new = mover.pod("uid-b").start()
        told = events.until("wake-failed")
    assert told["reason"] == "PrivilegesDiffer"
    assert "CAP_NET_RAW" in told["message"]
    assert "in its bounding set" in told["message"]
    eventually(lambda: numbers(new)[:3] == [1, 2, 3], what="output of a fresh start")


def test_who_waits_for_its_memory_does_not_start_with_such_an_image(mover: Mover) -> None:
    _, arrived = mover.moved("uid-a", to="uid-b")
    more_capabilities(arrived / "image")
    policy = {**POLICY, "on_restore_failure": "fail"}
    with mover.events() as events:
        new = mover.pod("uid-b", policy=policy)
        new.create()
        new.call("start", new.id, check=False)
        told = events.until("wake-failed")
    assert (told["reason"], told["policy"]) == ("PrivilegesDiffer", "fail")
    assert numbers(new) == []


def test_words_for_criu_that_come_with_an_image_are_none(mover: Mover) -> None:
    _, arrived = mover.moved("uid-a", to="uid-b")
    meta = json.loads((arrived / "meta.json").read_text())
    meta["pipes"]["pipe:[1]\0--external\0mnt[/]:/"] = 1
    (arrived / "meta.json").write_text(json.dumps(meta))
    new = mover.pod("uid-b").start()
    eventually(lambda: len(numbers(new)) > 3, what="output of a fresh start")
    assert numbers(new)[:3] == [1, 2, 3]
    assert "pipes that are none" in new.log.read_text()


ADDRESSES = "import time\nx = bytearray(b'x' * 4096) * (16 << 10)\n"


def test_memory_is_not_read(mover: Mover) -> None:
    code = f"{ADDRESSES}for i in range(1, 10**9): print(i, flush=True); time.sleep(0.05)"
    old = mover.pod("uid-a", python(code)).start()
    old.until("3\n")
    mover.leave(old)
    image = mover.bring("uid-a", to="uid-b") / "image"
    pages = list(image.glob("pages-*.img"))
    assert sum(file.stat().st_size for file in pages) > 64 << 20
    aside = [file.rename(image.parent / file.name) for file in pages]
    began = time.perf_counter()
    assert claims.read(image).tasks
    print(f"claims of a 64 MiB image: {(time.perf_counter() - began) * 1e3:.1f} ms")
    for file in aside:
        file.rename(image / file.name)
    new = mover.pod("uid-b", python(code)).start()
    assert_goes_on(new, after=old)
