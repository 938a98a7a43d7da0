"""What the daemon does by itself, and what it says about it."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import pytest

from architect.api import names
from architect.daemon.reasons import Kind
from lab import addresses
from lab.cluster import Cluster
from support import parts
from support.loads import load
from support.workloads import Workload, bare_pod, eventually, memory_server, workload

CLIENT = re.escape(addresses.CONTROL_PLANE_V4)
"""Where the clients of `load` ask from."""
DURATION = r"[\d.]+(ms|s)"
MODEST = {**memory_server()["resources"], "limits": {"cpu": "300m"}}
"""Who works leaves something to those that others test with."""


@pytest.mark.concurrent
def test_an_idle_pod_is_put_to_sleep_and_all_that_is_said_about_it_is_true(
    architect: Cluster, theme: str
) -> None:
    annotations = {names.IDLE: "4s"}
    with workload(architect, theme, "idle", mebibytes=48, annotations=annotations) as app:
        before = app.get("/digest")
        node = app.node().name
        numbers = parts.daemon_numbers(architect, node)
        # Not those of now: it may have slept before it was asked, and get them back.
        requests = memory_server()["resources"]["requests"]
        # Asleep
        eventually(lambda: app.label() == names.STATUS_SCALED_DOWN, what="label SCALED_DOWN")
        eventually(lambda: app.asleep_reason()[:2] == ("True", "Slept"), what="condition")
        assert re.search(r"asleep since .*Z, [\d.]+ MiB on disk", app.asleep_reason()[2])
        said = eventually(lambda: app.events("Slept"), what="event Slept")
        assert re.search(
            rf"asleep after {DURATION} \(idle for \d+ s\), [\d.]+ MiB on disk", said[0]
        )
        eventually(
            lambda: app.requests() == {"cpu": "1m", "memory": "1Ki"}, what="requests are lowered"
        )
        originals = app.pod()["metadata"]["annotations"][names.ORIGINAL_REQUESTS]
        assert json.loads(originals) == {"app": requests}
        _stands_for_its_image(app)
        for name in ("sleeps_total", "sleep_seconds_count", "image_bytes_count"):
            _has_grown(architect, node, numbers, f"architect_{name}")
        _has_grown(architect, node, numbers, "architect_image_bytes_sum", by=48 << 20)
        eventually(  # counted at the next look at all pods
            lambda: (
                parts.daemon_numbers(architect, node).value("architect_pods", state="asleep") >= 1
            ),
            what="the pod is counted among those asleep",
        )
        assert parts.daemon_numbers(architect, node).value("architect_node_ready") == 1
        # Awake, for as long as it takes to see all of it: it would be idle again in 4 s.
        after = app.get("/digest")
        with load("new", app.service_ip(), machine=architect.plane.machine, rate=2):
            assert after["identity"] == before["identity"]
            assert after["digest"] == before["digest"]
            eventually(lambda: app.label() == names.STATUS_RUNNING, what="label RUNNING")
            said = eventually(lambda: app.events("Woke"), what="event Woke")
            assert re.search(rf"awake after {DURATION} \(.*\), \d+ packets held meanwhile", said[0])
            eventually(lambda: app.requests() == requests, what="requests are back")
            eventually(
                lambda: names.ORIGINAL_REQUESTS not in app.pod()["metadata"]["annotations"],
                what="the note of the originals is gone",
            )
            eventually(lambda: app.checkpoint() is None, what="no Checkpoint object is left")
            eventually(lambda: app.asleep_reason()[0] == "False", what="condition: not asleep")
        _has_grown(architect, node, numbers, "architect_wakes_total", reason="packet")
        _has_grown(architect, node, numbers, "architect_held_packets_total")
        assert app.restarts() == 0


def _has_grown(
    cluster: Cluster, node: str, before: parts.Numbers, name: str, *, by: float = 1, **labels: str
) -> None:
    """Wait until a number of *node*'s daemon is higher: it counts what it has seen itself."""
    wanted = before.value(name, **labels) + by
    eventually(
        lambda: parts.daemon_numbers(cluster, node).value(name, **labels) >= wanted,
        what=f"{name} has grown by {by:g}",
    )


def _stands_for_its_image(app: Workload) -> None:
    def available() -> dict[str, Any] | None:
        found = app.checkpoint()
        conditions = (found or {}).get("status", {}).get("conditions", [])
        true = {c["type"] for c in conditions if c["status"] == "True"}
        return found if {"Captured", "Available"} <= true else None

    found = eventually(available, what="a Checkpoint object, captured and available")
    pod = app.pod()["metadata"]
    assert found["spec"]["podRef"] == {"name": pod["name"], "uid": pod["uid"]}
    assert [o["uid"] for o in found["metadata"]["ownerReferences"]] == [pod["uid"]]
    where = found["status"]["location"]["node"]
    assert where == {"name": app.node().name, "path": str(names.PODS / pod["uid"])}


@contextmanager
def _session(app: Workload) -> Iterator[None]:
    words = ["-n", app.namespace, "exec", "-i", f"deploy/{app.name}", "--", "cat"]
    with subprocess.Popen(
        [app.cluster.kubectl_program, *words],
        env=app.cluster.client_environment(),
        stdin=subprocess.PIPE,
    ) as session:
        yield
        assert session.stdin is not None
        session.stdin.close()


def _cause(app: Workload, cause: str) -> AbstractContextManager[object]:
    """Return what lasts while *app* has this reason to be awake."""
    machine, address = app.cluster.plane.machine, app.service_ip()
    match cause:
        case "traffic":
            return load("new", address, machine=machine, rate=2)
        case "connection":
            return load("kept", address, machine=machine, rate=0.1)
        case "exec":
            return _session(app)
        case _:
            # For longer than the others, which are looked at before it, may take.
            app.get("/work/900")
            return nullcontext()


CAUSES = {
    # A packet that opens a connection is both. No pod's address, so kube-proxy masquerades it: as
    # the same, the control plane has but this one.
    "traffic": (
        rf"app: \d+ packets?, last from {CLIENT} to port 8080 ",
        {Kind.PACKETS, Kind.CONNECTION},
    ),
    "connection": (r"app: 1 established connection, last from ", {Kind.OPEN_CONNECTIONS}),
    "exec": (r"app: exec session: cat \(pid \d+\)", {Kind.EXEC}),
    "cpu": (r"app: cpu [\d.]+% of a core \(threshold 2%\)", {Kind.CPU}),
}


@pytest.mark.concurrent
def test_why_names_what_keeps_a_pod_awake(architect: Cluster, theme: str) -> None:
    # Looked at every two seconds, and kept awake by open connections. All at once: another reason
    # is written to a pod's condition at some distance from the last one.
    annotations = {names.IDLE: "20s", names.WAKE_ON: "connections"}
    with ExitStack() as stack:
        pods = {
            cause: stack.enter_context(
                workload(
                    architect,
                    theme,
                    f"talks-{cause}",
                    annotations=annotations,
                    container={"resources": MODEST},
                )
            )
            for cause in CAUSES
        }
        for cause, pod in pods.items():
            stack.enter_context(_cause(pod, cause))
        for cause, pod in pods.items():
            _is_awake_because(pod, *CAUSES[cause])


def _is_awake_because(pod: Workload, text: str, reasons: set[Kind]) -> None:
    eventually(lambda: re.search(text, pod.why()), what=f"why says {text!r}")
    wanted = {("False", reason.value) for reason in reasons}
    eventually(lambda: pod.asleep_reason()[:2] in wanted, what=f"condition {wanted}")


@pytest.mark.concurrent
def test_a_warm_up_keeps_a_pod_awake_and_is_named(architect: Cluster, theme: str) -> None:
    annotations = {names.IDLE: "2s", names.WARMUP: "30m"}
    with bare_pod(architect, theme, "warm", annotations=annotations) as pod:
        eventually(lambda: re.search(r"warm-up: .* left", pod.why()), what="why says warm-up")
        assert pod.state() == "awake"
