"""A node loses its power and comes back with its disk: who slept, sleeps on with its memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import pytest

from architect.api import names
from lab import release
from lab.cluster import Cluster
from support import parts, truth
from support.truth import Kind, Plan, Subject, Trio
from support.workloads import eventually, memory_server

pytestmark = [pytest.mark.timeout(900), pytest.mark.long]

GO_MOUNT: Final = {"name": "go", "mountPath": "/go"}
CODE_MOUNT: Final = {"name": "code", "mountPath": "/app"}
KEEP: Final = "echo kept > /var/tmp/layer; echo kept > /go/volume"
PORTS: Final = (8080, 8081)
SHARE: Final = "echo lost > /dev/shm/file"


def _server(name: str = "app", port: int = 8080) -> dict[str, Any]:
    return memory_server(name, port=port, volumeMounts=[CODE_MOUNT, GO_MOUNT])


@pytest.fixture(scope="module")
def pods(architect: Cluster, theme: str) -> Iterator[dict[str, Trio]]:
    spec = {"nodeName": architect.nodes[-1].name, "terminationGracePeriodSeconds": 5}
    plans = {
        "apps": Plan(containers=[_server(), _server("other", 8081)], spec=spec),
        "sharing": Plan(containers=[_server()], spec=spec, kinds=[Kind.RUNC, Kind.SLEPT]),
    }
    count = len(architect.nodes)
    try:
        with truth.running(architect, theme, plans) as made:
            yield made
    finally:
        if len(architect.nodes) < count:  # it did not boot again
            architect.up(count)
            release.install(architect)


def _identities(pod: Subject) -> list[str]:
    """Return what tells the memory of each container from any other."""
    count = len(pod.pod()["spec"]["containers"])
    return [str(_ask(pod, port)["identity"]) for port in PORTS[:count]]


def _ask(pod: Subject, port: int) -> dict[str, Any]:
    return pod.get(host=pod.pod_ip(), port=port)


def _ended(pod: Subject) -> list[tuple[int, dict[str, Any]]]:
    """Return of each container how often it was started again, and how it had ended."""
    return [
        (status["restartCount"], truth.told(status["lastState"]["terminated"]))
        for status in pod.pod()["status"]["containerStatuses"]
    ]


@truth.behaviour(
    "a node is rebooted (all processes killed, its disk kept): the same pods run again, each "
    "container started once more",
    slept="and goes on sleeping: with the first packet its memory is back, and its files; its "
    "connections have ended",
)
@truth.behaviour(
    "files in memory (`/dev/shm`, emptyDir of `medium: Memory`) are gone after a reboot",
    slept="and the memory that knows them with them: the pod starts fresh, event `RestoreFailed` "
    "(`FilesLost`)",
)
def test_a_node_is_rebooted(architect: Cluster, pods: dict[str, Trio]) -> None:
    apps, sharing = pods["apps"], pods["sharing"]
    node = architect.nodes[-1]
    for trio in (apps, sharing):
        trio.each(Subject.run, "app", "sh", "-c", KEEP)
    sharing.each(Subject.run, "app", "sh", "-c", SHARE)
    before = apps.each(_identities)
    shared = sharing.each(_identities)
    uids = apps.each(Subject.uid)
    for trio in (apps, sharing):
        trio.sleep()
    eventually(
        lambda: set(apps.slept.labels().values()) == {names.STATUS_SCALED_DOWN},
        what="labels of sleep",
    )
    architect.reboot_node(node.name)
    parts.wait_until_ready(architect)
    for trio in (apps, sharing):
        trio.each(_until_started_again)
    # Everybody was started again, and ended in the same way.
    assert apps.each(Subject.uid) == uids
    ended = truth.alike(apps.each(_ended))
    assert [count for count, _ in ended] == [1, 1]
    # Who slept sleeps on, and is told as such.
    assert apps.slept.state() == "asleep"
    eventually(lambda: apps.slept.asleep_reason()[0] == "True", what="condition Asleep")
    eventually(
        lambda: set(apps.slept.labels().values()) == {names.STATUS_SCALED_DOWN},
        what="labels of sleep",
    )
    after = apps.each(_identities)
    assert after[Kind.SLEPT] == before[Kind.SLEPT]
    assert apps.slept.state() == "awake"
    for kind in (Kind.RUNC, Kind.MANAGED):
        assert not set(after[kind]) & set(before[kind]), "who ran has started anew"
    # The files that its memory knows; who starts anew has an image's.
    look = "cat /var/tmp/layer 2>/dev/null || echo none; cat /go/volume"
    files = apps.each(Subject.run, "app", "sh", "-c", look)
    truth.check(files, "none\nkept\n", slept="kept\nkept\n")
    # It is a pod as any other.
    apps.slept.sleep()
    assert _identities(apps.slept) == before[Kind.SLEPT]
    # What was in memory alone is gone, and that is no silent loss.
    fresh = sharing.each(_identities)
    assert all(fresh[kind] != shared[kind] for kind in fresh)
    said = eventually(lambda: sharing.slept.events("RestoreFailed"), what="event RestoreFailed")
    assert "FilesLost" in said[0] and "/dev/shm" in said[0], said


def _until_started_again(pod: Subject) -> None:
    def started() -> bool:
        statuses = pod.pod()["status"]["containerStatuses"]
        return all(s["restartCount"] == 1 for s in statuses) and pod.is_ready()

    eventually(started, what=f"{pod.name} is started again", seconds=240)
