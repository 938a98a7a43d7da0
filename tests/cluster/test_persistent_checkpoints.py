"""A warm pod is saved while it runs; as many as may start from it have its memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from architect.api import names
from lab.cluster import Cluster
from support import moves
from support.moves import Pod
from support.objectstore import in_store
from support.persistent import (
    allow,
    ask,
    condition,
    saved,
    start_from,
    starts_fresh_without_the_right,
)
from support.tiers import sized
from support.workloads import Workload, eventually, workload

pytestmark = [pytest.mark.timeout(900), pytest.mark.concurrent]

MIB = 24
STARTED = sized(3, 10)


@contextmanager
def _warm(cluster: Cluster, namespace: str, name: str) -> Iterator[tuple[Workload, Pod, str]]:
    with workload(cluster, namespace, name, mebibytes=MIB) as app:
        (pod,) = moves.ready(app)
        yield app, pod, str(moves.answer(app, pod)["identity"])


def test_replicas_start_with_the_memory_of_one(architect: Cluster, namespace: str) -> None:
    with _warm(architect, namespace, "model") as (app, pod, identity):
        made = saved(app)
        assert moves.answer(app, pod)["identity"] == identity, "the saved pod goes on"
        assert app.restarts() == 0
        assert app.state() == "awake"
        status = made["status"]
        assert status["podRef"]["uid"] == pod["metadata"]["uid"]
        assert status["bytes"] > MIB << 20
        uid = made["metadata"]["uid"]
        assert in_store(architect, uid)
        allow(app)
        start_from(app, replicas=STARTED)
        new = moves.ready(app, STARTED, apart_from=[pod], seconds=240)
        assert moves.identities(app, new) == [identity] * STARTED
        # Later ones as well: it restores many.
        app.kubectl("scale", f"deploy/{app.name}", f"--replicas={STARTED + 1}")
        more = moves.ready(app, STARTED + 1, apart_from=[pod], seconds=240)
        assert moves.identities(app, more) == [identity] * (STARTED + 1)
        for one in more:
            (told,) = eventually(
                lambda one=one: moves.events(app, one, names.EVENT_RESTORED),  # type: ignore[misc]
                what="event Restored",
            )
            assert pod["metadata"]["name"] in told
        claims = [
            c
            for c in app.get_json("checkpoints.architect.dev")["items"]
            if c["spec"].get("startFrom", {}).get("uid") == uid
        ]
        assert len({c["status"]["claimedBy"]["uid"] for c in claims}) == len(claims)
        assert len({c["status"]["claimedBy"]["publicKey"] for c in claims}) == len(claims)
        used = eventually(
            lambda: app.get_json("persistentcheckpoints.architect.dev", "warm")["status"].get(
                "lastUsedAt"
            ),
            what="it is told when it was used",
        )
        assert used >= status["capturedAt"]
        said = app.kubectl("describe", "persistentcheckpoint", "warm")
        assert set(status["durations"]) == {"freeze", "capture", "upload"}
        for text in (
            f"the pod was copied on node {pod['spec']['nodeName']}, and goes on",
            "pods can start from what lies in bucket",
            *(pod["metadata"]["name"], status["size"], status["capturedAt"], used),
            *status["durations"].values(),
        ):
            assert text in said, text
        app.kubectl("delete", "persistentcheckpoint", "warm")
        eventually(lambda: not in_store(architect, uid), what="the data goes with the object")


def test_without_the_right_pods_start_fresh_and_say_so(architect: Cluster, namespace: str) -> None:
    with _warm(architect, namespace, "private") as (app, pod, _):
        starts_fresh_without_the_right(app, pod)


@pytest.mark.long
def test_another_template_does_not_get_it(architect: Cluster, namespace: str) -> None:
    with _warm(architect, namespace, "changed") as (app, _, identity):
        saved(app)
        allow(app)
        app.kubectl("set", "env", f"deploy/{app.name}", "COLOUR=blue")
        start_from(app, replicas=1)

        def newest() -> Pod | None:
            living = [p for p in moves.pods(app) if moves.is_ready(p)]
            asked = [p for p in living if names.START_FROM in p["metadata"]["annotations"]]
            return asked[0] if len(living) == 1 and asked else None

        new: Pod = eventually(newest, what="the rollout is over", seconds=240)
        assert moves.answer(app, new)["identity"] != identity
        (told,) = eventually(
            lambda: moves.events(app, new, names.EVENT_RESTORE_FAILED), what="event RestoreFailed"
        )
        assert "TemplateDiffers" in told
        assert "env" in told


@pytest.mark.long
def test_a_pod_that_is_not_there_yet_is_waited_for(architect: Cluster, namespace: str) -> None:
    with workload(architect, namespace, "early", mebibytes=MIB) as app:
        app.kubectl("scale", "deploy/early", "--replicas=0")
        # Nor one that ends, which might be taken for it.
        eventually(
            lambda: not app.get_json("pods", labels=f"app={app.name}")["items"],
            what="there is no pod",
        )
        ask(app)

        def accepted() -> str:
            found = app.get_json("persistentcheckpoints.architect.dev", "warm")
            return condition(found, "Accepted")["status"]

        eventually(lambda: accepted() == "Unknown", what="it waits for a pod")
        app.kubectl("scale", "deploy/early", "--replicas=1")
        (pod,) = moves.ready(app)
        made = saved(app)
        assert made["status"]["podRef"]["uid"] == pod["metadata"]["uid"]
