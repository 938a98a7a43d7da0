"""Whether kubelet ends the node's pods: by what logind says, and by what kubelet says itself."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from architect.core.errors import FormatError, NodeError, Unavailable
from architect.daemon import logind, node_shutdown
from architect.daemon.host import Host
from architect.daemon.logind import Shutdown
from architect.daemon.node_shutdown import NodeShutdown

NODE = "/api/v1/nodes/node1"
KUBELET: list[Any] = [
    "shutdown",
    "kubelet",
    "Kubelet needs time to handle node shutdown",
    "delay",
    0,
    812,
]
UPGRADES: list[Any] = [
    "shutdown",
    "Unattended Upgrades Shutdown",
    "Stop ongoing upgrades",
    "delay",
    0,
    640,
]
SLEEP: list[Any] = ["sleep", "NetworkManager", "needs to turn off networks", "delay", 0, 523]
KEYS: list[Any] = ["handle-power-key:shutdown", "kubelet", "", "block", 0, 812]


@dataclass(frozen=True, kw_only=True)
class HostDouble(Host):
    """A host whose ``busctl`` says what logind's does."""

    is_prepared: bool = False
    inhibitors: list[list[Any]] = field(default_factory=lambda: [KUBELET])
    trouble: NodeError | str | None = None

    def run(self, argv: Sequence[str], *, timeout_seconds: float) -> str:
        assert argv[0] == "busctl"
        if isinstance(self.trouble, NodeError):
            raise self.trouble
        if self.trouble is not None:
            return self.trouble
        if argv[-1] == "PreparingForShutdown":
            return json.dumps({"type": "b", "data": self.is_prepared}) + "\n"
        return json.dumps({"type": "a(ssssuu)", "data": [self.inhibitors]}) + "\n"


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A host's root directory, with a system bus."""
    path = tmp_path / logind.BUS.relative_to("/")
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as bus:
        bus.bind(str(path))
        yield tmp_path


def node(status: str = "True", message: str = "kubelet is posting ready status") -> dict[str, Any]:
    ready = {"type": "Ready", "status": status, "reason": "Kubelet", "message": message}
    others = [{"type": "DiskPressure", "status": "False", "message": node_shutdown.MESSAGE}]
    return {"metadata": {"name": "node1", "uid": "n"}, "status": {"conditions": [*others, ready]}}


# What logind says


def test_a_shutdown_waits_for_those_who_delay_it(root: Path) -> None:
    host = HostDouble(root=root, is_prepared=True, inhibitors=[KUBELET, UPGRADES, SLEEP, KEYS])
    found = logind.shutdown(host)
    assert found == Shutdown(is_prepared=True, delayed_by=frozenset({KUBELET[1], UPGRADES[1]}))


def test_a_host_that_runs_on_is_not_asked_who_would_delay_it(root: Path) -> None:
    found = logind.shutdown(HostDouble(root=root))
    assert found == Shutdown(is_prepared=False, delayed_by=frozenset())


def test_a_host_without_a_bus_has_no_logind(tmp_path: Path) -> None:
    assert logind.shutdown(HostDouble(root=tmp_path, trouble=NodeError("not asked"))) is None


@pytest.mark.parametrize("said", ["", "[]", "{}", "b true"])
def test_what_busctl_of_another_age_says_is_an_error_by_name(root: Path, said: str) -> None:
    with pytest.raises(FormatError, match="busctl says of PreparingForShutdown"):
        logind.shutdown(HostDouble(root=root, trouble=said))


@pytest.mark.parametrize("rows", [[["shutdown"]], [[1, 2, 3, 4, 5, 6]], ["x"]])
def test_inhibitors_of_another_form_are_an_error(root: Path, rows: list[Any]) -> None:
    with pytest.raises(FormatError, match="inhibitors"):
        logind.shutdown(HostDouble(root=root, is_prepared=True, inhibitors=rows))


# What that means


@pytest.mark.parametrize(
    ("is_prepared", "delayed_by", "is_kubelets"),
    [
        (True, {"kubelet"}, True),
        (True, {"kubelet", "Unattended Upgrades Shutdown"}, True),
        (True, {"Unattended Upgrades Shutdown"}, False),
        (True, set(), False),
        (False, set(), False),
    ],
)
def test_kubelet_ends_pods_where_the_shutdown_waits_for_it(
    is_prepared: bool, delayed_by: set[str], is_kubelets: bool
) -> None:
    found = Shutdown(is_prepared=is_prepared, delayed_by=frozenset(delayed_by))
    assert node_shutdown.is_delayed_by_kubelet(found) is is_kubelets


@pytest.mark.parametrize(
    ("value", "is_told"),
    [
        (node(), False),
        (node("False", "node is shutting down"), True),
        (node("False", "[container runtime is down, node is shutting down]"), True),
        (node("False", "container runtime is down"), False),
        (node("Unknown", "Kubelet stopped posting node status."), False),
        (node("True", "node is shutting down"), False),
        ({}, False),
    ],
)
def test_kubelet_tells_it_in_the_condition_of_its_node(value: Any, is_told: bool) -> None:
    assert node_shutdown.is_told_by(value) is is_told


# Both together


def test_logind_knows_before_kubelet_has_said_it(cluster: Any, api: Any, root: Path) -> None:
    cluster.put(NODE, node())
    found = NodeShutdown(api, node="node1", host=HostDouble(root=root, is_prepared=True))
    assert found.is_under_way()
    assert found.was_under_way


def test_a_shutdown_that_was_taken_back_is_kubelets_as_long_as_it_says_so(
    cluster: Any, api: Any, root: Path
) -> None:
    cluster.put(NODE, node("False", "node is shutting down"))
    found = NodeShutdown(api, node="node1", host=HostDouble(root=root))
    assert found.is_under_way()
    cluster.put(NODE, node())
    assert not found.is_under_way()
    assert not found.was_under_way


def test_a_restart_on_a_host_without_a_bus_waits_for_nothing(
    cluster: Any, api: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_shutdown, "CONDITION_SECONDS", 3600.0)  # longer than any test
    cluster.put(NODE, node())
    assert not NodeShutdown(api, node="node1", host=HostDouble(root=tmp_path)).is_under_way()


def test_where_logind_gives_no_answer_kubelets_is_waited_for(
    cluster: Any, api: Any, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_shutdown, "CONDITION_SECONDS", 3600.0)
    cluster.put(NODE, node())
    looks = iter([node(), node(), node("False", "node is shutting down")])
    cluster.failures.append(lambda _: cluster.put(NODE, next(looks)))
    host = HostDouble(root=root, trouble=NodeError("cannot run busctl on the host"))
    assert NodeShutdown(api, node="node1", host=host).is_under_way()


def test_and_not_for_long(
    cluster: Any, api: Any, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_shutdown, "CONDITION_SECONDS", 0.2)
    cluster.put(NODE, node())
    host = HostDouble(root=root, trouble=NodeError("cannot run busctl on the host"))
    assert not NodeShutdown(api, node="node1", host=host).is_under_way()


def test_an_api_server_that_is_away_is_no_answer(cluster: Any, api: Any, tmp_path: Path) -> None:
    cluster.failures.append(lambda _: Unavailable("503"))
    with pytest.raises(Unavailable):
        NodeShutdown(api, node="node1", host=HostDouble(root=tmp_path)).is_under_way()


def test_with_logind_it_is_not_needed(cluster: Any, api: Any, root: Path) -> None:
    cluster.failures.append(lambda _: Unavailable("503"))
    host = HostDouble(root=root, is_prepared=True)
    assert NodeShutdown(api, node="node1", host=host).is_under_way()
