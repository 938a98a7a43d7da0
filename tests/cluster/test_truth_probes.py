"""Kubelet's probes: what they find of a pod, and what kubelet then does, whoever runs it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from lab.cluster import Cluster
from support import probed, selfsigned, truth
from support.patience import patient
from support.tiers import sized
from support.truth import Kind, Plan, Subject, Trio
from support.watches import Watch, watch
from support.workloads import eventually, memory_server

pytestmark = pytest.mark.concurrent

LOOKED_AT_SECONDS: Final = round(patient(sized(15, 120)))
MOUNTS: Final = [{"name": "code", "mountPath": "/app"}, {"name": "go", "mountPath": "/go"}]
UNREADY: Final = "/go/unready"
DEAD: Final = "/go/dead"
MOODY: Final = f"""
import contextlib, http.server, os, signal, socket, time
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        mood = {{'/ready': {UNREADY!r}, '/alive': {DEAD!r}}}.get(self.path, '')
        self.send_response(500 if os.path.exists(mood) else 200)
        self.send_header('content-length', '0'); self.end_headers()
    def log_message(self, *_): pass
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    daemon_threads = True
signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
with contextlib.suppress(FileNotFoundError): os.unlink({DEAD!r})
Server(('::', 8080), Page).serve_forever()
"""
"""Answers 200, and 500 while a file is there; one that begins anew is alive."""

DECIDED: Final = "answered in the application's name, as it last answered; they do not wake it"


PLANS: Final = {
    "well": Plan(containers=probed.containers(volumeMounts=MOUNTS)),
    "moody": Plan(
        containers=[
            memory_server(
                "app",
                command=truth.python(MOODY),
                volumeMounts=MOUNTS,
                readinessProbe={"httpGet": {"port": 8080, "path": "/ready"}, **probed.STRICT},
                livenessProbe={"httpGet": {"port": 8080, "path": "/alive"}, **probed.STRICT},
                startupProbe={
                    "tcpSocket": {"port": 8080},
                    "periodSeconds": 1,
                    "failureThreshold": probed.STARTS,
                },
            )
        ]
    ),
}


@pytest.fixture(scope="module")
def pods(
    architect: Cluster, theme: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Trio]]:
    pem: Path = selfsigned.write(tmp_path_factory.mktemp("tls") / "tls.pem")
    with truth.running(architect, theme, PLANS, files={"tls_pem": pem.read_text()}) as made:
        yield made


def _of_the_application(pod: Subject) -> list[str]:
    """Return what probes said of an application that was there to be asked."""
    return sorted(
        {said for said in pod.events("Unhealthy") if not said.startswith("Startup probe")}
    )


def _let_pass(pod: Subject, seconds: int) -> None:
    """Return after so long by the clock of the pod's node, which may stand still."""
    pod.node().exec(["sleep", str(seconds)], timeout_seconds=seconds + 60)


@truth.behaviour(
    "readiness, liveness and startup probes: HTTP, HTTPS, TCP, gRPC, exec", slept=DECIDED
)
def test_a_pod_with_every_kind_of_probe_stays_ready(
    pods: dict[str, Trio], architect: Cluster
) -> None:
    trio = pods["well"]
    with contextlib.ExitStack() as stack:
        watches = {
            kind: stack.enter_context(watch(architect, pod.namespace, pod.name))
            for kind, pod in trio.pods.items()
        }
        trio.sleep()
        since = trio.slept.status()["since"]
        # Kubelet asks each of them several times.
        _let_pass(trio.slept, LOOKED_AT_SECONDS)
        assert trio.slept.is_asleep
        assert trio.slept.status()["since"] == since, "it woke in between"
        trio.slept.runtime("wake")
        _let_pass(trio.slept, 2 * probed.STRICT["periodSeconds"])

    def found(seen: Watch, pod: Subject) -> tuple[set[str], int, list[str]]:
        return set(seen.conditions("Ready")), seen.restarts(), _of_the_application(pod)

    shown = {kind: found(watches[kind], pod) for kind, pod in trio.pods.items()}
    truth.check(shown, ({"True"}, 0, []))


@truth.behaviour("a readiness probe that fails, and succeeds again: not ready, and ready again")
def test_a_pod_is_unready_as_long_as_it_says_so(pods: dict[str, Trio]) -> None:
    trio = pods["moody"]
    trio.sleep()
    trio.each(Subject.run, "app", "touch", UNREADY)  # who slept is awake then

    def unready(pod: Subject) -> list[str]:
        eventually(lambda: not pod.is_ready(), what=f"{pod.name} is not ready")
        return _of_the_application(pod)

    trio.each(unready)
    said = trio.each(
        lambda pod: eventually(lambda: _of_the_application(pod), what=f"{pod.name} is told of")
    )
    assert truth.alike(said) == ["Readiness probe failed: HTTP probe failed with statuscode: 500"]
    trio.each(Subject.run, "app", "rm", UNREADY)
    trio.each(lambda pod: eventually(pod.is_ready, what=f"{pod.name} is ready again"))
    truth.check(trio.each(Subject.restarts), 0)


@truth.behaviour("a liveness probe that fails: the signal, and another start")
def test_a_pod_that_is_dead_is_started_again(pods: dict[str, Trio]) -> None:
    trio = pods["moody"]
    trio.each(lambda pod: eventually(pod.is_ready, what=f"{pod.name} is ready"))
    trio.sleep()
    trio.each(Subject.run, "app", "touch", DEAD)
    trio.each(
        lambda pod: eventually(lambda: pod.restarts() == 1, what=f"{pod.name} is started again")
    )
    trio.each(lambda pod: eventually(pod.is_ready, what=f"{pod.name} is ready again"))

    def ending(pod: Subject) -> dict[str, Any]:
        return truth.told(pod.status_of("app")["lastState"]["terminated"])

    truth.check(trio.each(ending), {"exitCode": 7, "reason": "Error"})
    said = "Liveness probe failed: HTTP probe failed with statuscode: 500"
    truth.check(trio.each(lambda pod: said in _of_the_application(pod)), True)
    truth.check(trio.each(Subject.restarts), 1)
    assert set(trio.pods) == set(Kind)
