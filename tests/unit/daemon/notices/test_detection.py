"""Which cloud a machine is of."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from architect.core.errors import Rejected
from architect.daemon.notices import aws
from architect.daemon.notices.clock import Clock
from architect.daemon.notices.detection import URLS, Detection, Found
from architect.daemon.notices.metadata import Absent, connect_here
from support.cloudmetadata.aws import Imds
from support.cloudmetadata.azure import AzureImds
from support.cloudmetadata.gcp import Gce
from support.cloudmetadata.server import MetadataServer, Reply
from support.patience import patient

ALL = tuple(URLS)


class Network:
    """Leads every metadata address to one server, and counts who connects."""

    def __init__(self, server: MetadataServer | None) -> None:
        self.server = server
        self.asked: list[tuple[str, int]] = []

    def connect(self, host: str, port: int, seconds: float) -> socket.socket:
        self.asked.append((host, port))
        if self.server is None or ":" in host:
            raise OSError("no route to host")
        address = self.server.url.removeprefix("http://").split(":")
        return connect_here(address[0], int(address[1]), seconds)


@pytest.mark.parametrize(("double", "name"), [(Imds, "aws"), (Gce, "gcp"), (AzureImds, "azure")])
def test_the_cloud_that_answers_is_found_among_all(double: type[MetadataServer], name: str) -> None:
    with double() as server:
        found, failures = Detection(ALL, clock=Clock(), connect=Network(server).connect).search()
        assert isinstance(found, Found)
        assert found.name == name
        # Whoever was asked what it does not know says no more than that.
        assert all(isinstance(f.error, Absent) for f in failures)


def test_addresses_of_both_families_are_asked_and_nothing_is_nothing() -> None:
    network = Network(None)
    found, failures = Detection(ALL, clock=Clock(), connect=network.connect).search()
    assert found is None
    assert {f.name for f in failures} == set(ALL)
    assert all(isinstance(f.error, Absent) for f in failures)
    assert sorted(network.asked) == [
        *[("169.254.169.254", 80)] * 3, ("fd00:ec2::254", 80), ("fd20:ce::254", 80),
    ]  # fmt: skip


def test_an_endpoint_is_the_only_place(gce: Gce) -> None:
    found, _ = Detection(("gcp",), endpoint=gce.url, clock=Clock()).search()
    assert found is not None
    assert found.service.url == gce.url


def test_what_is_wrong_with_the_right_cloud_is_told(
    imds: Imds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aws, "TOKEN_SECONDS", 0.3)
    imds.silent.add(f"PUT {aws.TOKEN}")
    found, failures = Detection(ALL, clock=Clock(), connect=Network(imds).connect).search()
    assert found is None
    (told,) = [f for f in failures if isinstance(f.error, Rejected)]
    assert isinstance(told.error, Rejected)
    assert (told.name, told.error.reason) == ("aws", aws.HOP_LIMIT)


@pytest.mark.parametrize("status", [200, 302, 404, 500])
def test_a_stranger_that_answers_everything_is_no_cloud(gce: Gce, status: int) -> None:
    page = Reply(status=status, body=b"<html>welcome</html>", headers={"Location": "/welcome"})
    gce.answer = lambda request: page  # type: ignore[method-assign]
    found, failures = Detection(ALL, clock=Clock(), connect=Network(gce).connect).search()
    assert found is None
    assert not [f for f in failures if isinstance(f.error, Rejected)]


def test_a_search_is_ended_from_another_thread(gce: Gce) -> None:
    gce.silent.add("GET /computeMetadata/v1/instance/id")
    detection = Detection(("gcp",), endpoint=gce.url, clock=Clock())
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(detection.search()[0]))
    thread.start()
    deadline = time.monotonic() + patient(20.0)
    while not gce.requests:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    detection.close()
    thread.join(patient(20.0))
    assert found == [None]
    assert detection.search() == (None, [])
