"""A metadata service beyond the machine, a machine that routes, and a pod with its own network."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from architect.core.errors import Rejected
from architect.daemon.notices import aws, metadata
from architect.daemon.notices.aws import Aws
from architect.daemon.notices.clock import Clock
from architect.daemon.notices.hostnetwork import HostNetwork
from architect.daemon.notices.metadata import Service, connect_here
from architect.shim.packets.netns import Netns
from support.cloudmetadata.aws import Imds
from support.patience import patient

SERVICE = "169.254.169.254"
MACHINE = "10.78.0.1"
POD = "10.78.1.2"
NAMES = ("cloud", "machine", "pod")


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


class World:
    """The three networks, and the service in the first."""

    def __init__(self) -> None:
        self.names = {name: f"ntc{os.getpid()}-{name}" for name in NAMES}
        for name in self.names.values():
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        self._join("cloud", f"{SERVICE}/32", "machine", f"{MACHINE}/32")
        self._join("pod", f"{POD}/32", "machine", "10.78.1.1/32")
        self._route("cloud", "default", MACHINE)
        self._route("machine", SERVICE, SERVICE)
        self._route("machine", POD, POD)
        self._route("pod", "default", "10.78.1.1")
        with self.entered("machine"):
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        with self.entered("cloud"):
            self.imds = Imds(SERVICE, 80)

    def _join(self, one: str, address: str, other: str, its: str) -> None:
        ip(
            *("-n", self.names[one], "link", "add", f"to-{other}", "type", "veth"),
            *("peer", "name", f"to-{one}", "netns", self.names[other]),
        )
        for here, there, held in ((one, other, address), (other, one, its)):
            ip("-n", self.names[here], "address", "add", held, "dev", f"to-{there}")
            ip("-n", self.names[here], "link", "set", f"to-{there}", "up")

    def _route(self, name: str, to: str, via: str) -> None:
        device = {
            ("cloud", "default"): "to-machine",
            ("machine", SERVICE): "to-cloud",
            ("machine", POD): "to-pod",
            ("pod", "default"): "to-machine",
        }[name, to]
        if to == "default":
            ip("-n", self.names[name], "route", "add", via, "dev", device)
            ip("-n", self.names[name], "route", "add", to, "via", via, "dev", device)
        else:
            ip("-n", self.names[name], "route", "add", to, "dev", device)

    def path(self, name: str) -> Path:
        return Path("/run/netns") / self.names[name]

    def entered(self, name: str):
        return Netns.open(str(self.path(name))).entered()

    def end(self) -> None:
        self.imds.__exit__()
        for name in self.names.values():
            ip("netns", "delete", name)


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.end()


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    monkeypatch.setattr(metadata, "CONNECT_SECONDS", patient(60.0))
    monkeypatch.setattr(metadata, "REQUEST_SECONDS", patient(60.0))
    monkeypatch.setattr(aws, "TOKEN_SECONDS", patient(60.0))


def identify(connect) -> str:
    """Ask from the pod, as the daemon does."""
    return Aws(Service(f"http://{SERVICE}", clock=Clock(), connect=connect)).identify().name


def test_a_token_that_ends_on_its_way_to_the_pod_is_named(world, monkeypatch):
    """With the packets' time to live, as the instance's HttpPutResponseHopLimit sets it."""
    world.imds.hop_limit = 1
    with world.entered("pod"):
        monkeypatch.setattr(aws, "TOKEN_SECONDS", 1.0)
        with pytest.raises(Rejected, match="HttpPutResponseHopLimit") as caught:
            identify(connect_here)
    assert caught.value.reason == aws.HOP_LIMIT


def test_with_a_hop_limit_of_two_a_pod_is_answered(world):
    world.imds.hop_limit = 2
    with world.entered("pod"):
        assert identify(connect_here) == "i-0123456789abcdef0"


def test_in_the_hosts_network_no_hop_limit_matters(world):
    world.imds.hop_limit = 1
    with world.entered("pod"):
        home = Netns.own()
        assert identify(HostNetwork(world.path("machine")).connect) == "i-0123456789abcdef0"
        with home, Netns.own() as still:
            assert still.identity == home.identity, "only the socket is in the host's network"


def test_other_threads_stay_where_they_are(world):
    """While one connects, none of the others makes its sockets in another network."""
    network = HostNetwork(world.path("machine"))
    stop, wrong = threading.Event(), []
    with Netns.own() as own:
        home = own.identity

    def look() -> None:
        while not stop.is_set():
            with Netns.own() as here:
                if here.identity != home:
                    wrong.append(here.identity)

    thread = threading.Thread(target=look)
    thread.start()
    for _ in range(20):
        network.connect(SERVICE, 80, patient(60.0)).close()
    stop.set()
    thread.join()
    assert wrong == []


def test_a_connection_that_fails_comes_back_home(world):
    with Netns.own() as before, pytest.raises(OSError):
        HostNetwork(world.path("machine")).connect(SERVICE, 81, patient(60.0))
    with Netns.own() as after:
        assert after.identity == before.identity


def test_where_the_hosts_network_cannot_be_entered_the_pods_is_used(world, tmp_path, caplog):
    with world.entered("machine"):
        for path in (tmp_path / "none", tmp_path):
            network = HostNetwork(path)
            for _ in range(2):
                network.connect(SERVICE, 80, patient(60.0)).close()
    assert len([r for r in caplog.records if "pod's network" in r.getMessage()]) == 2


def test_the_double_sends_what_it_is_told(world):
    """Without this, a test of the hop limit could pass for another reason."""
    world.imds.hop_limit = 1
    with world.entered("machine"), socket.create_connection((SERVICE, 80)) as link:
        link.sendall(
            b"PUT /latest/api/token HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n"
            b"X-aws-ec2-metadata-token-ttl-seconds: 60\r\n\r\n"
        )
        assert link.recv(100).startswith(b"HTTP/1.1 200 OK")
