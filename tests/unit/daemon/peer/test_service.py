"""Two daemons and an operator: certificates, a claim, and a checkpoint from one to the other.

All of it is the real code, over an API server in memory and the loopback.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from architect.core.errors import Rejected, Unavailable
from architect.daemon.checkpoint import contents
from architect.daemon.metrics import Metrics
from architect.daemon.peer import service
from architect.daemon.peer.service import Peer
from architect.daemon.settings import DaemonSettings
from architect.operator import metrics as operator_metrics
from architect.operator.authority_store import AuthorityStore
from architect.operator.signer import Signer
from support.checkpointdirs import fill, successor
from support.loopback import own_host
from support.signingserver import ACCOUNT, SigningServer

ID = "web-1234"
OBJECT = "/apis/architect.dev/v1alpha1/namespaces/default/checkpoints/web-uid-web-move"
Eventually = Callable[..., None]


class Node:
    def __init__(self, name: str, world: World, *, address: str = "127.0.0.1:0") -> None:
        self.checkpoints = world.directory / name
        self.checkpoints.mkdir(exist_ok=True)
        self.metrics = Metrics()
        self.stop = threading.Event()
        self.peer = Peer(
            DaemonSettings(
                node_name=name,
                peer_address=address,
                peer_data_address="127.0.0.1:0",
                free_floor_bytes=0,
            ),
            api=world.server.as_daemon(name),
            checkpoints=self.checkpoints,
            metrics=self.metrics,
            address_of=world.address_of,
        )
        self.thread = threading.Thread(target=self.peer.run, args=(self.stop,))
        self.thread.start()

    def end(self) -> None:
        self.stop.set()
        self.peer.close()
        self.thread.join(20)
        assert not self.thread.is_alive()

    def value(self, name: str) -> float:
        found = self.metrics.registry.get_sample_value(name)
        assert found is not None
        return found


class World:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.server = SigningServer()
        self.nodes: dict[str, Node] = {}
        api = self.server.as_operator()
        self.signer = Signer(
            api,
            AuthorityStore(api, namespace="architect", name="ca"),
            operator_metrics.Metrics(),
            account=ACCOUNT,
        )
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._sign)

    def _sign(self) -> None:
        while not self.stop.wait(0.02):
            self.signer.sweep()

    def address_of(self, node: str) -> str:
        port = self.nodes[node].peer.port if node in self.nodes else 0
        if not port:
            raise Unavailable(f"{node} does not run")
        return f"127.0.0.1:{port}"

    def start(self, name: str, **arguments: Any) -> Node:
        self.nodes[name] = Node(name, self, **arguments)
        return self.nodes[name]

    def claim(self, node: str) -> None:
        value = {
            "kind": "Checkpoint",
            "metadata": {"name": "web-uid-web", "namespace": "default", "uid": "c"},
            "spec": {"podRef": {"name": "web", "uid": "uid-web"}},
            "status": {
                "location": {"peer": {"node": "node-a", "id": ID}},
                "claimedBy": {"name": "web", "uid": "uid-2", "node": node},
            },
        }
        self.server.put(OBJECT, value)
        self.server.put("/api/v1/namespaces/default/pods/web", successor(node))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    made.thread.start()
    yield made
    for node in made.nodes.values():
        node.end()
    made.stop.set()
    made.thread.join()


def test_a_checkpoint_goes_to_the_node_that_claimed_it(
    world: World, eventually: Eventually
) -> None:
    one, two, three = (world.start(f"node-{x}") for x in "abc")
    manifest = fill(one.checkpoints / ID)
    for node in (one, two, three):
        eventually(lambda node=node: node.peer.port != 0)
    target = two.checkpoints / ID
    with pytest.raises(Rejected) as caught:
        two.peer.fetch("node-a", ID, target)
    assert caught.value.reason == "NotAllowed"
    world.claim("node-b")
    with pytest.raises(Rejected):
        three.peer.fetch("node-a", ID, three.checkpoints / ID)
    assert two.peer.fetch("node-a", ID, target).manifest == manifest
    contents.verify(target, manifest)
    size = manifest.total_bytes
    assert two.value("architect_peer_received_bytes_total") == size
    eventually(lambda: one.value("architect_peer_sent_bytes_total") == size)
    assert two.value("architect_certificate_end_timestamp_seconds") > time.time() + 80_000


def test_a_daemon_that_is_new_is_waited_for(world: World, eventually: Eventually) -> None:
    """The source's daemon is being replaced: the transfer begins when it is back."""
    two = world.start("node-b")
    manifest = fill(world.directory / "node-a" / ID)
    world.claim("node-b")
    eventually(lambda: two.peer.port != 0)
    late = threading.Timer(0.5, world.start, args=("node-a",))
    late.start()
    assert two.peer.fetch("node-a", ID, two.checkpoints / ID).manifest == manifest
    late.join()


def test_an_arrival_is_not_given_away(world: World, eventually: Eventually) -> None:
    one = world.start("node-a")
    eventually(lambda: one.peer.port != 0)
    fill(one.checkpoints / "x.partial", checkpoint_id="x.partial")
    assert one.peer._locate("x.partial") is None
    assert one.peer._locate("../node-a") is None


def test_a_port_that_is_taken_is_tried_again(
    world: World, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "LISTEN_RETRY_SECONDS", 0.1)
    host = own_host()
    one = world.start("node-a", address=f"{host}:0")
    eventually(lambda: one.peer.port != 0)
    port = one.peer.port
    two = world.start("node-b", address=f"{host}:{port}")
    eventually(lambda: len(world.server.requests()) == 2)
    one.end()
    eventually(lambda: two.peer.port == port)


def test_without_an_operator_there_is_no_server_and_the_end_is_quick(tmp_path: Path) -> None:
    world = World(tmp_path)
    one = world.start("node-a")
    with pytest.raises(Unavailable, match="no certificate yet"):
        Peer(
            DaemonSettings(node_name="node-a", free_floor_bytes=0),
            api=world.server.as_daemon("node-a"),
            checkpoints=tmp_path,
            metrics=Metrics(),
            address_of=lambda _: "127.0.0.1:1",
        )._identity.current()
    one.end()
    assert one.peer.port == 0
