"""The stand-in under kubelet's own probers, in a real network namespace."""

from __future__ import annotations

import concurrent.futures
import http.server
import socket
from collections.abc import Callable
from typing import Any, Protocol

import pytest

from architect.shim.standin.dialogue import Health, Kind
from architect.shim.standin.ports import Listener
from architect.shim.standin.server import StandIn
from architect.shim.standin.tls import Certificate
from support.standin import Namespace, Serving

# The first one builds the prober, where no cache has it.
pytestmark = [pytest.mark.kernel, pytest.mark.timeout(900)]

ASLEEP = Health(healthy=True, reason="asleep")
BROKEN = Health(healthy=False, reason="the restore failed")
DUAL = Listener(family=socket.AF_INET6, address="::", port=8080)
KINDS = ("tcp", "http", "https", "grpc")


class Probe(Protocol):
    def __call__(
        self,
        kind: str,
        port: int,
        *,
        host: str = "127.0.0.1",
        path: str = "/",
        timeout_seconds: float = 60.0,
    ) -> tuple[str, str]: ...


@pytest.fixture
def standin(netns: Namespace, serving: Serving, certificate: Certificate) -> Callable[..., StandIn]:
    def make(
        *listeners: Listener,
        health: Health = ASLEEP,
        certificate: Certificate | None = certificate,
        probed: dict[int, set[Kind]] | None = None,
    ) -> StandIn:
        return serving.add(
            StandIn(
                listeners,
                enter_netns=netns.entered,
                health=health,
                certificate=certificate,
                probed=probed,
            )
        )

    return make


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_one_port_answers_all_four_kinds_over_both_families(
    standin: Callable[..., StandIn], serving: Serving, probe: Probe, host: str
) -> None:
    made = standin(DUAL)
    found = {kind: probe(kind, 8080, host=host) for kind in KINDS}
    assert {kind: result for kind, (result, _) in found.items()} == dict.fromkeys(
        KINDS, "success"
    ), found
    assert found["http"][1] == found["https"][1] == "asleep\n"
    serving.until(lambda: made.counters.total() == 4, what="four probes counted")
    assert made.counters == dict.fromkeys(KINDS, 1)
    serving.until(lambda: made.conversations == 0, what="every conversation ended")


def test_an_unhealthy_application_fails_in_the_words_of_each_kind(
    standin: Callable[..., StandIn], probe: Probe
) -> None:
    standin(DUAL, health=BROKEN, probed={8080: {Kind.HTTP, Kind.HTTPS, Kind.GRPC}})
    assert probe("http", 8080) == ("failure", "HTTP probe failed with statuscode: 503")
    assert probe("https", 8080) == ("failure", "HTTP probe failed with statuscode: 503")
    result, output = probe("grpc", 8080)
    assert (result, "NOT_SERVING" in output) == ("failure", True)


@pytest.mark.parametrize("probed", [None, {8080: {Kind.TCP, Kind.HTTP}}])
def test_an_unhealthy_application_refuses_where_tcp_may_be_probed(
    standin: Callable[..., StandIn], probe: Probe, probed: dict[int, set[Kind]] | None
) -> None:
    made = standin(DUAL, health=BROKEN, probed=probed)
    assert made.listening == ()
    for kind in KINDS:
        # The gRPC prober dials a refused port until its time is up.
        assert probe(kind, 8080, timeout_seconds=1)[0] == "failure"


def test_health_may_change_and_change_back(
    standin: Callable[..., StandIn], serving: Serving, probe: Probe
) -> None:
    made = standin(DUAL)
    assert probe("http", 8080)[0] == "success"
    with serving.paused():
        made.set_health(BROKEN)
    assert "503" in probe("http", 8080)[1]
    # A TCP probe shows up for the first time: once it is known, the port is refused.
    probe("tcp", 8080)
    serving.until(lambda: made.listening == (), what="the port is refused")
    assert probe("tcp", 8080)[0] == "failure"
    with serving.paused():
        made.set_health(ASLEEP)
    assert [probe(kind, 8080)[0] for kind in KINDS] == ["success"] * 4


def test_https_without_a_certificate_fails_with_an_alert_and_is_counted(
    standin: Callable[..., StandIn], serving: Serving, probe: Probe
) -> None:
    made = standin(DUAL, certificate=None)
    result, output = probe("https", 8080)
    assert (result, "internal error" in output) == ("failure", True), output
    serving.until(lambda: made.counters["https_without_certificate"], what="it is counted")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_lifecycle_hook_reaches_the_application(
    standin: Callable[..., StandIn],
    serving: Serving,
    probe: Probe,
    netns: Namespace,
    certificate: Certificate,
    scheme: str,
) -> None:
    made = standin(DUAL)
    heard: list[str] = []

    class Application(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", "7")
            self.end_headers()
            self.wfile.write(b"drained")

        def log_message(self, *_: Any) -> None:
            pass

    kind = "hook" if scheme == "http" else "hooks"
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        asked = pool.submit(probe, kind, 8080, path="/drain")
        serving.until(lambda: made.wake_reason, what="the hook asks for a wake")
        assert made.wake_reason == "http lifecycle hook on port 8080"
        assert probe("http", 8080)[0] == "success"
        with serving.paused():
            made.close_listeners()
        with netns.entered():
            application = http.server.HTTPServer(("0.0.0.0", 8080), Application)
        if scheme == "https":
            context = certificate.context()
            assert context is not None
            application.socket = context.wrap_socket(application.socket, server_side=True)
        application.timeout = 90
        with application:
            with serving.paused():
                made.application_is_back()
            application.handle_request()
            assert asked.result(90) == ("success", "drained")
    assert heard == ["/drain"]
    assert made.wake_reason is None


def test_a_lifecycle_hook_fails_when_the_restore_failed(
    standin: Callable[..., StandIn], serving: Serving, probe: Probe
) -> None:
    made = standin(DUAL)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        asked = pool.submit(probe, "hook", 8080)
        serving.until(lambda: made.wake_reason, what="the hook asks for a wake")
        with serving.paused():
            made.set_health(BROKEN)
        assert asked.result(90)[0] == "failure"


def test_a_hundred_probes_at_once_are_all_answered(
    standin: Callable[..., StandIn], serving: Serving, probe: Probe
) -> None:
    made = standin(DUAL)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda n: probe(KINDS[n % 4], 8080), range(100)))
    assert [result for result, _ in results] == ["success"] * 100
    assert made.counters == dict.fromkeys(KINDS, 25)
