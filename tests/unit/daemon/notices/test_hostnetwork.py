"""What becomes of a thread that has entered the host's network; ``kernel/notices`` has the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from architect.daemon.notices import hostnetwork
from architect.daemon.notices.clock import Clock
from architect.daemon.notices.hostnetwork import HostNetwork
from architect.daemon.notices.metadata import Service
from support.cloudmetadata.gcp import Gce


def test_a_thread_that_cannot_return_does_not_go_on(
    gce: Gce, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered: list[int] = []

    def setns(namespace: int) -> None:
        entered.append(namespace)
        if len(entered) == 2:
            raise OSError("no way back")

    monkeypatch.setattr(hostnetwork, "_setns", setns)
    network = HostNetwork(Path("/proc/self/ns/net"))
    with pytest.raises(RuntimeError, match="cannot leave"):
        Service(gce.url, clock=Clock(), connect=network.connect).ask("/")
