"""Which port of the host leads to the cluster, and what is written down of that."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.entrance import Entrance
from lab.machine import Machine
from lab.settings import Settings


@pytest.fixture
def taken() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@pytest.fixture
def entrance(tmp_path: Path, taken: socket.socket) -> Entrance:
    return Entrance(
        tmp_path,
        plane=Machine("control-plane", settings=Settings(state=tmp_path)),
        pki=tmp_path / "pki",
        preferred_port=taken.getsockname()[1],
    )


def test_a_port_that_somebody_has_is_not_taken(entrance: Entrance, taken: socket.socket) -> None:
    assert entrance.port == taken.getsockname()[1], "nothing is written down yet"
    port = entrance.choose_port()
    assert port == entrance.port != taken.getsockname()[1]
    with socket.create_server(("127.0.0.1", port)):
        assert entrance.is_open()


def test_the_nodes_are_written_down_beside_the_port(entrance: Entrance, tmp_path: Path) -> None:
    port = entrance.choose_port()
    entrance.note_nodes(["node1", "node2"])
    found = json.loads((tmp_path / "cluster.json").read_text())
    assert found["api_port"] == port
    assert len(found["node_addresses"]) == 2
    entrance.forget()
    assert list(tmp_path.iterdir()) == []
