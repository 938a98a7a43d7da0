"""A node's pods sleep and wake by the node alone; what they did is true in the API afterwards."""

from __future__ import annotations

import json

import pytest

from architect.api import names
from lab import errors
from lab.cluster import Cluster
from support import parts
from support.tiers import sized
from support.workloads import (
    DEADLINE_SECONDS,
    Workload,
    answer_of,
    ask_runtime,
    eventually,
    try_to_sleep,
    wait_for_service,
    workload,
)

WEBHOOK = "architect-webhook"
ROLLOUT_SECONDS = round(DEADLINE_SECONDS)


@pytest.mark.timeout(900)
def test_pods_wake_while_api_server_daemon_operator_and_webhook_are_gone(
    architect: Cluster, theme: str
) -> None:
    with (
        workload(architect, theme, "sleeper", mebibytes=32) as sleeper,
        workload(architect, theme, "waker") as waker,
    ):
        # Before anybody has slept: what a wake gives back takes a moment to be seen.
        before = {app.name: app.requests() for app in (sleeper, waker)}
        waker.sleep()  # it can
        asleep, awake = sleeper.get("/digest"), waker.get()
        addresses = {app.name: app.service_ip() for app in (sleeper, waker)}
        node, uid = waker.node(), waker.uid()
        sleeper.sleep()
        eventually(lambda: sleeper.requests()["memory"] == "1Ki", what="requests are lowered")
        eventually(sleeper.checkpoint, what="a Checkpoint object stands for the image")
        with parts.without_parts(architect):
            architect.api_server.stop()
            try:
                found = sleeper.get("/digest", host=addresses["sleeper"])
                assert found["identity"] == asleep["identity"]
                assert found["digest"] == asleep["digest"]
                # And the other way round: it falls asleep, unseen by all who would say so.
                eventually(
                    lambda: try_to_sleep(lambda: ask_runtime(node, "sleep", uid)),
                    what="it falls asleep",
                )
            finally:
                architect.api_server.start()
                eventually(architect.api.ready, what="the API server is back")
        _is_told_as_awake(sleeper, requests=before["sleeper"])
        _is_told_as_asleep(waker)
        # Its node was silent for a while: Kubernetes may have taken its pods for not ready.
        assert waker.get_when_reachable()["identity"] == awake["identity"]
        _is_told_as_awake(waker, requests=before["waker"])
        assert sleeper.restarts() == waker.restarts() == 0


def _is_told_as_awake(app: Workload, *, requests: dict[str, str]) -> None:
    eventually(lambda: app.labels() == {"app": names.STATUS_RUNNING}, what="label RUNNING")
    try:
        eventually(lambda: app.requests() == requests, what="requests are back")
    except AssertionError as error:
        # kubelet and the daemon both have a hand in it: the pod's status says whose turn it is.
        status = json.dumps({"spec": app.pod()["spec"]["containers"], **app.pod()["status"]})
        raise AssertionError(f"{error}\nwanted {requests}\n{status}") from error
    eventually(lambda: app.checkpoint() is None, what="no Checkpoint object is left")
    eventually(lambda: app.asleep_reason()[0] == "False", what="condition: not asleep")
    eventually(
        lambda: names.ORIGINAL_REQUESTS not in app.pod()["metadata"]["annotations"],
        what="the note of the originals is gone",
    )


def _is_told_as_asleep(app: Workload) -> None:
    eventually(lambda: app.labels() == {"app": names.STATUS_SCALED_DOWN}, what="label SCALED_DOWN")
    eventually(lambda: app.requests()["memory"] == "1Ki", what="requests are lowered")
    eventually(app.checkpoint, what="a Checkpoint object stands for the image")
    eventually(lambda: app.asleep_reason()[0] == "True", what="condition: asleep")


@pytest.mark.parametrize("part", sized(["kubelet"], ["containerd", "kubelet"]))
def test_a_sleeping_pod_outlives_a_restart_of(architect: Cluster, theme: str, part: str) -> None:
    """As on a node whose packages are upgraded: nobody wakes, nothing is restarted."""
    with workload(architect, theme, part) as app:
        before = app.get()
        app.sleep()
        since = app.status()["since"]
        service = {"containerd": app.node().containerd, "kubelet": app.node().kubelet}[part]
        old = service.pid
        service.restart()
        eventually(lambda: service.pid not in (None, old), what=f"{part} runs again")
        eventually(lambda: architect.status()["nodes"][app.node().name], what="the node is Ready")
        assert app.status()["since"] == since
        # Through the restarted part, which must find the container as it left it.
        eventually(lambda: _exec_works(app), what="exec works again")
        # A kubelet that begins calls no container ready before its first probe, whatever runs it.
        assert app.get_itself()["identity"] == before["identity"]
        assert app.get_when_reachable()["identity"] == before["identity"]
        assert app.restarts() == 0


def _exec_works(app: Workload) -> bool:
    try:
        app.kubectl("exec", f"deploy/{app.name}", "--", "true")
    except errors.CommandFailed as error:
        print(error)  # kubelet knows its pods a moment after it runs
        return False
    return True


def test_a_request_waits_while_keeper_and_warden_are_both_gone(
    architect: Cluster, theme: str
) -> None:
    """What comes to a sleeping pod is dropped, not refused, until somebody starts them again."""
    with workload(architect, theme, "orphan") as app:
        identity = app.get()["identity"]
        node = app.node()
        app.sleep()
        parts.kill_keeper(node, with_warden=True)
        with app.pending_request() as request:
            eventually(lambda: parts.keeper_answers(node), what="the daemon has started them")
        assert answer_of(request)["identity"] == identity
        assert app.restarts() == 0


def test_a_pod_created_without_the_webhook_runs_and_the_operator_tells_the_remedy(
    architect: Cluster, theme: str
) -> None:
    replicas = int(
        architect.kubectl(
            *("-n", "architect", "get", "deployment", WEBHOOK, "-o", "jsonpath={.spec.replicas}")
        )
    )
    parts.scale(architect, WEBHOOK, 0)
    try:
        # One that ends answers until the last moment.
        eventually(lambda: not parts.pods(architect, "webhook"), what="no webhook is left")
        with workload(architect, theme, "late") as app:
            assert app.pod()["spec"].get("runtimeClassName") is None
            assert app.get()["identity"]
            said = eventually(lambda: app.events("Unmanaged"), what="event Unmanaged")
            assert "NotAdmitted" in said[0]
            command = f"kubectl rollout restart -n {theme} deployment/late"
            assert command in said[0]
            parts.scale(architect, WEBHOOK, replicas)
            eventually(lambda: _ready_replicas(architect) == replicas, what="the webhook is back")
            eventually(lambda: parts.webhook_answers(architect), what="it is asked again")
            old = app.uid()
            app.kubectl("rollout", "restart", "deployment/late")
            app.kubectl("rollout", "status", "deployment/late", f"--timeout={ROLLOUT_SECONDS}s")
            eventually(lambda: app.uid() != old and app.is_ready(), what="the new pod stands alone")
            assert app.pod()["spec"]["runtimeClassName"] == names.RUNTIME_CLASS
            wait_for_service(architect.plane.machine, app.service_ip())
            identity = app.get()["identity"]
            app.sleep()
            assert app.get()["identity"] == identity
    finally:
        parts.scale(architect, WEBHOOK, replicas)
        parts.wait_until_ready(architect)


def _ready_replicas(cluster: Cluster) -> int:
    said = cluster.kubectl("-n", "architect", "get", "deployment", WEBHOOK, "-o", "json")
    return int(json.loads(said)["status"].get("readyReplicas", 0))
