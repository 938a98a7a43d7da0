"""Kubelet's probes of a sleeping pod are answered, and do not wake it; everything else does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from architect.api import names
from lab.cluster import Cluster
from support import selfsigned
from support.patience import patient
from support.probed import containers
from support.tiers import sized
from support.watches import Watch, watch
from support.workloads import BarePod, bare_pod, eventually

pytestmark = pytest.mark.concurrent

ASLEEP_SECONDS = round(patient(sized(20, 120)))
REQUEST_SECONDS = patient(30)


@pytest.fixture(scope="module")
def probed(
    architect: Cluster, theme: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BarePod]:
    pem: Path = selfsigned.write(tmp_path_factory.mktemp("tls") / "tls.pem")
    with bare_pod(
        architect, theme, "probed", containers=containers(), files={"tls_pem": pem.read_text()}
    ) as made:
        yield made


def test_a_pod_with_every_kind_of_probe_sleeps_and_stays_ready(probed: BarePod) -> None:
    # Awake, the application itself answers: what kubelet asks is what it means.
    assert probed.is_ready()
    with watch(probed.cluster, probed.namespace, probed.name) as seen:
        probed.sleep()
        since = probed.status()["since"]
        eventually(
            lambda: set(probed.labels().values()) == {names.STATUS_SCALED_DOWN},
            what="the labels say that all containers sleep",
        )
        _sleep_on(probed)
        status = probed.status()
        assert status["state"] == "asleep", status
        assert status["since"] == since, "it woke in between"
    _never_unready(seen)
    # Only the startup probe may have failed, while Python started.
    assert [e for e in probed.events("Unhealthy") if not e.startswith("Startup")] == []


@pytest.mark.parametrize("port", [8080, 9091])
def test_a_request_from_the_nodes_own_address_wakes_it_and_is_answered(
    probed: BarePod, port: int
) -> None:
    before = _asked_on_its_node(probed, port)
    with watch(probed.cluster, probed.namespace, probed.name) as seen:
        probed.sleep()
        assert _asked_on_its_node(probed, port) == before
        assert probed.state() == "awake"
        eventually(
            lambda: set(probed.labels().values()) == {names.STATUS_RUNNING},
            what="the labels say that all containers run",
        )
    _never_unready(seen)


def _asked_on_its_node(probed: BarePod, port: int) -> str:
    """Return the identity that the pod tells to a client with kubelet's own address."""
    if port == 8080:
        url = f"http://{probed.pod_ip()}:{port}/"
        ask = ["curl", "-sS", "-m", f"{REQUEST_SECONDS:g}", url]
        return str(json.loads(probed.node().exec(ask))["identity"])
    # The server speaks first: nothing is sent.
    read = f'timeout {REQUEST_SECONDS:g} head -n 1 < "/dev/tcp/$0/$1"'
    return probed.node().exec(["bash", "-c", read, probed.pod_ip(), str(port)]).strip()


def _sleep_on(probed: BarePod) -> None:
    """Return after the time that the pod is to sleep, by its node's own clock."""
    node = probed.node()
    node.exec(["sleep", str(ASLEEP_SECONDS)], timeout_seconds=ASLEEP_SECONDS + 60)


def _never_unready(seen: Watch) -> None:
    assert set(seen.conditions("Ready")) == {"True"}, seen.conditions("Ready")
    assert seen.restarts() == 0
