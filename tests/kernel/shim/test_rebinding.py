"""Sockets on the pod's own addresses are on those of its successor, or it says which cannot be."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest

from support.mover import POLICY, Mover
from support.podnetworks import OUTSIDE, PodNetwork
from support.runtime import Container, eventually, python

TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM
OUTSIDE_PORT = 9000

SERVER = f"""
import os, selectors, socket
waits, count = selectors.DefaultSelector(), 0
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for kind, host, port in map(str.split, os.environ["BIND"].split(",")):
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=int(kind))[0]
    made = socket.socket(family, kind)
    made.bind(address)
    if kind == socket.SOCK_STREAM:
        made.listen()
    waits.register(made, selectors.EVENT_READ)
if os.environ.get("OUT"):
    out.connect(({OUTSIDE!r}, {OUTSIDE_PORT}))
print("bound", flush=True)
while True:
    for key, _ in waits.select():
        bound, count = key.fileobj, count + 1
        said = f"{{count}} {{bound.getsockname()[0]}}".encode()
        if bound.type == socket.SOCK_STREAM:
            taken, _ = bound.accept()
            taken.sendall(said)
            taken.close()
        else:
            bound.sendto(said, bound.recvfrom(100)[1])
        if os.environ.get("OUT"):
            out.send(f"{{count}} {{out.getsockname()[0]}}".encode())
"""
"""Says how often it was asked, and which address its socket is bound to; the same to outside."""

Bind = tuple[int, str, int]


@pytest.fixture
def network() -> Iterator[Callable[..., PodNetwork]]:
    """Make networks for pods."""
    with ExitStack() as stack:
        yield lambda number, **more: stack.enter_context(closing(PodNetwork(number, **more)))


def binds(where: PodNetwork) -> list[Bind]:
    """Return a socket of each kind on the pod's own addresses, and two that are on none."""
    return [
        (TCP, where.ipv4, 7001),
        (TCP, where.ipv6, 7002),
        (TCP, f"::ffff:{where.ipv4}", 7003),
        (UDP, where.ipv4, 7004),
        (UDP, where.ipv6, 7005),
        (UDP, f"::ffff:{where.ipv4}", 7006),
        (TCP, f"{where.link_local}%eth0", 7007),
        (TCP, "0.0.0.0", 7008),
        (UDP, "::", 7009),
    ]


def server(
    mover: Mover,
    uid: str,
    where: PodNetwork,
    *bound: Bind,
    policy: dict[str, Any] = POLICY,
    is_heard: bool = False,
) -> Container:
    """Return a pod in *where* that binds to *bound*, not created yet."""
    env = ["BIND=" + ",".join(f"{kind:d} {host} {port}" for kind, host, port in bound)]
    env += ["OUT=1"] if is_heard else []
    return mover.pod(uid, python(SERVER), netns=where.path, env=env, policy=policy)


def asked(where: PodNetwork, bound: list[Bind]) -> list[str]:
    """Ask each socket in turn; return what they say."""
    said = []
    for kind, host, port in bound:
        at = host.removeprefix("::ffff:").removesuffix("%eth0")
        at = {"0.0.0.0": where.ipv4, "::": where.ipv6}.get(at, at)
        said.append(where.ask(kind, at, port).decode())
    return said


def expected(bound: list[Bind], *, first: int) -> list[str]:
    hosts = [host.removesuffix("%eth0") for _, host, _ in bound]
    return [f"{n} {host}" for n, host in enumerate(hosts, first)]


@pytest.mark.parametrize("sleeps", [False, True], ids=["awake", "asleep"])
def test_sockets_on_the_pods_addresses_follow_it(
    mover: Mover, network: Callable[..., PodNetwork], sleeps: bool
) -> None:
    here, there = network(7), network(8)
    outside = [where.socket(UDP) for where in (here, there)]
    for each in outside:
        each.bind((OUTSIDE, OUTSIDE_PORT))
    before, after = binds(here), binds(there)
    old = server(mover, "uid-a", here, *before, is_heard=True).start()
    old.until("bound")
    assert asked(here, before) == expected(before, first=1)
    assert outside[0].recvfrom(100)[0] == f"1 {here.ipv4}".encode()
    if sleeps:
        mover.ask("sleep", pod="uid-a", reason="test")
    mover.leave(old)
    mover.bring("uid-a", to="uid-b")
    new = server(mover, "uid-b", there, *after, is_heard=True).start()
    assert mover.state("uid-b") == ("asleep" if sleeps else "awake")
    first = len(before) + 1
    assert asked(there, after) == expected(after, first=first)
    said, source = outside[1].recvfrom(100)
    assert (said, source[0]) == (f"{first} {there.ipv4}".encode(), there.ipv4)
    assert new.output() == "", "it did not begin anew"


@pytest.mark.parametrize("wish", ["fresh", "fail"])
@pytest.mark.parametrize(
    ("kind", "lacking"), [(TCP, 6), (UDP, 4)], ids=["no IPv6 for TCP", "no IPv4 for UDP"]
)
def test_a_family_that_the_new_pod_lacks_is_told_by_address(
    mover: Mover, network: Callable[..., PodNetwork], kind: int, lacking: int, wish: str
) -> None:
    policy = {**POLICY, "on_restore_failure": wish}
    here, there = network(7), network(8, families=[{4: 6, 6: 4}[lacking]])
    lost = here.ipv6 if lacking == 6 else here.ipv4
    kept = there.ipv4 if lacking == 6 else there.ipv6
    old = server(mover, "uid-a", here, (kind, lost, 7001), policy=policy).start()
    old.until("bound")
    assert here.ask(kind, lost, 7001) == f"1 {lost}".encode()
    mover.leave(old)
    arrived = mover.bring("uid-a", to="uid-b")
    image = (arrived / "image/files.img").read_bytes()
    new = server(mover, "uid-b", there, (kind, kept, 7001), policy=policy)
    with mover.events() as events:
        new.start()
        told = events.until("wake-failed")
    assert (told["reason"], told["policy"]) == ("NoAddress", wish)
    assert told["message"].startswith(f"a socket is bound to {lost}, and the new pod has no")
    if wish == "fresh":
        new.until("bound")
        assert there.ask(kind, kept, 7001) == f"1 {kept}".encode()
        failed = mover.host.state / "architect/pods/uid-b/app/failed-1/files.img"
        eventually(failed.exists, what="what came is kept")
        assert failed.read_bytes() == image
    else:
        assert new.output() == ""
        assert (arrived / "image/files.img").read_bytes() == image
