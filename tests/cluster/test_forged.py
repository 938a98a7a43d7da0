"""What a user writes where only Architect writes: taken away, put right, or of no use."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from architect.api import names
from lab.cluster import Cluster
from support.workloads import Workload, eventually, workload

pytestmark = pytest.mark.concurrent

LIMITS = {
    "requests": {"cpu": "20m", "memory": "32Mi"},
    "limits": {"cpu": "200m", "memory": "128Mi"},
}
STATUS = names.STATUS_LABEL_PREFIX


@pytest.fixture(scope="module")
def app(architect: Cluster, theme: str) -> Iterator[Workload]:
    with workload(architect, theme, "forged", container={"resources": LIMITS}) as made:
        yield made


def annotate(app: Workload, key: str, value: str | None) -> None:
    words = f"{key}-" if value is None else f"{key}={value}"
    app.kubectl("annotate", "pod", app.pod_name(), words, "--overwrite")


def test_what_a_pod_brings_along_is_taken_away_when_it_is_created(
    architect: Cluster, theme: str
) -> None:
    forged = {
        names.POLICY: '{"version":1,"containers":{"app":{"idle_seconds":1.0}}}',
        names.ORIGINAL_REQUESTS: '{"app":{"cpu":"64"}}',
    }
    pod: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "brings",
            "annotations": forged,
            "labels": {f"{STATUS}app": names.STATUS_SCALED_DOWN, f"{STATUS}x": "y", "app": "z"},
        },
        "spec": {"containers": [{"name": "app", "image": "localhost/py:3"}]},
    }
    done = subprocess.run(
        [
            *(architect.kubectl_program, "-n", theme, "create", "-f", "-"),
            *("--dry-run=server", "-o", "json"),
        ],
        env=architect.client_environment(),
        input=json.dumps(pod),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    found = json.loads(done.stdout)["metadata"]
    assert not forged.keys() & found.get("annotations", {}).keys()
    assert found["labels"] == {"app": "z"}
    assert f"{names.POLICY} is written by Architect alone and was removed" in done.stderr


def test_forged_labels_of_a_running_pod_are_put_right(app: Workload) -> None:
    forged = f"{STATUS}app={names.STATUS_SCALED_DOWN}", f"{STATUS}nobody=RUNNING"
    app.kubectl("label", "pod", app.pod_name(), *forged, "--overwrite")
    eventually(
        lambda: app.labels() == {"app": names.STATUS_RUNNING}, what="the labels to be true again"
    )
    assert app.state() == "awake"


def test_a_forged_note_of_requests_gives_nothing_that_kubernetes_would_not(app: Workload) -> None:
    """The daemon gives back what the note says, and the API server judges that as any resize."""
    forged = '{"app":{"cpu":"64","memory":"1Ti"},"x":{"cpu":"9"}}'
    # Of one that is awake there is nothing to be given back.
    annotate(app, names.ORIGINAL_REQUESTS, forged)
    eventually(
        lambda: names.ORIGINAL_REQUESTS not in app.pod()["metadata"]["annotations"],
        what="the note is gone",
    )
    assert app.requests() == LIMITS["requests"]
    low = {"cpu": "1m", "memory": "1Ki"}
    app.sleep()
    eventually(lambda: app.requests() == low, what="requests are lowered")
    annotate(app, names.ORIGINAL_REQUESTS, forged)
    assert app.get()
    said = eventually(lambda: app.events(names.EVENT_RESIZE_PENDING), what="the refusal told")
    assert "must be less than or equal to" in said[0]
    assert app.requests() == low
    annotate(app, names.ORIGINAL_REQUESTS, json.dumps({"app": LIMITS["requests"]}))
    eventually(lambda: app.requests() == LIMITS["requests"], what="its own requests back")


def test_a_forged_policy_is_told_of_and_keeps_no_pod_from_waking(app: Workload) -> None:
    """The runtime has the policy with which the pod was created."""
    before = app.get()["identity"]
    policy = app.pod()["metadata"]["annotations"][names.POLICY]
    app.sleep()
    annotate(app, names.POLICY, '{"version":1,"containers":{"app":{"idle_seconds":"../../x"}}}')
    assert app.get()["identity"] == before
    assert app.state() == "awake"
    annotate(app, names.POLICY, policy)
